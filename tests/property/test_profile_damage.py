"""Damaged profiles: the same data comes out, or an error that names the file; nothing is dropped or defaulted silently."""

import copy
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import provenance

from paceline.errors import PacelineError, ProfileConflictError, ProfileDataError
from paceline.profiles import SCHEMA, Profile, ProfileStore, import_profile, read_profile, write_core_exp
from paceline.profiles.fields import FIELDS, find_fault
from paceline.records import ProfileSample

Sample = dict[str, Any]
CORE_EXP_FIELDS = [name for name in SCHEMA if name not in ("dataset", "T_preprocess", "T_ttft", "T_other")]
STATED_TWICE = ("tier", "top_k", "num_active_blocks")  # a core-exp file tells the configuration in its head too
RUN = provenance()

times = st.floats(0, 1e6, allow_subnormal=False)
counts = st.integers(0, 2**31 - 1)
words = st.text(st.characters(codec="utf-8"), max_size=8)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | words
configurations = st.fixed_dictionaries(
    {
        "tier": st.sampled_from([None, "low", "medium", "high"]),
        "top_k": st.none() | st.integers(1, 64),
        "num_active_blocks": st.none() | st.integers(1, 64),
    }
)
measured = st.fixed_dictionaries(
    {
        "target_vision_tokens": st.none() | counts,
        "actual_vision_tokens": counts,
        "actual_text_tokens": counts,
        "output_tokens": counts,
        "accuracy": st.floats(0, 10),
        "pred": words,
        "metadata": st.dictionaries(words, scalars, max_size=3),
        "T_vision_total": times,
        "T_LLM_prefill": times,
        "T_LLM_decode": times,
        "T_decode_per_token": st.none() | times,
        "T_total": times,
    }
)
# values that some field refuses, of every kind that a damaged or foreign file may hold
strange = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        0.5,
        -0.5,
        1e999,
        -1e999,
        float("nan"),
        2**31,
        10**20,
        10**400,
        "",
        "12",
        "hgih",
        "high",
        [],
        {},
        [1],
        "\ud800",
    ]
)


@st.composite
def sample_lists(draw: st.DrawFn, *, at_least: int = 1) -> list[Sample]:
    """Samples of one configuration with different names."""
    configuration = draw(configurations)
    names = draw(st.lists(words.filter(bool), min_size=at_least, max_size=4, unique=True))
    return [{"sample_id": name, **configuration, **draw(measured)} for name in names]


def core_exp(samples: list[Sample]) -> dict[str, Any]:
    head = {name: samples[0][name] for name in STATED_TWICE}
    return {**head, "accuracy": 0, "num_samples": len(samples), "aggregate_stats": {}, "per_sample_results": samples}


def write_file(directory: Path, content: dict[str, Any] | bytes, name: str = "damaged.json") -> Path:
    path = directory / "text-vqa" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def write_journal(directory: Path, samples: list[Sample]) -> Path:
    with ProfileStore.open_or_create(directory, RUN, fsync=False) as store:
        for sample in samples:
            store.append(ProfileSample(dataset="text_vqa", **sample))
    return directory / "journal-rank0.jsonl"


def rows_of(profile: Profile) -> list[Sample]:
    rows = profile.samples.select(CORE_EXP_FIELDS).to_dicts()
    return [{**row, "metadata": json.loads(row["metadata"])} for row in rows]


def read_or_error(directory: Path) -> Profile | PacelineError:
    try:
        return read_profile(directory)
    except (ProfileDataError, ProfileConflictError) as error:
        return error


@settings(max_examples=60, deadline=None)
@given(sample_lists())
def test_round_trip_is_lossless(samples: list[Sample]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "source").mkdir()
        write_file(root / "source", core_exp(samples))
        read = read_profile(root / "source")
        assert rows_of(read) == samples
        import_profile(root / "source", root / "store")
        stored = read_profile(root / "store")
        assert stored.samples.equals(read.samples)
        (root / "store" / "samples.parquet").unlink()
        assert read_profile(root / "store").samples.equals(read.samples), "the journals are the truth"
        write_core_exp(stored.samples, root / "again")
        written = json.loads(next((root / "again" / "text-vqa").iterdir()).read_text())
        assert written["per_sample_results"] == samples
        assert written["num_samples"] == len(samples)


@settings(max_examples=120, deadline=None)
@given(sample_lists(), st.data())
def test_a_strange_value_is_kept_whole_or_named(samples: list[Sample], data: st.DataObject) -> None:
    """A reader accepts a value exactly when the rule of its field does, in a core-exp file and in a journal alike."""
    field = data.draw(st.sampled_from(CORE_EXP_FIELDS))
    index = data.draw(st.integers(0, len(samples) - 1))
    value = data.draw(strange)
    damaged = copy.deepcopy(samples)
    damaged[index][field] = value
    allowed = FIELDS[field].accepts(value)
    with tempfile.TemporaryDirectory() as folder:
        journal = write_journal(Path(folder), samples)
        journal.write_text("".join(json.dumps({"dataset": "text_vqa", **each}) + "\n" for each in damaged))
        check_damage(Path(folder), journal, damaged, index, field, allowed)
    document = core_exp(damaged)
    document.update({name: damaged[index][name] for name in STATED_TWICE if len(samples) == 1})
    contradicts = field in STATED_TWICE and value != core_exp(samples)[field] and len(samples) > 1
    numbered = field == "sample_id" and type(value) is int  # a number is a name there
    with tempfile.TemporaryDirectory() as folder:
        file = write_file(Path(folder), document)
        if not numbered:
            check_damage(Path(folder), file, damaged, index, field, allowed and not contradicts)


def check_damage(folder: Path, file: Path, damaged: list[Sample], index: int, field: str, allowed: bool) -> None:
    outcome = read_or_error(folder)
    names = [each["sample_id"] for each in damaged if isinstance(each["sample_id"], str)]
    if allowed and len(set(names)) == len(damaged):
        assert isinstance(outcome, Profile) and rows_of(outcome) == damaged
        return
    assert isinstance(outcome, PacelineError) and (
        file.name in str(outcome) or isinstance(outcome, ProfileConflictError)
    )
    if not allowed:
        assert isinstance(outcome, ProfileDataError) and outcome.field == field and outcome.path == file
        if len(damaged) > 1 and field not in STATED_TWICE:
            rest = read_profile(folder, skip_bad=True)
            assert rows_of(rest) == [each for position, each in enumerate(damaged) if position != index]
            assert len(rest.left_out) == 1 and field in rest.left_out[0].reason


@settings(max_examples=60, deadline=None)
@given(sample_lists(at_least=2), st.data())
def test_a_deleted_field_is_named(samples: list[Sample], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(CORE_EXP_FIELDS))
    index = data.draw(st.integers(0, len(samples) - 1))
    damaged = copy.deepcopy(samples)
    del damaged[index][field]
    with tempfile.TemporaryDirectory() as folder:
        file = write_file(Path(folder), {**core_exp(samples), "per_sample_results": damaged})
        outcome = read_or_error(Path(folder))
        if field in STATED_TWICE:
            assert isinstance(outcome, Profile) and rows_of(outcome) == samples
        else:
            assert isinstance(outcome, ProfileDataError) and (outcome.path, outcome.field) == (file, field)
    with tempfile.TemporaryDirectory() as folder:
        journal = write_journal(Path(folder), samples)
        journal.write_text("".join(json.dumps({"dataset": "text_vqa", **each}) + "\n" for each in damaged))
        outcome = read_or_error(Path(folder))
        assert isinstance(outcome, ProfileDataError) and (outcome.path, outcome.field) == (journal, field)


@settings(max_examples=60, deadline=None)
@given(sample_lists(at_least=2), st.data())
def test_a_truncated_file_is_named(samples: list[Sample], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = write_file(Path(folder), core_exp(samples))
        whole = file.read_bytes()
        file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        outcome = read_or_error(Path(folder))
        assert isinstance(outcome, ProfileDataError) and outcome.path == file
    with tempfile.TemporaryDirectory() as folder:
        journal = write_journal(Path(folder), samples)
        whole = journal.read_bytes()
        kept = whole[: data.draw(st.integers(whole.index(b"\n") + 1, len(whole)))]
        journal.write_bytes(kept)
        profile = read_profile(Path(folder))
        assert rows_of(profile) == samples[: kept.count(b"\n")]
        assert (len(profile.left_out) == 1) == (not kept.endswith(b"\n")), "a torn line is noted"


@settings(max_examples=120, deadline=None)
@given(sample_lists(at_least=2), st.data())
def test_a_flipped_bit_drops_no_sample_silently(samples: list[Sample], data: st.DataObject) -> None:
    """A flip inside a value makes another value, which no reader can tell; it must not make one sample fewer."""

    def check(folder: Path, file: Path, notes: Callable[[Profile], int]) -> None:
        content = bytearray(file.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(content)
        outcome = read_or_error(folder)
        if isinstance(outcome, Profile):
            assert outcome.samples.height + notes(outcome) == len(samples)
        else:
            assert file.name in str(outcome)

    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), write_file(Path(folder), core_exp(samples)), lambda profile: 0)
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), write_journal(Path(folder), samples), lambda profile: len(profile.left_out))


@settings(max_examples=30, deadline=None)
@given(sample_lists(), st.data())
def test_a_truncated_parquet_file_is_named(samples: list[Sample], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_file(Path(folder), core_exp(samples))
        import_profile(Path(folder), Path(folder) / ".store")
        file = Path(folder) / ".store" / "samples.parquet"
        content = file.read_bytes()
        file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        outcome = read_or_error(file)
        assert isinstance(outcome, ProfileDataError) and outcome.path == file


@settings(max_examples=40, deadline=None)
@given(sample_lists(at_least=2), st.data())
def test_a_doubled_sample_is_named(samples: list[Sample], data: st.DataObject) -> None:
    repeated = data.draw(st.sampled_from(samples))
    same = data.draw(st.booleans())
    doubled = [*samples, repeated if same else {**repeated, "pred": f"{repeated['pred']} again"}]
    with tempfile.TemporaryDirectory() as folder:
        if data.draw(st.booleans()):
            write_file(Path(folder), core_exp(doubled))
        else:
            write_file(Path(folder), core_exp(samples))
            write_file(Path(folder), core_exp(doubled[-1:]), name="other.json")
        outcome = read_or_error(Path(folder))
        assert isinstance(outcome, ProfileConflictError) and repr(repeated["sample_id"]) in str(outcome)
        rest = read_profile(Path(folder), skip_bad=True)
        assert rest.samples.height == len(samples) and len(rest.left_out) == 1
    with tempfile.TemporaryDirectory() as folder:
        write_journal(Path(folder), doubled)
        outcome = read_or_error(Path(folder))
        assert isinstance(outcome, ProfileConflictError) and repr(repeated["sample_id"]) in str(outcome)


@settings(max_examples=40, deadline=None)
@given(st.lists(sample_lists(), min_size=1, max_size=3), st.integers(0, 5))
def test_one_bad_file_among_good_ones_costs_only_itself(files: list[list[Sample]], bytes_lost: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, samples in enumerate(files):
            named = [{**each, "sample_id": f"{number}-{each['sample_id']}"} for each in samples]
            write_file(Path(folder), core_exp(named), name=f"good-{number}.json")
        content = json.dumps(core_exp(files[0])).encode()
        bad = write_file(Path(folder), content[: -1 - bytes_lost])
        outcome = read_or_error(Path(folder))
        assert isinstance(outcome, ProfileDataError) and outcome.path == bad
        rest = read_profile(Path(folder), skip_bad=True)
        assert rest.samples.height == sum(len(samples) for samples in files)
        assert [(note.path, note.sample) for note in rest.left_out] == [(bad, None)]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([name for name in FIELDS if name != "metadata"]), strange)
def test_the_two_forms_of_a_rule_agree(field: str, value: object) -> None:
    """`accepts` on one value and `fits` on a column give the same verdict on every value that the column can hold."""
    rule = FIELDS[field]
    assert (find_fault({field: value}, [field]) is None) == rule.accepts(value)
    try:
        column = pl.DataFrame({field: [value]}, schema={field: rule.column_type}, strict=True)
    except (pl.exceptions.PolarsError, TypeError, OverflowError, UnicodeError):
        assert not rule.accepts(value)
        return
    held = column[field].to_list()[0]
    if type(held) is type(value):  # a frame takes True for 1, where a file's reader does not
        assert column.select(rule.fits(pl.col(field)).all()).item() == rule.accepts(value)
