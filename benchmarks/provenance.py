"""Where a benchmark's results come from: the command, the commit, the device and the versions, the same in every results file."""

import platform
from typing import Any

from command_line import command_line

from paceline.tune.environment import machine, package_versions


def provenance(script: str) -> dict[str, Any]:
    """Return command, commit, device and versions of a run of a script of this folder; no name of a machine, no place on it."""
    here = machine()
    return {
        "command": command_line(script),
        "commit": here.pop("commit"),
        "device": {**here, "system": f"{platform.system()} {platform.machine()}"},
        "versions": package_versions(),
    }
