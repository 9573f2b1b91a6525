from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from paceline.errors import ProfileConflictError, ProfileDataError
from paceline.profiles import ProfileStore, import_profile, read_profile
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
