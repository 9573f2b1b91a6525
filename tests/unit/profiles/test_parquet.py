import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from paceline.errors import ProfileConflictError, ProfileDataError
from paceline.profiles import ProfileStore, import_profile, read_profile
from paceline.profiles.parquet import DIGEST_KEY, METADATA_KEY, metadata_of, read_note
from paceline.records import ProfileSample, Provenance

Build = Callable[..., ProfileSample]
Run = Callable[..., Provenance]


@pytest.fixture
def samples(tmp_path: Path, synthetic_sample: Build, synthetic_run: Run) -> pl.DataFrame:
    with ProfileStore.open_or_create(tmp_path / "store", synthetic_run()) as store:
        for name in "abc":
            store.append(synthetic_sample(sample_id=name))
        store.compact()
    return read_profile(tmp_path / "store").samples


def test_a_file_of_another_program_is_read_with_plain_types(tmp_path: Path, samples: pl.DataFrame) -> None:
    path = tmp_path / "plain.parquet"
    plain = samples.cast({"dataset": pl.String, "tier": pl.String, "top_k": pl.Int64, "accuracy": pl.Float32})
    plain.write_parquet(path)
    profile = read_profile(path, columns=["dataset", "tier", "top_k"])
    assert profile.samples.equals(samples.select("dataset", "tier", "top_k")) and profile.provenance == ()
    assert import_profile(path, tmp_path / "imported").samples.height == 3
    assert read_profile(tmp_path / "imported").samples.schema == samples.schema


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("T_total", pl.lit(float("nan"))),
        ("T_total", pl.lit(-1.0)),
        ("accuracy", pl.lit(None, dtype=pl.Float64)),
        ("tier", pl.lit("hgih")),
        ("output_tokens", pl.lit("many")),
        ("top_k", pl.lit(0)),
    ],
)
def test_a_bad_column_is_named(tmp_path: Path, samples: pl.DataFrame, field: str, change: pl.Expr) -> None:
    path = tmp_path / "bad.parquet"
    samples.with_columns(change.alias(field)).write_parquet(path)
    with pytest.raises(ProfileDataError, match=rf"bad\.parquet, field '{field}'") as caught:
        read_profile(path, columns=[field])
    assert "expected" in str(caught.value)


def test_a_missing_column_and_a_repeated_sample_are_named(tmp_path: Path, samples: pl.DataFrame) -> None:
    path = tmp_path / "bad.parquet"
    samples.drop("T_total").write_parquet(path)
    with pytest.raises(ProfileDataError, match="field 'T_total': is missing"):
        read_profile(path)
    assert read_profile(path, columns=["accuracy"]).samples.height == 3
    pl.concat([samples, samples.head(1)]).write_parquet(path)
    with pytest.raises(ProfileConflictError, match="sample 'a'"):
        read_profile(path, columns=["accuracy"])


def test_a_damaged_compaction_is_passed_over_for_the_journals(
    tmp_path: Path, samples: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    compaction = tmp_path / "store" / "samples.parquet"
    compaction.write_bytes(compaction.read_bytes()[:-40])
    assert read_profile(tmp_path / "store").samples.equals(samples)
    assert "the journals are read instead" in caplog.text
    (tmp_path / "store" / "journal-rank0.jsonl").unlink()
    with pytest.raises(ProfileDataError, match=r"samples\.parquet: cannot be read"):
        read_profile(tmp_path / "store")


@pytest.mark.parametrize("name", ["[x]", "[/b]", "*", "a?", "{0,1}", "**", "\udcff"])
def test_a_path_is_no_pattern(tmp_path: Path, samples: pl.DataFrame, name: str) -> None:
    path = tmp_path / name / "samples.parquet"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        samples.write_parquet(file)
    assert read_profile(path).samples.equals(samples)
    assert import_profile(path, tmp_path / name / "store").samples.height == 3
    assert read_profile(tmp_path / name / "store").samples.equals(samples)


def test_a_flipped_bit_in_a_compaction_is_named_or_changes_no_value(tmp_path: Path, samples: pl.DataFrame) -> None:
    """At every 41st byte and through the footer's keys; `make faults` flips one bit of every byte."""
    path = tmp_path / "samples.parquet"
    content = (tmp_path / "store" / "samples.parquet").read_bytes()
    key = content.rindex(DIGEST_KEY.encode())
    for place in (*range(0, len(content), 41), *range(key - 4, key + 20), *range(len(content) - 8, len(content))):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(ProfileDataError) as caught:
            read_profile(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("columns", [["sample_id"], ["T_total", "accuracy"]])
def test_a_flipped_bit_in_a_column_page_is_named_whatever_is_read(
    tmp_path: Path, samples: pl.DataFrame, columns: list[str]
) -> None:
    path = tmp_path / "store" / "samples.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 5] ^= 4
    (tmp_path / "one.parquet").write_bytes(content)
    with pytest.raises(ProfileDataError, match=r"one\.parquet: holds other bytes than were written"):
        read_profile(tmp_path / "one.parquet", columns=columns)
    path.write_bytes(content)
    assert read_profile(tmp_path / "store", columns=columns).samples.equals(samples.select(columns))  # by the journals


def test_a_file_of_an_older_version_holds_no_digest_and_is_read(tmp_path: Path, samples: pl.DataFrame) -> None:
    note = read_note(tmp_path / "store" / "samples.parquet")
    assert note is not None and note.digested
    document = json.loads(metadata_of(note)[METADATA_KEY])
    del document["digested"]
    samples.write_parquet(tmp_path / "older.parquet", metadata={METADATA_KEY: json.dumps(document)})
    assert read_profile(tmp_path / "older.parquet").samples.equals(samples)


def test_a_file_whose_digest_was_taken_out_is_named(tmp_path: Path, samples: pl.DataFrame) -> None:
    note = read_note(tmp_path / "store" / "samples.parquet")
    assert note is not None
    samples.write_parquet(tmp_path / "bare.parquet", metadata=metadata_of(note))
    with pytest.raises(ProfileDataError, match=r"bare\.parquet: holds other bytes .* its digest is not there"):
        read_profile(tmp_path / "bare.parquet")
