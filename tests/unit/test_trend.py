from dataclasses import replace

import pytest
from trend import WATCHED, Version, Watched, at, fault_of, page


def watched(better, worst_ratio):
    return Watched(results="x", place=("a",), words="a figure", better=better, worst_ratio=worst_ratio)


def versions(*values):
    return [Version(commit=f"c{place}", date="2026-01-01", value=value) for place, value in enumerate(values)]


@pytest.mark.parametrize(
    ("better", "limit", "values", "fails"),
    [
        ("higher", 0.98, (0.90, 0.91), False),
        ("higher", 0.98, (0.90, 0.89), False),
        ("higher", 0.98, (0.90, 0.85), True),
        ("lower", 1.25, (2.0, 2.4), False),
        ("lower", 1.25, (2.0, 2.6), True),
        ("lower", 1.25, (2.0, 1.0), False),
        ("lower", 1.25, (2.0,), False),
        ("lower", 1.25, (), False),
    ],
)
def test_a_figure_fails_where_it_is_worse_than_is_let_pass(better, limit, values, fails):
    fault = fault_of(watched(better, limit), versions(*values))
    assert (fault is not None) == fails
    if fault:
        assert f"c{len(values) - 1}" in fault and f"{values[-1]:.4g}" in fault


def test_a_figure_that_is_measured_in_another_way_begins_anew():
    before = Version(commit="a", date="2026-01-01", value=1.0, command="python x.py --few")
    now = Version(commit="b", date="2026-01-02", value=0.5, command="python x.py --many")
    assert fault_of(watched("higher", 0.98), [before, now]) is None
    assert "measured anew" in page([(watched("higher", 0.98), [before, now])])
    assert fault_of(watched("higher", 0.98), [before, replace(now, command=before.command)]) is not None


def test_a_number_is_found_at_its_place_and_nothing_else_is_one():
    assert at({"a": [{"b": 2}]}, ("a", 0, "b")) == 2.0
    loads = {"loads": [{"share": 0.5, "gain": 1}, {"share": 1.0, "gain": 2}]}
    assert at(loads, ("loads", ("share", 1.0), "gain")) == 2.0
    with pytest.raises(KeyError, match="share 3"):
        at(loads, ("loads", ("share", 3.0), "gain"))
    for place in (("a",), ("a", 0)):
        with pytest.raises(TypeError):
            at({"a": [{"b": 2}]}, place)
    with pytest.raises(TypeError):
        at({"a": True}, ("a",))


def test_the_page_has_a_row_a_version():
    text = page([(watched("higher", 0.9), versions(1.0, 2.0))])
    assert "| `c0` | 2026-01-01 | 1 |  |" in text and "| `c1` | 2026-01-01 | 2 | 2.000 |" in text
    assert "Not measured yet." in page([(watched("higher", 0.9), [])])


def test_every_watched_figure_stands_in_its_results_or_is_yet_to_be_measured():
    import json
    from pathlib import Path

    results = Path(__file__).parents[2] / "benchmarks" / "results"
    there = [each for each in WATCHED if (results / f"{each.results}.json").exists()]
    assert len(there) >= 3
    for each in there:
        at(json.loads((results / f"{each.results}.json").read_text()), each.place)
