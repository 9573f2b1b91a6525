"""Where a benchmark's results come from: the command, the commit, the device and the versions, the same in every results file."""

import platform
from importlib.metadata import version
from typing import Any

from command_line import command_line

from paceline.tune.environment import machine, package_versions


def provenance(script: str, *packages: str) -> dict[str, Any]:
    """Return command, commit, device and versions of a run of a script of this folder.

    Without the name of a machine, the build of its kernel, or a place on it. `packages` are distributions whose versions matter
    beside those that every run keeps.
    """
    return origin(command_line(script), *packages)


def origin(command: str, *packages: str) -> dict[str, Any]:
    """Return the same of a run that is begun by another command, such as a target of make."""
    here = machine()
    return {
        "command": command,
        "commit": here.pop("commit"),
        "device": {**here, "system": f"{platform.system()} {platform.machine()}"},
        "versions": {**package_versions(), **{name: version(name) for name in packages}},
    }
