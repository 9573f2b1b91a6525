"""The step-time model from an engine's own step log: non-negative least squares that a few odd steps do not bend.

Robustness after Huber (Annals of Mathematical Statistics 35, 1964): a step whose residual is beyond `HUBER_SCALES`
robust standard deviations counts less the further out it is, by iterated weights.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from paceline.errors import InvalidValueError, OutputPathError, StepTimeError
from paceline.fit.step_probes import ROOM, load_row, require_reach
from paceline.profiles.atomic import keep_old, make_directory, write_atomically
from paceline.records import KnobConfig
from paceline.schedule import EngineTime, LinearStepTime, StepRecord
from paceline.schedule.step_time import CONFIGURATIONS, WHOLE_STEP
from paceline.slo import MeanEstimate, mean_estimate, percentile

SCHEMA_VERSION = 1
WARMUP_STEPS = 10
LEAST_STEPS = 50
LEAST_STEPS_OF_A_KIND = 10
BLOCK_STEPS, HELD_OUT_EVERY = 10, 5
KINDS: Mapping[str, Callable[[StepRecord], bool]] = {
    "decode_only": lambda record: record.decode_tokens > 0 and not record.chunks,
    "mixed": lambda record: bool(record.chunks) and record.decode_tokens > 0,
    "prefill_only": lambda record: bool(record.chunks) and record.decode_tokens == 0,
}
HUBER_SCALES = 1.345  # 95 % as efficient as least squares where the noise is normal
MAD_TO_STD = 1.4826
REWEIGHTINGS = 20
COEFFICIENTS = tuple(each.name for each in fields(LinearStepTime))

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutError:
    """How far predictions are from the steps that the fit did not see, odd ones included.

    `relative_error` is the mean absolute error ÷ the mean measured time; `baseline_mae_ms` is the mean absolute error
    of predicting the same time, the fitted steps' mean, for every step.
    """

    mae: MeanEstimate
    rmse_ms: float
    p95_ms: float
    relative_error: float
    baseline_mae_ms: float

    def document(self) -> dict[str, Any]:
        """Return the figures ready for JSON."""
        interval = self.mae.interval()
        return {
            "n": self.mae.count,
            "mae_ms": self.mae.mean,
            "mae_ci_ms": None if interval is None else [interval.low, interval.high],
            "rmse_ms": self.rmse_ms,
            "p95_ms": self.p95_ms,
            "relative_error": self.relative_error,
            "baseline_mae_ms": self.baseline_mae_ms,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeFit:
    """A fitted model with its held-out error, over all steps and by their kind, and how many steps it was fitted on.

    `whole` is of the times from one step's start to the next one's where the engine went on at once: a step and what the
    engine does between two, which add up to what the log has of them; what each request takes that is received there stands
    apart. A simulated clock moves by it. None where the log has too few such pairs.
    `configurations` has models of steps under fewer experts or blocks, by `KnobConfig.step_key`.
    """

    model: LinearStepTime
    whole: EngineTime | None
    held_out: HeldOutError
    held_out_by_kind: Mapping[str, HeldOutError]
    fitted_steps: int
    warmup_steps: int
    configurations: Mapping[str, LinearStepTime] = field(default_factory=dict[str, LinearStepTime])

    def document(self) -> dict[str, Any]:
        """Return the file's content: the coefficients at its top level, as `LinearStepTime.load` reads them."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.model.document(),
            WHOLE_STEP: None if self.whole is None else self.whole.document(),
            **({CONFIGURATIONS: self._configurations()} if self.configurations else {}),
            "fitted_steps": self.fitted_steps,
            "warmup_steps": self.warmup_steps,
            "held_out": self.held_out.document(),
            "held_out_by_kind": {kind: error.document() for kind, error in self.held_out_by_kind.items()},
        }

    def _configurations(self) -> dict[str, dict[str, float]]:
        return {key: model.document() for key, model in self.configurations.items()}


def fit_configurations(logs: Mapping[str, Sequence[StepRecord]]) -> StepTimeFit:
    """Fit one step log a configuration, by `KnobConfig.step_key`; the fit is the largest one's, with the models of all.

    Raises StepTimeError with the configuration whose log cannot be fitted, and InvalidValueError for a key that is none.
    """
    fits: dict[str, StepTimeFit] = {}
    for key, records in logs.items():
        try:
            fits[key] = fit_step_time(records)
        except StepTimeError as error:
            raise StepTimeError(f"configuration {key}: {error}") from error
    largest = max(fits, key=lambda key: KnobConfig.from_key(f"none_{key}").size)
    return replace(fits[largest], configurations={key: fit.model for key, fit in fits.items()})


def fit_step_time(records: Sequence[StepRecord], *, warmup_steps: int = WARMUP_STEPS) -> StepTimeFit:
    """Fit the coefficients on a step log in its own order, the first `warmup_steps` of every engine and run left out.

    Of each kind of step every fifth block of ten consecutive ones is held out: neighbouring steps are alike, so that
    steps picked singly would flatter the error, and the last part of a run alone may be nothing but decodes. Raises
    StepTimeError for too few steps, too few of decodes alone or with prefill, or loads that cannot tell costs apart.
    """
    if warmup_steps < 0:
        raise InvalidValueError("warmup_steps", warmup_steps, "a whole number of at least 0")
    kept = _without_warm_up(records, warmup_steps)
    _require_steps(kept, warmup_steps)
    loads = np.array([load_row(record.load) for record in kept], dtype=np.float64)
    times_ms = np.array([record.execute_ms for record in kept], dtype=np.float64)
    held_out = _held_out(kept)
    require_reach(loads[~held_out], kept)
    coefficients = _robust_nnls(loads[~held_out], times_ms[~held_out])
    predicted_ms, mean_ms = loads @ coefficients, float(times_ms[~held_out].mean())
    by_kind = {kind: held_out & np.array([is_of(each) for each in kept]) for kind, is_of in KINDS.items()}
    return StepTimeFit(
        model=_model(coefficients),
        whole=_whole(kept, loads, held_out),
        held_out=_error(predicted_ms[held_out], times_ms[held_out], mean_ms),
        held_out_by_kind={
            kind: _error(predicted_ms[rows], times_ms[rows], mean_ms) for kind, rows in by_kind.items() if rows.any()
        },
        fitted_steps=int((~held_out).sum()),
        warmup_steps=warmup_steps,
    )


def save_step_time(fit: StepTimeFit, path: Path | str) -> Path | None:
    """Write the model's file in one step; returns where the file it replaces is kept, None when there was none."""
    path = Path(path)
    text = json.dumps(fit.document(), indent=2, allow_nan=False) + "\n"
    try:
        make_directory(path.parent)
        kept = keep_old(path)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    write_atomically(path, text.encode())
    return kept


def _without_warm_up(records: Sequence[StepRecord], warmup_steps: int) -> list[StepRecord]:
    seen: dict[tuple[int, str | None], int] = {}
    kept: list[StepRecord] = []
    for record in records:
        origin = (record.engine, record.run)
        seen[origin] = seen.get(origin, 0) + 1
        if seen[origin] > warmup_steps:
            kept.append(record)
    return kept


def _require_steps(records: Sequence[StepRecord], warmup_steps: int) -> None:
    if len(records) < LEAST_STEPS:
        raise StepTimeError(
            f"the step log has {len(records)} steps beside {warmup_steps} of warm-up; expected at least {LEAST_STEPS}; "
            "run a longer benchmark"
        )
    counts = {
        "prefill": (sum(bool(record.chunks) for record in records), "run a benchmark of more requests"),
        "decodes alone": (
            sum(map(KINDS["decode_only"], records)),
            f"{ROOM}, and answers of some length: where every step has prefill, its own cost is in none of them",
        ),
    }
    for kind, (count, remedy) in counts.items():
        if count < LEAST_STEPS_OF_A_KIND:
            raise StepTimeError(
                f"{count} of the log's {len(records)} steps have {kind}; expected at least {LEAST_STEPS_OF_A_KIND}, to "
                f"tell what they cost; {remedy}"
            )


def _whole(records: Sequence[StepRecord], loads_SC: FloatArray, held_out: NDArray[np.bool_]) -> EngineTime | None:
    whole_ms = np.array(whole_steps_ms(records))
    rows = ~held_out & np.isfinite(whole_ms)
    used = [record for record, is_used in zip(records, rows.tolist(), strict=True) if is_used]
    if min(sum(map(KINDS["decode_only"], used)), sum(bool(each.chunks) for each in used)) < LEAST_STEPS_OF_A_KIND:
        return None
    per_request_ms, received = _per_request(records, whole_ms, rows), requests_received(records)
    steps_ms = whole_ms[rows] - per_request_ms * np.array(received)[rows]
    coefficients = _robust_nnls(loads_SC[rows], steps_ms)
    # a clock adds steps up, the slow ones that a robust fit passes over included
    return EngineTime(
        step=_model(coefficients * float(steps_ms.sum() / (loads_SC[rows] @ coefficients).sum())),
        per_request_ms=per_request_ms,
    )


def _per_request(records: Sequence[StepRecord], whole_ms: FloatArray, rows: NDArray[np.bool_]) -> float:
    """Return what a request that is received between two steps adds to the time between them, in ms; 0 where too few are."""
    received = np.array(requests_received(records), dtype=np.float64)[rows]
    if int((received > 0).sum()) < LEAST_STEPS_OF_A_KIND:
        return 0.0
    between_ms = whole_ms[rows] - np.array([record.execute_ms for record in records])[rows]
    return float(_robust_nnls(np.stack([np.ones_like(received), received], axis=1), between_ms)[1])


def whole_steps_ms(records: Sequence[StepRecord]) -> list[float]:
    """Return the time from each step's start to that of the next of its engine and run, in ms.

    NaN where the engine may have waited between the two: the next step serves nobody that this one served.
    """
    following: dict[tuple[int, str | None], tuple[int, StepRecord]] = {}
    times = [math.nan] * len(records)
    for place, record in enumerate(records):
        origin = (record.engine, record.run)
        before = following.get(origin)
        following[origin] = (place, record)
        if before is not None and record.step == before[1].step + 1 and _served(record) & _served(before[1]):
            times[before[0]] = max(1e3 * (record.started_seconds - before[1].started_seconds), before[1].execute_ms)
    return times


def requests_received(records: Sequence[StepRecord]) -> list[int]:
    """Return how many requests came between each step and the next of its engine and run; 0 for the last.

    Those that wait or run at the next, less those that did at this one, with those that this one was the last to serve.
    """
    following: dict[tuple[int, str | None], int] = {}
    last_served: dict[tuple[int, str | None, str], int] = {}
    counts = [0] * len(records)
    for place, record in enumerate(records):
        origin = (record.engine, record.run)
        before = following.get(origin)
        following[origin] = place
        if before is not None:
            there = records[before]
            counts[before] = record.waiting + record.running - there.waiting - there.running
        last_served |= dict.fromkeys(((*origin, name) for name in _served(record)), place)
    for (engine, run, _), place in last_served.items():
        if following[engine, run] != place:
            counts[place] += 1
    return [max(0, count) for count in counts]


def _served(record: StepRecord) -> set[str]:
    return {*record.decoding, *record.chunks}


def _model(coefficients: FloatArray) -> LinearStepTime:
    return LinearStepTime(**dict(zip(COEFFICIENTS, map(float, coefficients), strict=True)))


def _held_out(records: Sequence[StepRecord]) -> NDArray[np.bool_]:
    chosen = np.zeros(len(records), dtype=np.bool_)
    for is_of in KINDS.values():
        rows = np.flatnonzero([is_of(record) for record in records])
        # of a rare kind shorter blocks, so that some of it is held out all the same
        block = max(1, min(BLOCK_STEPS, len(rows) // HELD_OUT_EVERY))
        chosen[rows[(np.arange(len(rows)) // block) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1]] = True
    return chosen


def _robust_nnls(loads: FloatArray, times_ms: FloatArray) -> FloatArray:
    scales = np.maximum(loads.max(axis=0), 1.0)  # attention is a million times the step count: condition the columns
    columns = loads / scales
    weights = np.ones_like(times_ms)
    coefficients = np.zeros(columns.shape[1])
    for _ in range(REWEIGHTINGS):
        root = np.sqrt(weights)
        coefficients = nnls(columns * root[:, None], times_ms * root)[0]
        residuals = np.abs(times_ms - columns @ coefficients)
        spread_ms = MAD_TO_STD * float(np.median(residuals))
        weights = np.minimum(1.0, HUBER_SCALES * spread_ms / np.maximum(residuals, 1e-12))
        if spread_ms == 0:  # more than half of the steps are met exactly: nothing is left to weigh
            break
    return coefficients / scales


def _error(predicted_ms: FloatArray, measured_ms: FloatArray, fitted_mean_ms: float) -> HeldOutError:
    errors = np.abs(predicted_ms - measured_ms)
    return HeldOutError(
        mae=mean_estimate([float(each) for each in errors]),
        rmse_ms=math.sqrt(float((errors**2).mean())),
        p95_ms=percentile([float(each) for each in errors], 95),
        relative_error=float(errors.mean() / measured_ms.mean()),
        baseline_mae_ms=float(np.abs(measured_ms - fitted_mean_ms).mean()),
    )
