"""What a run of hours is held to would be found where it is not so."""

from collections import Counter
from copy import deepcopy
from itertools import count
from xml.etree import ElementTree

from fault_table import served, table
from soak_chart import write_chart
from soak_figures import GAVE_UP, LOADS, MOST_GROWTH_MIB, Window, complaints, summary

RESTING = {"memory_mib": 300.0, "descriptors": 9, "threads": 5}


def windows(growth_mib: float = 0.0, status: str = "200", kept: int = 8) -> list[Window]:
    seconds = count(step=15.0)
    return [
        Window(
            load=load,
            from_seconds=next(seconds),
            sent=10,
            statuses=Counter({status: 10}),
            first_ms=[30.0 + number % 7 for number in range(10)],
            total_ms=[40.0] * 10,
            promised=8,
            kept=kept,
            process={**RESTING, "memory_mib": 300.0 + place * growth_mib},
        )
        for load in LOADS
        for place in range(9)
    ]


def test_a_run_that_keeps_everything_has_no_complaint():
    assert complaints(windows(), [RESTING] * 3, 0) == []
    held = summary(windows(), LOADS[0])
    assert held["promises_kept"]["n"] == 72 and held["median_first_ms_of_the_last_third_over_the_first"] == 1.0


def test_what_must_not_be_is_named():
    more = RESTING | {"descriptors": 10, "threads": 6}
    found = complaints(windows(), [RESTING, RESTING, more], 0)
    assert found == ["10 descriptors at rest, 9 before", "6 threads at rest, 5 before"]
    assert complaints(windows(), [RESTING, more, more], 0) == [], "threads that the first load starts"
    [first, _] = complaints(windows(growth_mib=MOST_GROWTH_MIB / 2), [], 0)
    assert first.startswith("memory at 80% grew")
    assert complaints(windows(status="500"), [], 0) == ["90 answers at 80% were 500", "90 answers at 130% were 500"]
    assert complaints(windows(status=GAVE_UP), [], 0) == ["90 answers at 80% were gave up"], (
        "130 % is more than can be answered"
    )
    assert complaints(windows(), [], 1) == ["the server ended with 1"]
    assert complaints(windows(kept=7), [], 0) == [
        f"87.50% of 72 promises at {load:.0%} were kept; expected 95%" for load in LOADS
    ]


def test_a_window_is_written_anew_until_its_last_answer_is_there():
    [window, *_] = windows()
    window.sent = 11
    before = window.document()
    window.statuses["200"] += 1
    assert before["answers"] == {"200": 10} and window.document()["answers"] == {"200": 11}
    assert window.document() is window.document(), "a run of hours writes each of its windows once"


def test_the_chart_of_a_run_that_was_stopped_is_drawn(tmp_path):
    some = [each.document() for each in windows()]
    some[4]["first_ms"] = None  # a window without an answer
    for shown in (some, some[:1]):
        write_chart({"served": {"windows": deepcopy(shown)}}, tmp_path / "soak.svg")
        drawn = ElementTree.parse(tmp_path / "soak.svg")
        assert len(drawn.findall("{*}polyline")) == 9


def test_a_run_is_told_in_rows_and_one_that_was_stopped_too():
    for some, whole in ((windows(), True), (windows()[:4], False)):
        document = {
            "whole": whole,
            "minutes": 30.0,
            "loads": {f"{load:.0%}": summary(some, load) for load in LOADS},
            "at_rest": [RESTING] * 3,
            "complaints": complaints(some, [RESTING] * 3, 0),
        }
        rows = served(document)
        assert [row[0][:10] for row in rows] == ["`soak.py`:"] * (2 if whole else 1) + ["the same, "]
        assert ("100.00 % (" in rows[0][2] and "90 requests (200: 90)" in rows[0][2]) or not whole
        assert rows[-1][2].endswith("complaints: none" if whole else "the run was stopped")


def test_the_table_of_what_stands_in_the_results_is_made():
    lines = table().splitlines()
    assert len(lines) > 8 and all(line.count(" | ") == 2 for line in lines if not line.startswith("|---"))
