"""A plugin of `make test-oldest`: its tests imported every package of constraints-oldest.txt, in the version that stands there.

Not here: which versions those are (tests/contract/test_requirements.py).
"""

import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LIST = Path(__file__).parents[1] / "constraints-oldest.txt"


def tried() -> dict[str, str]:
    """Return the version of every package of the list, by its name."""
    lines = [Requirement(line) for line in LIST.read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in lines}


def imported() -> set[str]:
    """Return the packages of which this process has imported a module, those that share a namespace by their own modules."""
    top = {name.split(".")[0] for name in sys.modules}
    names = {name for module, names in packages_distributions().items() if module in top for name in names}
    return {canonicalize_name(name) for name in names}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session where a package of the list is here in another version, or was imported by no test."""
    wrong = [f"{name} is {version(name)} instead of {each}" for name, each in tried().items() if version(name) != each]
    wrong += [f"{name} was imported by no test" for name in sorted(set(tried()) - imported())]
    for each in wrong:
        session.config.get_terminal_writer().line(f"\n{each}")
    if wrong and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
