"""Writing the core-exp JSON layout, so that tools made for it read what Paceline measured."""

from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from paceline.errors import InvalidValueError
from paceline.profiles.atomic import new_directory
from paceline.profiles.fields import CONFIGURATION, EXTRA, OPTIONAL, SCHEMA
from paceline.records import DATASET_NAMES, is_dataset_name

# the middle of 1-3, 4-8 and 9-15 crops, which the layout puts into file names; a reader goes by the content
MEAN_CROPS = {"low": 2, "medium": 6, "high": 12}
SAMPLE_FIELDS = tuple(name for name in SCHEMA if name not in ("dataset", *OPTIONAL))
COUNTED = (
    "actual_vision_tokens",
    "actual_text_tokens",
    "output_tokens",
    "T_vision_total",
    "T_LLM_prefill",
    "T_LLM_decode",
    "T_decode_per_token",
    "T_total",
)


def write_core_exp(samples: pl.DataFrame, out: Path | str) -> int:
    """Write a directory a dataset and a file a configuration; returns the number of files.

    The order of samples is kept. Raises OutputPathError when `out` holds anything, and leaves nothing half-written.
    """
    out = Path(out)
    parts = samples.partition_by("dataset", *CONFIGURATION, maintain_order=True)
    with new_directory(out) as directory:
        for part in parts:
            path = directory / _file_path(part.row(0, named=True))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(msgspec.json.encode(_document(part)))
    return len(parts)


def _file_path(first: dict[str, Any]) -> Path:
    if not is_dataset_name(first["dataset"]):
        raise InvalidValueError("dataset", first["dataset"], DATASET_NAMES)
    dataset = first["dataset"].replace("_", "-")
    tier, top_k, blocks = ("none" if first[name] is None else first[name] for name in CONFIGURATION)
    crops = MEAN_CROPS.get(tier, "none")
    return Path(dataset) / f"{dataset}_imgsizetier-{tier}_crops{crops}_topk{top_k}_blocks{blocks}.json"


def _document(part: pl.DataFrame) -> dict[str, Any]:
    head = part.row(0, named=True)
    extra = [name for name in EXTRA if part[name].null_count() < part.height]
    results = part.select(*SAMPLE_FIELDS, *extra).to_dicts()
    for result in results:
        result["metadata"] = msgspec.Raw(result["metadata"].encode())
    return {
        **{name: head[name] for name in CONFIGURATION},
        "accuracy": part["accuracy"].mean(),
        "num_samples": part.height,
        "aggregate_stats": {name: _statistics(part[name]) for name in (*COUNTED, *extra)},
        "per_sample_results": results,
    }


def _statistics(values: pl.Series) -> dict[str, Any]:
    return {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
