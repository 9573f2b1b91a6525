"""The fields of one profile sample: what each may hold in a file, and the column that carries it in a frame.

Every rule stands twice: `accepts` judges one value read from a file, to name what is wrong with it; `fits` judges a
whole column at once. A property test holds the two to the same verdict.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import polars as pl

from paceline.errors import ProfileDataError
from paceline.records import DATASET_NAME, DATASET_NAMES, LARGEST_COUNT, TIERS, is_dataset_name

KEY = ("dataset", "sample_id", "tier", "top_k", "num_active_blocks")
CONFIGURATION = ("tier", "top_k", "num_active_blocks")
MENDING = "mend the field, measure the sample again, or leave it out with --skip-bad"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRule:
    """What one field may hold: in words, as a JSON type, as a column type, and as two tests of the same rule."""

    expected: str
    json_type: Any
    column_type: pl.DataType
    accepts: Callable[[object], bool]
    fits: Callable[[pl.Expr], pl.Expr]


def _is_text(value: object) -> bool:
    # a lone surrogate is legal JSON, but no UTF-8 column can hold it
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_count(value: object, least: int) -> bool:
    return type(value) is int and least <= value <= LARGEST_COUNT


def _is_time(value: object) -> bool:
    # the upper end refuses infinity, and whole numbers that no float holds
    return type(value) in (int, float) and 0 <= cast(float, value) <= sys.float_info.max


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError):
        return False
    return True


def _fits_time(column: pl.Expr) -> pl.Expr:
    return column.is_finite() & (column >= 0)


def _fits_dataset(column: pl.Expr) -> pl.Expr:
    # a million rows hold a few names
    return column.unique().cast(pl.String).str.contains(f"^(?:{DATASET_NAME})$").fill_null(value=False)


TEXT = FieldRule(
    expected="text",
    json_type=str,
    column_type=pl.String(),
    accepts=_is_text,
    fits=lambda column: column.is_not_null(),
)
DATASET = FieldRule(
    expected=f"the name of a dataset ({DATASET_NAMES})",
    json_type=str,
    column_type=pl.Categorical(),
    accepts=is_dataset_name,
    fits=_fits_dataset,
)
TIER = FieldRule(
    expected="low, medium or high, or null for a model without this knob",
    json_type=Literal["low", "medium", "high"] | None,
    column_type=pl.Enum(TIERS),
    accepts=lambda value: value is None or value in TIERS,
    fits=lambda _: pl.lit(True),  # the Enum holds nothing else
)
KNOB = FieldRule(
    expected="a whole number of at least 1, or null for a model without this knob",
    json_type=int | None,
    column_type=pl.Int32(),
    accepts=lambda value: value is None or _is_count(value, 1),
    fits=lambda column: column.is_null() | (column >= 1),
)
COUNT = FieldRule(
    expected="a whole number of at least 0",
    json_type=int,
    column_type=pl.Int32(),
    accepts=lambda value: _is_count(value, 0),
    fits=lambda column: column.is_not_null() & (column >= 0),
)
COUNT_OR_NONE = FieldRule(
    expected="a whole number of at least 0, or null",
    json_type=int | None,
    column_type=pl.Int32(),
    accepts=lambda value: value is None or _is_count(value, 0),
    fits=lambda column: column.is_null() | (column >= 0),
)
SCORE = FieldRule(
    expected="a finite number of at least 0",
    json_type=float,
    column_type=pl.Float64(),
    accepts=_is_time,
    fits=lambda column: column.is_not_null() & _fits_time(column),
)
TIME = FieldRule(
    expected="a finite number of milliseconds, at least 0",
    json_type=float,
    column_type=pl.Float64(),
    accepts=_is_time,
    fits=lambda column: column.is_not_null() & _fits_time(column),
)
TIME_OR_NONE = FieldRule(
    expected="a finite number of milliseconds, at least 0, or null where the stage did not run",
    json_type=float | None,
    column_type=pl.Float64(),
    accepts=lambda value: value is None or _is_time(value),
    fits=lambda column: column.is_null() | _fits_time(column),
)
JSON_VALUE = FieldRule(
    expected="a JSON value without NaN or infinity",
    json_type=Any,
    column_type=pl.String(),
    accepts=_is_json,
    fits=lambda column: column.is_not_null(),
)

FIELDS: Mapping[str, FieldRule] = {
    "dataset": DATASET,
    "sample_id": TEXT,
    "tier": TIER,
    "top_k": KNOB,
    "num_active_blocks": KNOB,
    "target_vision_tokens": COUNT_OR_NONE,
    "actual_vision_tokens": COUNT,
    "actual_text_tokens": COUNT,
    "output_tokens": COUNT,
    "accuracy": SCORE,
    "pred": TEXT,
    "metadata": JSON_VALUE,
    "T_vision_total": TIME,
    "T_LLM_prefill": TIME,
    "T_LLM_decode": TIME,
    "T_decode_per_token": TIME_OR_NONE,
    "T_total": TIME,
    "T_preprocess": TIME_OR_NONE,
    "T_ttft": TIME_OR_NONE,
    "T_other": TIME_OR_NONE,
}
EXTRA = ("T_ttft",)  # what Paceline adds to the samples of the core-exp layout where it was measured
OPTIONAL = ("T_preprocess", "T_ttft", "T_other")  # of profiles older than the field, and of the core-exp layout
SCHEMA = pl.Schema({name: rule.column_type for name, rule in FIELDS.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with one sample or file; `line` counts from 1 where the file is read by lines."""

    problem: str
    expected: str
    field: str | None = None
    sample: str | None = None
    line: int | None = None
    mend: str = MENDING

    def error(self, path: Path) -> ProfileDataError:
        """Return the error that names the file, the place in it and the remedy."""
        problem = self.problem if self.line is None else f"line {self.line}: {self.problem}"
        return ProfileDataError(
            path, problem, expected=self.expected, mend=self.mend, field=self.field, sample=self.sample
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A sample, or a whole file where `sample` is None, that reading left out, and why."""

    path: Path
    sample: str | None
    reason: str


def left_out(path: Path, fault: Fault) -> LeftOut:
    """Return the note that a faulty sample or file leaves behind."""
    return LeftOut(path=path, sample=fault.sample, reason=str(fault.error(path)))


def dataset_name(name: str) -> str:
    """Return the name with underscores: `coco-2014-vqa` and `coco_2014_vqa` are one dataset."""
    return name.replace("-", "_")


def find_fault(
    record: Mapping[str, object], fields: Iterable[str], *, judged_late: Set[str] = frozenset()
) -> Fault | None:
    """Return what is wrong with the first field that breaks its rule or is missing; None when all keep theirs.

    In the data sets `judged_late` an accuracy may be null: answers there are judged with their whole set.
    """
    sample = record.get("sample_id")
    named = sample if isinstance(sample, str) else None
    for name in fields:
        rule = FIELDS[name]
        if name not in record:
            return Fault(field=name, sample=named, problem="is missing", expected=rule.expected)
        if name == "accuracy" and record[name] is None and _name_in(record) in judged_late:
            continue
        if not rule.accepts(record[name]):
            shown = repr(record[name])
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            return Fault(field=name, sample=named, problem=f"is {shown}", expected=rule.expected)
    return None


def _name_in(record: Mapping[str, object]) -> str:
    name = record.get("dataset")
    return dataset_name(name) if isinstance(name, str) else ""


def json_text(value: object) -> str:
    """Return a JSON value as compact text, the form that the `metadata` column holds."""
    return msgspec.json.encode(value).decode()


def samples_frame(columns: Mapping[str, Sequence[object]]) -> pl.DataFrame:
    """Build a frame of the given fields; raises a polars error, OverflowError or TypeError where a type is wrong."""
    return pl.DataFrame(columns, schema={name: SCHEMA[name] for name in columns}, strict=True)


def column_that_breaks_its_rule(samples: pl.DataFrame, *, judged_late: Set[str] | None = frozenset()) -> str | None:
    """Return the first column of which some value breaks the field's rule; None when every value keeps it.

    In the data sets `judged_late` (None: in all of them) accuracies may be null, as in `find_fault`.
    """
    checks = [FIELDS[name].fits(pl.col(name)) for name in samples.columns]
    if "accuracy" in samples.columns and judged_late != frozenset():
        may_wait = pl.lit(True) if judged_late is None else pl.col("dataset").cast(pl.String).is_in(list(judged_late))
        place = samples.columns.index("accuracy")
        checks[place] = checks[place] | (pl.col("accuracy").is_null() & may_wait)
    checks = [check.all().alias(name) for check, name in zip(checks, samples.columns, strict=True)]
    kept = samples.select(checks).row(0, named=True)
    return next((name for name, keeps in kept.items() if not keeps), None)
