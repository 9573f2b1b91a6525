"""What writes a store and its artifacts, in small, and what has to be true of it afterwards; all of it synthetic."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from estimators import write_grid_estimator
from synthetic_run import provenance

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.errors import OutputPathError, PacelineError
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.fit.artifact_directory import replaced_artifact
from paceline.fit.table import save_table
from paceline.profiles import ProfileStore, merge_profiles, read_profile
from paceline.profiles.answers import Answer, AnswerJournal, read_answers
from paceline.profiles.questions import AskedQuestion
from paceline.records import KnobConfig, ProfileSample

RUN = provenance()
SMALL = KnobConfig(tier="low", top_k=4, num_active_blocks=8)


def sample(name: str) -> ProfileSample:
    return ProfileSample(
        dataset="text_vqa",
        sample_id=name,
        tier="low",
        top_k=4,
        num_active_blocks=8,
        target_vision_tokens=432,
        actual_vision_tokens=430,
        actual_text_tokens=21,
        output_tokens=3,
        accuracy=0.5,
        pred="x" * (len(name) * 20),
        metadata={"synthetic": True},
        T_vision_total=1.5,
        T_LLM_prefill=float(int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)),
        T_LLM_decode=2.0,
        T_decode_per_token=1.0,
        T_total=9.5,
    )


def question(name: str) -> AskedQuestion:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return AskedQuestion(
        dataset="text_vqa",
        sample_id=name,
        picture_sha256=digest,
        prompt_sha256=digest,
        scorer="synthetic",
        references=(),
    )


@dataclass
class Told:
    """What its writers were told is done: names of samples and answers, and the newest table and artifact."""

    samples: set[str] = field(default_factory=set)
    answers: set[str] = field(default_factory=set)
    table: int = 0
    artifact: int = 0
    estimator: int = 0
    merged: bool = False


def names_of(rank: int, count: int) -> list[str]:
    return [f"rank{rank}-{index}" for index in range(count)]


def profile_work(root: Path, told, *, rank: int = 0, count: int = 6, retries: int = 0) -> None:
    """Measure what is not there yet, sentinels and compactions between, as `paceline profile` does."""
    names = names_of(rank, count)
    with ProfileStore.open_or_create(root / "store", RUN, rank, questions=map(question, names)) as store:
        done = {name for _, name, _ in store.done()}
        for index, name in enumerate(names):
            if name not in done:
                _persistently(lambda name=name: store.append(sample(name)), retries)
                told("samples", name)
            if index % 4 == 3:
                store.append_sentinel({"prefill_ms": 1.0})
                store.compact()
        store.compact()
    with AnswerJournal.open(root / "store") as answers:
        known = {key[1] for key in answers.accuracies}
        for name in names[:3]:
            if name not in known:
                _persistently(lambda name=name: answers.append(_answer(name)), retries)
                told("answers", name)


def _answer(name: str) -> Answer:
    return Answer(
        dataset="text_vqa",
        sample_id=name,
        config=SMALL.key,
        accuracy=1.0,
        pred="x",
        output_tokens=1,
        batch_size=2,
    )


def _persistently(work, retries: int) -> None:
    for left in range(retries, -1, -1):
        try:
            work()
            return
        except OutputPathError:
            if not left:
                raise


def table(version: int) -> LookupTable:
    entry = TableEntry(
        config=SMALL, accuracy=0.5, latency_ms=10.0, num_samples=version, accuracy_std=0.0, latency_std_ms=0.0
    )
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=0.05,
        latency_kind="prefill",
        datasets=("synthetic",),
        num_profiling_results=version,
    )
    return LookupTable(entries=[entry], metadata=metadata)


def table_work(root: Path, told, *, first: int = 1, count: int = 3) -> None:
    for version in range(first, first + count):
        save_table(table(version), root / "tables" / "table.json")
        told("table", version)


def artifact_work(root: Path, told, *, first: int = 1, count: int = 3) -> None:
    for version in range(first, first + count):
        weights = bytes([version % 256]) * 3000
        document = {"version": version, "sha256": hashlib.sha256(weights).hexdigest()}
        with replaced_artifact(root / "artifacts" / "estimator", "estimator.json") as (new, _kept):
            (new / "estimator.safetensors").write_bytes(weights)
            (new / "estimator.json").write_text(json.dumps(document))
        told("artifact", version)


def estimator_work(root: Path, told, *, first: int = 1, count: int = 2) -> None:
    for version in range(first, first + count):
        write_grid_estimator(root / "estimators" / "estimator", version)
        told("estimator", version)


def parts(root: Path, count: int = 8) -> None:
    """Two stores to merge, whole."""
    for rank in (0, 1):
        with ProfileStore.open_or_create(root / f"part{rank}", RUN, rank, fsync=False) as store:
            for name in names_of(rank, count):
                store.append(sample(name))


def merge_work(root: Path, told) -> None:
    if not (root / "merged").exists():
        merge_profiles([root / "part0", root / "part1"], root / "merged")
    told("merged", True)


def wrong_with_profile(root: Path, told: Told, ranks=(0,), count: int = 6) -> str | None:
    """Return what is wrong with the store now, and with what the same commands make of it; None when nothing is."""
    store = root / "store"
    if told.samples:
        found = Counter(read_profile(store).samples["sample_id"].to_list())
        doubled = [name for name, times in found.items() if times > 1]
        if doubled:
            return f"{doubled} stand more than once"
        if not told.samples <= set(found):
            return f"{sorted(told.samples - set(found))} are lost"
    for rank in ranks:
        profile_work(root, lambda *_: None, rank=rank, count=count)
    frame = read_profile(store).samples
    wanted = {name for rank in ranks for name in names_of(rank, count)}
    if sorted(frame["sample_id"].to_list()) != sorted(wanted):
        return f"after going on: {sorted(frame['sample_id'].to_list())}"
    for row in frame.iter_rows(named=True):
        expected = sample(row["sample_id"])
        if (row["T_LLM_prefill"], row["pred"]) != (expected.T_LLM_prefill, expected.pred):
            return f"{row['sample_id']} holds other values than were measured"
    (store / "samples.parquet").unlink()
    if not read_profile(store).samples.equals(frame):
        return "the compaction held something else than the journals"
    answers = Counter(each.sample_id for each in read_answers(store))
    if set(answers.values()) - {1} or not told.answers <= set(answers):
        return f"answers are {dict(answers)}, and told {told.answers}"
    return None


def wrong_with_table(root: Path, told: Told) -> str | None:
    path = root / "tables" / "table.json"
    if not path.exists():
        return f"there is no table, and version {told.table} was written" if told.table else None
    for each in path.parent.glob("*.json"):
        if each.name.startswith("."):
            continue
        version = LookupTable.load(each).metadata.num_profiling_results
        if each == path and version not in (told.table, told.table + 1):
            return f"the table is version {version}, and {told.table} was written"
    table_work(root, lambda *_: None, first=told.table + 2, count=1)
    return None


def wrong_with_artifact(root: Path, told: Told) -> str | None:
    directory = root / "artifacts" / "estimator"
    if not directory.exists():
        if told.artifact:
            return f"there is no artifact, and version {told.artifact} was written"
    elif (problem := _wrong_with_files(directory, (told.artifact, told.artifact + 1))) is not None:
        return problem
    for kept in directory.parent.glob("estimator-*"):
        if (problem := _wrong_with_files(kept, range(1, told.artifact + 2))) is not None:
            return f"kept {problem}"
    artifact_work(root, lambda *_: None, first=told.artifact + 2, count=2)
    return _wrong_with_files(directory, (told.artifact + 3,))


def _wrong_with_files(directory: Path, versions) -> str | None:
    try:
        document = json.loads((directory / "estimator.json").read_text())
        digest = hashlib.sha256((directory / "estimator.safetensors").read_bytes()).hexdigest()
    except (OSError, ValueError) as error:
        return f"artifact {directory.name}: {error}"
    if digest != document["sha256"]:
        return f"artifact {directory.name}: weights of another version than {document['version']}"
    if document["version"] not in versions:
        return f"artifact {directory.name} is version {document['version']}, and {list(versions)} were possible"
    return None


def wrong_with_estimator(root: Path, told: Told) -> str | None:
    directory = root / "estimators" / "estimator"
    if not directory.exists():
        if told.estimator:
            return f"there is no estimator, and version {told.estimator} was written"
    elif (version := _estimator_version(directory)) not in (told.estimator, told.estimator + 1):
        return f"the estimator is version {version}, and {told.estimator} was written"
    for kept in directory.parent.glob("estimator-*"):
        if _estimator_version(kept) > told.estimator + 1:
            return f"{kept.name} is of a version that nobody wrote"
    estimator_work(root, lambda *_: None, first=told.estimator + 2, count=1)
    return None if _estimator_version(directory) == told.estimator + 2 else "the next version is not there"


def _estimator_version(directory: Path) -> int:
    load_bounds(directory)
    return NetworkEstimator.load(directory).description.num_rows - 100


def wrong_with_merge(root: Path, told: Told) -> str | None:
    if told.merged and not (root / "merged").exists():
        return "the merged store is not there"
    merge_work(root, lambda *_: None)
    found = sorted(read_profile(root / "merged").samples["sample_id"].to_list())
    wanted = sorted(name for rank in (0, 1) for name in names_of(rank, 8))
    return None if found == wanted else f"the merged store holds {found}"


WORK = {
    "profile": (profile_work, wrong_with_profile),
    "table": (table_work, wrong_with_table),
    "artifact": (artifact_work, wrong_with_artifact),
    "estimator": (estimator_work, wrong_with_estimator),
    "merge": (merge_work, wrong_with_merge),
}


def note_in(told: Told):
    """Return what notes in a `Told` what a writer was told."""

    def note(name: str, value) -> None:
        if name in ("samples", "answers"):
            getattr(told, name).add(value)
        else:
            setattr(told, name, value)

    return note


def complaint(kind: str, root: Path, told: Told, **named) -> str | None:
    """Return what is wrong after a fault, errors of the readers included."""
    try:
        return WORK[kind][1](root, told, **named)
    except PacelineError as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:
        return f"a traceback: {type(error).__name__}: {error}"
