import json
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import PacelineWarning, StepLogError
from paceline.schedule import PrefillChunk, StepRecord, read_step_log

COUNTS = st.integers(0, 10**9)
SECONDS = st.floats(0, 1e9)
NAMES = st.text(min_size=1, max_size=12)
RECORDS = st.builds(
    StepRecord,
    step=COUNTS,
    started_seconds=SECONDS,
    execute_ms=SECONDS,
    plan_us=SECONDS,
    schedule_us=SECONDS,
    predicted_ms=st.none() | SECONDS,
    token_budget=COUNTS,
    decode_tokens=COUNTS,
    decode_context_tokens=COUNTS,
    chunks=st.dictionaries(
        NAMES,
        st.builds(PrefillChunk, tokens=st.integers(1, 9000), context_tokens=st.integers(0, 10**6)),
        max_size=5,
    ),
    decoding=st.lists(NAMES, max_size=4).map(tuple),
    waiting=COUNTS,
    running=COUNTS,
    preempted=st.lists(NAMES, max_size=4).map(tuple),
    engine=st.integers(0, 64),
    run=st.none() | NAMES,
    used_blocks=st.none() | COUNTS,
)
RECORD = StepRecord(
    step=3,
    started_seconds=1.5,
    execute_ms=20.0,
    plan_us=30.0,
    schedule_us=200.0,
    predicted_ms=None,
    token_budget=128,
    decode_tokens=2,
    decode_context_tokens=50,
    chunks={"a": PrefillChunk(tokens=10, context_tokens=4), "b": PrefillChunk(tokens=6, context_tokens=0)},
    decoding=("c", "d"),
    waiting=7,
    running=4,
    preempted=("e",),
)


@given(RECORDS)
def test_a_line_reads_back_as_its_record(record: StepRecord) -> None:
    line = record.line()
    assert "\n" not in line
    assert StepRecord.from_line(line) == record


def test_the_line_has_the_fields_that_readers_know() -> None:
    assert json.loads(RECORD.line()) == {
        "step": 3,
        "started_seconds": 1.5,
        "execute_ms": 20.0,
        "plan_us": 30.0,
        "schedule_us": 200.0,
        "predicted_ms": None,
        "token_budget": 128,
        "decode_tokens": 2,
        "decode_context_tokens": 50,
        "prefill_tokens": 16,
        "prefill_attention_tokens": 10 * (4 + 5.0) + 6 * 3.0,
        "chunks": {"a": [10, 4], "b": [6, 0]},
        "decoding": ["c", "d"],
        "waiting": 7,
        "running": 4,
        "preempted": ["e"],
        "engine": 0,
        "run": None,
        "used_blocks": None,
    }


def test_keys_of_a_later_version_are_ignored() -> None:
    assert StepRecord.from_line(json.dumps({**json.loads(RECORD.line()), "kv_blocks": 5})) == RECORD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": None}, "step is None; expected a whole number"),
        ({"step": True}, "step is True"),
        ({"execute_ms": "20"}, "execute_ms is '20'; expected a number"),
        ({"execute_ms": -1.0}, "execute_ms is -1.0; expected a number of at least 0"),
        ({"execute_ms": float("nan")}, "execute_ms is nan"),
        ({"predicted_ms": float("inf")}, "predicted_ms is inf"),
        ({"chunks": [1]}, "chunks is .*; expected an object"),
        ({"chunks": {"a": [10]}}, r"chunks.a is \[10\]; expected \[tokens, context tokens\]"),
        ({"chunks": {"a": [10, -4]}}, "chunks.a is"),
        ({"chunks": {"a": 10}}, "chunks.a is 10; expected a list"),
        ({"decoding": [5]}, "a request id of decoding is 5; expected text"),
        ({"prefill_tokens": 17}, "prefill_tokens is 17; expected 16, as the chunks give"),
    ],
)
def test_fields_that_cannot_be_trusted_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StepLogError, match=message):
        StepRecord.from_line(json.dumps({**json.loads(RECORD.line()), **changes}))


@pytest.mark.parametrize(
    "name", [name for name in json.loads(RECORD.line()) if name not in ("engine", "run", "used_blocks")]
)
def test_a_missing_field_is_named(name: str) -> None:
    cells = json.loads(RECORD.line())
    del cells[name]
    with pytest.raises(StepLogError, match=f"field {name} is missing"):
        StepRecord.from_line(json.dumps(cells))


@given(st.text(max_size=40) | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")))
def test_any_other_text_is_refused_and_nothing_else_is_raised(text: str) -> None:
    with pytest.raises(StepLogError):
        StepRecord.from_line(text)


def test_a_line_of_an_earlier_version_is_of_the_only_engine() -> None:
    cells = json.loads(replace(RECORD, engine=3, run="5f").line())
    assert StepRecord.from_line(json.dumps(cells)).engine == 3
    del cells["engine"], cells["run"], cells["used_blocks"]
    assert StepRecord.from_line(json.dumps(cells)) == RECORD


def log_lines(count: int, *, engine: int = 0, run: str | None = None) -> list[str]:
    return [replace(RECORD, step=step, engine=engine, run=run).line() + "\n" for step in range(count)]


@given(st.integers(0, 10**6))
def test_a_log_cut_off_anywhere_keeps_its_whole_lines_and_counts_the_torn_one(position: int) -> None:
    lines = log_lines(3)
    text = "".join(lines)
    kept = text[: position % (len(text) + 1)]
    whole = [line for line in lines if line[:-1] in kept]
    torn = kept != "".join(lines)[: sum(map(len, whole))] and kept != "".join(whole)[:-1]
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = Path(directory) / "steps.jsonl"
        path.write_text(kept)
        if not whole:
            with pytest.raises(StepLogError, match="holds no step"):
                read_step_log(path)
        else:
            assert [record.step for record in read_step_log(path)] == list(range(len(whole)))
    assert [str(each.message).split(": ")[1] for each in caught] == [
        f"1 torn line is left out (line {len(whole) + 1})"
    ] * torn


def test_a_torn_line_within_a_log_is_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    first, second = log_lines(3, run="a"), log_lines(2, run="b")
    path.write_text("".join([*first, RECORD.line()[:57] + "\n", *second]))
    with pytest.warns(PacelineWarning, match=r"1 torn line is left out \(line 4\): an engine was killed") as caught:
        records = read_step_log(path)
    assert len(caught) == 1
    assert [(record.run, record.step) for record in records] == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]


def test_engines_that_write_one_log_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    pairs = zip(log_lines(3, engine=0, run="a"), log_lines(3, engine=1, run="b"), strict=True)
    path.write_text("".join(line for pair in pairs for line in pair))
    assert [(record.engine, record.step) for record in read_step_log(path)] == [
        (engine, step) for step in range(3) for engine in (0, 1)
    ]


def test_engines_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text("".join([*log_lines(3), *log_lines(2)]))
    with pytest.raises(
        StepLogError, match="line 4: step 0 of engine 0 stands after its step 2; expected.*split the file"
    ):
        read_step_log(path)


@pytest.mark.parametrize(
    "line",
    [
        RECORD.line().replace(":", ";", 1),  # damaged, not cut
        RECORD.line()[:40] + RECORD.line(),  # what earlier versions wrote after a torn line
        "[" * 100_000,
        RECORD.line().replace("20.0", str(10**400)),
        "",
    ],
)
def test_a_broken_line_is_named_with_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(RECORD.line() + "\n" + line + "\n" + RECORD.line() + "\n")
    with pytest.raises(StepLogError, match="steps.jsonl, line 2: "):
        read_step_log(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    with pytest.raises(StepLogError, match="cannot be read"):
        read_step_log(path)
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(StepLogError, match="cannot be read"):
        read_step_log(path)
