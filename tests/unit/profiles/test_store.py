import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.errors import OutputPathError, ProfileConflictError, ProfileDataError, UnknownChoiceError
from paceline.profiles import SCHEMA, ProfileStore, read_profile
from paceline.profiles.atomic import new_directory, write_atomically
from paceline.profiles.description import StoreDescription
from paceline.records import KnobConfig, KnobGrid, ProfileSample, Provenance

Build = Callable[..., ProfileSample]
Run = Callable[..., Provenance]
SAMPLES_IN_KILLED_RUN = 1500
KILLS = 6

APPENDING = """
import sys
from pathlib import Path
from paceline.profiles import ProfileStore
from paceline.records import KnobGrid, ProfileSample, Provenance

run = Provenance(model="synthetic", revision=None, dtype="float32", device="cpu", driver=None, clock="none", versions={},
    commit=None, seed=0, grid=KnobGrid(tiers=("low",), top_ks=(4,), block_counts=(8,)), block_ranking=(1,),
    datasets={"text_vqa": "synthetic"}, created=sys.argv[2], settings={})
with ProfileStore.open_or_create(Path(sys.argv[1]), run) as store:
    done = {sample_id for _, sample_id, _ in store.done()}
    print("ready", flush=True)
    for index in range(int(sys.argv[3])):
        if str(index) not in done:
            store.append(ProfileSample(dataset="text_vqa", sample_id=str(index), tier="low", top_k=4, num_active_blocks=8,
                target_vision_tokens=None, actual_vision_tokens=1, actual_text_tokens=1, output_tokens=1, accuracy=1.0,
                pred="x" * 300, T_vision_total=1.0, T_LLM_prefill=1.0, T_LLM_decode=0.0, T_decode_per_token=None,
                T_total=2.0))
    store.compact()
"""


def test_what_is_appended_is_read_back_exactly(tmp_path: Path, synthetic_sample: Build, synthetic_run: Run) -> None:
    samples = [
        synthetic_sample(sample_id="one", T_total=0.1 + 0.2),
        synthetic_sample(sample_id="two", pred='quotes " and\nnew lines', metadata={}),
        synthetic_sample(sample_id="one", tier=None, top_k=None, num_active_blocks=None, target_vision_tokens=None),
        synthetic_sample(sample_id="one", output_tokens=1, T_LLM_decode=0.0, T_decode_per_token=None),
    ]
    samples[3] = synthetic_sample(sample_id="three", output_tokens=1, T_LLM_decode=0.0, T_decode_per_token=None)
    with ProfileStore.open_or_create(tmp_path / "store", synthetic_run()) as store:
        for sample in samples:
            store.append(sample)
        from_journal = read_profile(tmp_path / "store")
        compaction = store.compact()
    from_parquet = read_profile(tmp_path / "store")
    rows = from_journal.samples.to_dicts()
    assert [{**row, "metadata": json.loads(row["metadata"])} for row in rows] == [
        {name: getattr(sample, name) for name in SCHEMA} for sample in samples
    ]
    assert from_journal.samples.schema == from_parquet.samples.schema == SCHEMA
    assert from_parquet.samples.equals(from_journal.samples)
    assert read_profile(compaction).samples.equals(from_journal.samples)
    assert read_profile(compaction).provenance == from_parquet.provenance == (synthetic_run(),)
    assert from_parquet.left_out == ()


def test_a_reader_prefers_the_compaction_only_while_it_covers_the_journals(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        store.append(synthetic_sample(sample_id="a"))
        store.compact()
        with ProfileStore.open_or_create(tmp_path, synthetic_run(), rank=1) as other:
            other.append(synthetic_sample(sample_id="b"))
        assert read_profile(tmp_path).samples["sample_id"].to_list() == ["a", "b"]
        assert {sample_id for _, sample_id, _ in store.done()} == {"a", "b"}


def test_done_names_the_dataset_with_underscores(tmp_path: Path, synthetic_sample: Build, synthetic_run: Run) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        assert store.done() == set()
        store.append(synthetic_sample(dataset="text-vqa", top_k=None))
        config = KnobConfig(tier="low", top_k=None, num_active_blocks=16)
        assert store.done() == {("text_vqa", "s0", config)}


def test_an_unfinished_last_line_is_noted_and_cut_off(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        store.append(synthetic_sample(sample_id="a"))
        store.append(synthetic_sample(sample_id="b"))
    journal = tmp_path / "journal-rank0.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    torn = read_profile(tmp_path)
    assert torn.samples["sample_id"].to_list() == ["a"]
    assert "unfinished" in torn.left_out[0].reason and torn.left_out[0].path == journal
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        assert store.torn_bytes > 0 and "cut off" in caplog.text
        store.append(synthetic_sample(sample_id="b"))
    assert read_profile(tmp_path).samples["sample_id"].to_list() == ["a", "b"]
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        assert store.torn_bytes == 0


def test_a_torn_line_longer_than_one_block_is_cut_off(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        store.append(synthetic_sample(sample_id="a"))
    with (tmp_path / "journal-rank0.jsonl").open("ab") as journal:
        journal.write(b"x" * 200_000)
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        assert store.torn_bytes == 200_000
        assert len(store.done()) == 1


def test_a_corrupt_line_is_named_with_its_field(tmp_path: Path, synthetic_sample: Build, synthetic_run: Run) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        for name in "abc":
            store.append(synthetic_sample(sample_id=name))
    journal = tmp_path / "journal-rank0.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[1].replace(b'"T_total":133.0', b'"T_total":"long"') + lines[2])
    with pytest.raises(ProfileDataError, match=r"journal-rank0.jsonl, sample 'b', field 'T_total': line 2") as caught:
        read_profile(tmp_path)
    assert caught.value.field == "T_total" and "expected a finite number of milliseconds" in str(caught.value)
    rest = read_profile(tmp_path, skip_bad=True)
    assert rest.samples["sample_id"].to_list() == ["a", "c"]
    assert [note.sample for note in rest.left_out] == ["b"]


@pytest.mark.parametrize("ranks", [(0, 0), (0, 1)])
def test_a_sample_that_stands_twice_is_refused(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run, ranks: tuple[int, int]
) -> None:
    for rank in ranks:
        with ProfileStore.open_or_create(tmp_path, synthetic_run(), rank=rank) as store:
            store.append(synthetic_sample(sample_id="same", accuracy=0.5 * rank))
    with pytest.raises(ProfileConflictError, match="sample 'same' of text_vqa under tier low"):
        read_profile(tmp_path)
    kept = read_profile(tmp_path, skip_bad=True)
    assert kept.samples["accuracy"].to_list() == [0.0] and kept.left_out[0].sample == "same"


def test_a_journal_that_lost_lines_after_compaction_is_refused(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        store.append(synthetic_sample(sample_id="a"))
        store.append(synthetic_sample(sample_id="b"))
        store.compact()
    journal = tmp_path / "journal-rank0.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(ProfileDataError, match="fewer than when it was compacted"):
        read_profile(tmp_path)


def test_a_value_that_could_not_be_read_back_is_not_appended(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        with pytest.raises(ProfileDataError, match="field 'T_LLM_decode': is nan"):
            store.append(synthetic_sample(T_LLM_decode=float("nan")))
        assert store.done() == set()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("engine", "vllm"),
        ("model", "another"),
        ("revision", "abc"),
        ("dtype", "bfloat16"),
        ("device", "cuda"),
        ("seed", 1),
        ("block_ranking", (1, 2, 3)),
        ("datasets", {"text_vqa": "another scorer"}),
        ("settings", {"greedy": False, "samples": 10}),
    ],
)
def test_another_run_is_refused_with_field_and_both_values(
    tmp_path: Path, synthetic_run: Run, field: str, value: object
) -> None:
    ProfileStore.open_or_create(tmp_path, synthetic_run()).close()
    with pytest.raises(ProfileConflictError) as caught:
        ProfileStore.open_or_create(tmp_path, synthetic_run(**{field: value}))
    held = getattr(synthetic_run(), field)
    if isinstance(value, dict):  # what is the same on both sides is not told
        value, held = ({name: each[name] for name in each if value[name] != held[name]} for each in (value, held))
    for part in (field, repr(value), repr(held), "--out"):
        assert part in str(caught.value)


def test_a_larger_grid_is_allowed_and_recorded_once(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    grid = KnobGrid(tiers=("low", "high"), top_ks=(4, 8), block_counts=(16,))
    for created in ("2026-01-01", "2026-01-02", "2026-01-03"):
        ProfileStore.open_or_create(tmp_path, synthetic_run(created=created)).close()
    for created in ("2026-01-04", "2026-01-05"):
        with ProfileStore.open_or_create(tmp_path, synthetic_run(grid=grid, created=created)) as store:
            store.append(synthetic_sample(sample_id=created))
    assert [run.grid for run in read_profile(tmp_path).provenance] == [synthetic_run().grid, grid]


def test_one_writer_a_rank(tmp_path: Path, synthetic_run: Run) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()):
        with pytest.raises(ProfileConflictError, match=rf"another process \(pid {os.getpid()}\)"):
            ProfileStore.open_or_create(tmp_path, synthetic_run())
        ProfileStore.open_or_create(tmp_path, synthetic_run(), rank=1).close()
    ProfileStore.open_or_create(tmp_path, synthetic_run()).close()


def test_sentinels_go_to_their_own_journal(tmp_path: Path, synthetic_sample: Build, synthetic_run: Run) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run(), rank=2) as store:
        store.append_sentinel({"prefill_ms": 21.5, "at": 3})
        store.append_sentinel({"prefill_ms": 22.5, "at": 9})
        store.append(synthetic_sample())
    lines = (tmp_path / "sentinels-rank2.jsonl").read_text().splitlines()
    assert [json.loads(line)["at"] for line in lines] == [3, 9]
    assert read_profile(tmp_path).samples.height == 1


@pytest.mark.parametrize("inside", ["a file", "below a file"])
def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path, synthetic_run: Run, inside: str) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    with pytest.raises(OutputPathError, match="cannot write to"):
        ProfileStore.open_or_create(file if inside == "a file" else file / "store", synthetic_run())
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_below_a_file_cannot_be_written_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with pytest.raises(OutputPathError, match="Not a directory"):
        write_atomically(tmp_path / "file" / "below", b"")
    (tmp_path / "directory").mkdir()
    with pytest.raises(OutputPathError):
        write_atomically(tmp_path / "directory", b"")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["directory", "file"]


def test_the_current_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputPathError, match="current directory"), new_directory(Path()):
        pass


def test_a_store_is_not_laid_over_a_core_exp_directory(tmp_path: Path, synthetic_run: Run) -> None:
    (tmp_path / "text-vqa").mkdir()
    (tmp_path / "text-vqa" / "text-vqa_imgsizetier-low_crops2_topk4_blocks16.json").write_text("{}")
    with pytest.raises(ProfileConflictError, match="core-exp layout"):
        ProfileStore.open_or_create(tmp_path, synthetic_run())


def test_an_empty_store_is_no_profile_yet(tmp_path: Path, synthetic_run: Run) -> None:
    ProfileStore.open_or_create(tmp_path, synthetic_run()).close()
    with pytest.raises(ProfileDataError, match="holds no samples"):
        read_profile(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{", b'{"provenance": 3}', b'{"provenance": [], "schema_version": 99}'])
def test_a_damaged_description_is_named(tmp_path: Path, synthetic_run: Run, damage: bytes) -> None:
    ProfileStore.open_or_create(tmp_path, synthetic_run()).close()
    (tmp_path / "profile.json").write_bytes(damage)
    with pytest.raises(ProfileDataError, match=r"profile\.json"):
        read_profile(tmp_path)
    with pytest.raises(ProfileDataError, match=r"profile\.json"):
        ProfileStore.open_or_create(tmp_path, synthetic_run())


def test_a_killed_run_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    """SIGKILL at random moments of a run that appends as fast as it can; the last start finishes."""
    delays_seconds = random.Random(3407)
    store, progressed = tmp_path / "store", []
    for start in range(KILLS + 1):
        total = str(SAMPLES_IN_KILLED_RUN)
        command = [sys.executable, "-c", APPENDING, str(store), f"2026-01-0{start + 1}", total]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            if start < KILLS:
                time.sleep(delays_seconds.uniform(0, 0.02))
                os.kill(process.pid, signal.SIGKILL)
        progressed.append(read_profile(store).samples.height if (store / "journal-rank0.jsonl").stat().st_size else 0)
    assert process.returncode == 0
    assert progressed == sorted(progressed) and len(set(progressed)) > 2, "the kills must fall into the run"
    counted = Counter(read_profile(store).samples["sample_id"].to_list())
    assert counted == {str(index): 1 for index in range(SAMPLES_IN_KILLED_RUN)}


@pytest.mark.parametrize("name", ["[/b]", "..", "", "a/b", "a\x1b"])
def test_a_store_holds_no_dataset_that_files_cannot_be_called_after(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run, name: str
) -> None:
    store = tmp_path / "store"
    with ProfileStore.open_or_create(store, synthetic_run()) as opened:
        with pytest.raises(ProfileDataError, match="the name of a dataset"):
            opened.append(synthetic_sample(dataset=name))
        opened.append(synthetic_sample())
        opened.compact()
    journal, description = store / "journal-rank0.jsonl", store / "profile.json"
    whole, told = journal.read_text(), description.read_text()
    journal.write_text(json.dumps({**json.loads(whole), "dataset": name}) + "\n")
    (store / "samples.parquet").unlink()
    with pytest.raises(ProfileDataError, match="field 'dataset'"):
        read_profile(store)
    journal.write_text(whole)
    changed = json.loads(told)
    changed["provenance"][0]["datasets"] = {name: "synthetic"}
    description.write_text(json.dumps(changed))
    with pytest.raises(ProfileDataError, match="letters, digits"):
        read_profile(store)


def test_a_description_without_a_block_ranking_is_a_sentence(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    with ProfileStore.open_or_create(tmp_path / "store", synthetic_run()) as opened:
        opened.append(synthetic_sample())
    description = tmp_path / "store" / "profile.json"
    for ranking in (None, [1, 1], "x", [None]):
        changed = json.loads(description.read_text())
        changed["provenance"][0]["block_ranking"] = ranking
        description.write_text(json.dumps(changed))
        with pytest.raises(ProfileDataError, match="profile.json: .*block_ranking"):
            read_profile(tmp_path / "store")


def test_a_profile_of_two_engines_is_not_read(tmp_path: Path, synthetic_sample: Build, synthetic_run: Run) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        store.append(synthetic_sample())
        store.compact()
    StoreDescription(provenance=(synthetic_run(), synthetic_run(engine="vllm"))).write(tmp_path)
    with pytest.raises(
        ProfileConflictError, match="holds measurements of transformers and vllm; expected those of one"
    ):
        read_profile(tmp_path)
    with pytest.raises(UnknownChoiceError, match="engine 'vlm' is unknown.*did you mean 'vllm'"):
        synthetic_run(engine="vlm")


def test_a_profile_older_than_the_engines_is_of_transformers(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    with ProfileStore.open_or_create(tmp_path, synthetic_run()) as store:
        store.append(synthetic_sample())
    description = json.loads((tmp_path / "profile.json").read_text())
    del description["provenance"][0]["engine"]
    (tmp_path / "profile.json").write_text(json.dumps(description))
    assert read_profile(tmp_path).provenance[0].engine == "transformers"
