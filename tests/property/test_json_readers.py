"""Whatever JSON stands in a file, a reader answers with a sentence of its own kind: no traceback, and no number lost."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.control import LookupTable
from paceline.control.learned.artifact import read_chooser
from paceline.errors import PacelineError
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.json_document import parsed_json
from paceline.profiles import read_profile
from paceline.schedule.step_log import read_step_log
from paceline.schedule.step_time import LinearStepTime
from paceline.tune import read_trace

READERS = {
    "table": ("table.json", lambda folder: LookupTable.load(folder / "table.json")),
    "estimator": ("estimator.json", NetworkEstimator.load),
    "bounds": ("bounds.json", load_bounds),
    "learned controller": ("controller.json", read_chooser),
    "step-time model": ("model.json", lambda folder: LinearStepTime.load(folder / "model.json")),
    "step log": ("steps.jsonl", lambda folder: read_step_log(folder / "steps.jsonl")),
    "trace": ("trace.jsonl", lambda folder: read_trace(folder / "trace.jsonl")),
    "core-exp file": ("doc-qa/doc-qa_imgsizetier-low_crops2_topk4_blocks8.json", read_profile),
    "profile": ("profile.json", read_profile),
}
HOSTILE = {
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a number of 400 digits": '{"format": ' + "9" * 400 + "}",
    "a number of 5,000 digits": '{"metadata": ' + "9" * 5000 + "}",
    "a float beyond all": '{"metadata": 1e999}',
    "not a number": '{"metadata": NaN}',
    "null": "null",
    "nothing": "",
    "a torn text": '{"format": "pace',
    "bytes that are no text": "\udcff\udcfe",
}


def refused(reader: str, folder: Path, text: str) -> None:
    name, read = READERS[reader]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PacelineError) as raised:
        read(folder)
    assert 20 < len(str(raised.value)) < 2000


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.filterwarnings("ignore:.*torn line")  # which is what a log that ends in the middle of a line is told to be
def test_hostile_json_is_a_sentence(reader: str, text: str, tmp_path: Path) -> None:
    refused(reader, tmp_path, HOSTILE[text])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=VALUES, reader=st.sampled_from(sorted(READERS)))
def test_any_json_value_is_a_sentence(value: object, reader: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    refused(reader, tmp_path_factory.mktemp("any"), json.dumps(value))


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_whole_numbers_of_64_bits_are_read_as_they_are(number: int) -> None:
    assert parsed_json(f"[{number}]") == [number]


@pytest.mark.parametrize("number", [2**63, -(2**63), 10**400])
def test_larger_whole_numbers_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="too large"):
        parsed_json(str(number) if number < 10**30 else "1" + "0" * 400)
