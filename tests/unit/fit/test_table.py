import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import synthetic_run

from paceline.control import LookupTable
from paceline.errors import OutputPathError, UnknownChoiceError
from paceline.fit import build_dataset_tables, build_lookup_table, build_lookup_table_from_core_exp, save_table
from paceline.profiles import Profile
from paceline.records import KnobConfig, Provenance

TIMES = {"T_vision_total": 20.0, "T_LLM_prefill": 60.0, "T_LLM_decode": 40.0, "T_total": 125.0}
PROVENANCE = synthetic_run.provenance()


def profile_of(*rows: tuple[str, str, float, float], provenance: tuple[Provenance, ...] = ()) -> Profile:
    """Rows of (dataset, configuration key, accuracy, vision ms); LLM prefill takes 60 ms, all in all 125 and vision."""
    configs = [KnobConfig.from_key(key) for _, key, _, _ in rows]
    samples = pl.DataFrame(
        {
            "dataset": pl.Series([row[0] for row in rows], dtype=pl.Categorical()),
            "tier": pl.Series([config.tier for config in configs], dtype=pl.Enum(["low", "medium", "high"])),
            "top_k": pl.Series([config.top_k for config in configs], dtype=pl.Int32),
            "num_active_blocks": pl.Series([config.num_active_blocks for config in configs], dtype=pl.Int32),
            "accuracy": [row[2] for row in rows],
            "T_vision_total": [row[3] for row in rows],
            "T_LLM_prefill": [60.0] * len(rows),
            "T_total": [125.0 + row[3] for row in rows],
        }
    )
    return Profile(samples=samples, provenance=provenance, source=Path("synthetic"), left_out=())


SKEWED = profile_of(
    ("text_vqa", "low_4_8", 0.0, 10.0),
    ("text_vqa", "low_4_8", 0.25, 12.0),
    ("ok_vqa", "low_4_8", 1.0, 40.0),
    ("ok_vqa", "low_4_8", 1.0, 30.0),
    ("ok_vqa", "high_none_16", 1.0, 50.0),
)


def entry_of(table: LookupTable, key: str) -> tuple[float, float, int]:
    entry = next(each for each in table.entries if each.config.key == key)
    return entry.accuracy, entry.latency_ms, entry.num_samples


@pytest.mark.parametrize(
    ("method", "accuracy", "latency_ms"),
    [("mean", 0.5625, 83.0), ("median", 0.625, 81.0), ("max_accuracy", 1.0, 90.0)],
)
def test_every_aggregation_method(method: Any, accuracy: float, latency_ms: float) -> None:
    table = build_lookup_table(SKEWED, aggregation_method=method)
    assert entry_of(table, "low_4_8") == (accuracy, latency_ms, 4)
    assert table.metadata.aggregation_method == method


def test_spreads_are_those_of_the_samples() -> None:
    low = build_lookup_table(SKEWED).entries[0]
    assert low.accuracy_std == pytest.approx(np.std([0, 0.25, 1, 1]))
    assert low.latency_std_ms == pytest.approx(np.std([10, 12, 40, 30]))


def test_total_latency_is_another_table() -> None:
    table = build_lookup_table(SKEWED, latency_kind="total")
    assert entry_of(table, "high_none_16") == (1.0, 175.0, 1)
    assert table.latency_kind == "total"


def test_metadata_says_where_the_figures_come_from() -> None:
    rows = [("text_vqa", "low_4_8", 0.5, 10.0)]
    metadata = build_lookup_table(profile_of(*rows, provenance=(PROVENANCE,)), tolerance=0.1).metadata
    assert (metadata.datasets, metadata.num_profiling_results, metadata.tolerance) == (("text_vqa",), 1, 0.1)
    assert metadata.provenance[0]["model"] == "synthetic"


def test_a_table_can_be_of_some_datasets_or_one_for_each() -> None:
    assert entry_of(build_lookup_table(SKEWED, datasets=["text-vqa"]), "low_4_8") == (0.125, 71.0, 2)
    tables = build_dataset_tables(SKEWED)
    assert list(tables) == ["ok_vqa", "text_vqa"]
    assert entry_of(tables["text_vqa"], "low_4_8") == (0.125, 71.0, 2)
    assert len(tables["ok_vqa"].entries) == 2
    with pytest.raises(UnknownChoiceError, match="expected ok_vqa or text_vqa"):
        build_lookup_table(SKEWED, datasets=["texvqa"])


def test_unknown_choices_are_refused() -> None:
    with pytest.raises(UnknownChoiceError, match="aggregation method"):
        build_lookup_table(SKEWED, aggregation_method="mode")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UnknownChoiceError, match="latency kind"):
        build_lookup_table(SKEWED, latency_kind="decode")  # pyright: ignore[reportArgumentType]


def test_saving_keeps_the_old_file_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.json"
    old, new = build_lookup_table(SKEWED), build_lookup_table(SKEWED, tolerance=0.2)
    assert save_table(old, path) is None
    os.utime(path, (1_700_000_000, 1_700_000_000))
    kept = save_table(new, path)
    assert kept is not None
    assert kept.name == "table-20231114T221320.000000Z.json"
    assert LookupTable.load(kept).document() == old.document()
    assert LookupTable.load(path).document() == new.document()
    assert sorted(each.name for each in path.parent.iterdir()) == sorted([path.name, kept.name])


def test_a_path_that_cannot_be_written_is_named_and_nothing_changes(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    with pytest.raises(OutputPathError, match="cannot write to"):
        save_table(build_lookup_table(SKEWED), blocked / "table.json")
    with pytest.raises(OutputPathError, match="cannot write to"):
        save_table(build_lookup_table(SKEWED), tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert blocked.read_text() == "kept"


def test_a_saved_table_reads_back_with_its_provenance(tmp_path: Path) -> None:
    table = build_lookup_table(profile_of(("text_vqa", "low_4_8", 0.5, 10.0), provenance=(PROVENANCE,)))
    save_table(table, tmp_path / "table.json")
    assert LookupTable.load(tmp_path / "table.json").document() == table.document()


def write_core_exp(directory: Path) -> None:
    for dataset, key, accuracy in (
        ("text-vqa", "low_4_8", 0.5),
        ("text-vqa", "high_8_16", 1.0),
        ("ok-vqa", "low_4_8", 0.0),
    ):
        tier, top_k, blocks = key.split("_")
        config = {"tier": tier, "top_k": int(top_k), "num_active_blocks": int(blocks)}
        sample = {
            **config,
            **TIMES,
            "T_LLM_prefill": 60.0 if tier == "low" else 90.0,
            "sample_id": "0",
            "target_vision_tokens": 144,
            "actual_vision_tokens": 144,
            "actual_text_tokens": 9,
            "output_tokens": 3,
            "accuracy": accuracy,
            "pred": "7",
            "metadata": {},
            "T_decode_per_token": 20.0,
        }
        document = {
            **config,
            "accuracy": accuracy,
            "num_samples": 1,
            "aggregate_stats": {},
            "per_sample_results": [sample],
        }
        path = directory / dataset / f"{dataset}_imgsizetier-{tier}_crops2_topk{top_k}_blocks{blocks}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document))


def test_a_core_exp_directory_becomes_a_table_file(tmp_path: Path) -> None:
    results = tmp_path / "results"
    write_core_exp(results)
    output = tmp_path / "table.json"
    table = build_lookup_table_from_core_exp(results, ["text_vqa"], output, "mean", 0.1, True)
    assert {each.config.key: each.latency_ms for each in table.entries} == {"low_4_8": 80.0, "high_8_16": 110.0}
    assert LookupTable.load(output).document() == table.document()
    whole = build_lookup_table_from_core_exp(results, use_prefill_only=False)
    assert entry_of(whole, "low_4_8") == (0.25, 125.0, 2)
    assert whole.metadata.datasets == ("ok_vqa", "text_vqa")
