"""Every public function that takes a path takes a string too: by its annotation, and in fact."""

import importlib
import inspect
from pathlib import Path

import pytest

import paceline
from paceline import read_profile
from paceline.errors import PacelineError
from paceline.fit import build_lookup_table_from_core_exp
from paceline.profiles import import_profile, merge_profiles
from paceline.tune import aging_weights, read_trace, select_threshold

PACKAGES = ("paceline", "paceline.fit", "paceline.profiles", "paceline.report", "paceline.schedule", "paceline.tune")


def public_functions():
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            found = getattr(package, name)
            if inspect.isfunction(found):
                yield f"{package.__name__}.{name}", found
            elif inspect.isclass(found) and found.__module__.startswith("paceline"):
                methods = inspect.getmembers(found, lambda each: inspect.isfunction(each) or inspect.ismethod(each))
                yield from ((f"{package.__name__}.{name}.{own}", each) for own, each in methods if own[0] != "_")


@pytest.mark.parametrize(
    ("name", "function"), list(public_functions()), ids=lambda each: each if isinstance(each, str) else ""
)
def test_a_parameter_that_is_a_path_may_be_a_string(name, function):
    for parameter in inspect.signature(function).parameters.values():
        annotation = str(parameter.annotation)
        if "Path" in annotation:
            assert "str" in annotation, f"{name}({parameter.name}: {annotation})"


def test_a_trace_is_read_by_its_name_alone(tmp_path):
    """As docs/vllm-scheduler.md writes it."""
    path = tmp_path / "trace.csv"
    path.write_text("arrival_seconds,prompt_tokens,output_tokens\n0.5,10,3\n")
    assert read_trace(str(path)) == read_trace(path)


@pytest.mark.parametrize(
    "call",
    [
        lambda path: read_profile(path),
        lambda path: import_profile(path, f"{path}-out"),
        lambda path: merge_profiles([path], f"{path}-out"),
        lambda path: build_lookup_table_from_core_exp(path),
        lambda path: aging_weights(path),
        lambda path: select_threshold(path),
        lambda path: paceline.load_controller(path),
        lambda path: read_trace(path),
    ],
)
def test_a_string_that_names_nothing_is_a_sentence(tmp_path: Path, call):
    with pytest.raises(PacelineError, match="nothing-here"):
        call(str(tmp_path / "nothing-here"))
