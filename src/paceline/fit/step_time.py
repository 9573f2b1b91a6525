"""The step-time model from an engine's own step log: non-negative least squares that a few odd steps do not bend.

Robustness after Huber (Annals of Mathematical Statistics 35, 1964): a step whose residual is beyond `HUBER_SCALES`
robust standard deviations counts less the further out it is, by iterated weights.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from paceline.errors import InvalidValueError, OutputPathError, StepTimeError
from paceline.profiles.atomic import keep_old, write_atomically
from paceline.schedule import LinearStepTime, StepRecord
from paceline.slo import MeanEstimate, mean_estimate, percentile

SCHEMA_VERSION = 1
WARMUP_STEPS = 10
LEAST_STEPS = 50
LEAST_STEPS_OF_A_KIND = 10
BLOCK_STEPS, HELD_OUT_EVERY = 10, 5
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
    """A fitted model with its held-out error, and how many steps it was fitted on."""

    model: LinearStepTime
    held_out: HeldOutError
    fitted_steps: int
    warmup_steps: int

    def document(self) -> dict[str, Any]:
        """Return the file's content: the coefficients at its top level, as `LinearStepTime.load` reads them."""
        return {
            "schema_version": SCHEMA_VERSION,
            **self.model.document(),
            "fitted_steps": self.fitted_steps,
            "warmup_steps": self.warmup_steps,
            "held_out": self.held_out.document(),
        }


def fit_step_time(records: Sequence[StepRecord], *, warmup_steps: int = WARMUP_STEPS) -> StepTimeFit:
    """Fit the coefficients on a step log in its own order, the first `warmup_steps` left out.

    Every fifth block of ten consecutive steps is held out: neighbouring steps are alike, so that steps picked singly
    would flatter the error, and the last part of a run alone may be nothing but decodes. Raises StepTimeError for too
    few steps, or too few with prefill or with decodes to tell their cost.
    """
    if warmup_steps < 0:
        raise InvalidValueError("warmup_steps", warmup_steps, "a whole number of at least 0")
    kept = records[warmup_steps:]
    _require_steps(kept, warmup_steps)
    loads, times_ms = _columns(kept)
    held_out = (np.arange(len(kept)) // BLOCK_STEPS) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    coefficients = _robust_nnls(loads[~held_out], times_ms[~held_out])
    model = LinearStepTime(**dict(zip(COEFFICIENTS, map(float, coefficients), strict=True)))
    return StepTimeFit(
        model=model,
        held_out=_error(loads[held_out] @ coefficients, times_ms[held_out], float(times_ms[~held_out].mean())),
        fitted_steps=int((~held_out).sum()),
        warmup_steps=warmup_steps,
    )


def save_step_time(fit: StepTimeFit, path: Path | str) -> Path | None:
    """Write the model's file in one step; returns where the file it replaces is kept, None when there was none."""
    path = Path(path)
    text = json.dumps(fit.document(), indent=2, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = keep_old(path)
    except OSError as error:
        raise OutputPathError(path, error.strerror or str(error)) from error
    write_atomically(path, text.encode())
    return kept


def _require_steps(records: Sequence[StepRecord], warmup_steps: int) -> None:
    if len(records) < LEAST_STEPS:
        raise StepTimeError(
            f"the step log has {len(records)} steps beside {warmup_steps} of warm-up; expected at least {LEAST_STEPS}; "
            "run a longer benchmark"
        )
    counts = {
        "prefill": sum(bool(record.chunks) for record in records),
        "decodes": sum(record.decode_tokens > 0 for record in records),
    }
    for kind, count in counts.items():
        if count < LEAST_STEPS_OF_A_KIND:
            raise StepTimeError(
                f"{count} of the log's {len(records)} steps have {kind}; expected at least {LEAST_STEPS_OF_A_KIND}, to "
                f"tell what they cost; run a benchmark with longer {'prompts' if kind == 'prefill' else 'answers'}"
            )


def _columns(records: Sequence[StepRecord]) -> tuple[FloatArray, FloatArray]:
    """Return loads (step, coefficient) in the order of COEFFICIENTS, and the measured times."""
    loads = [
        (
            1.0,
            load.decode_tokens,
            load.decode_context_tokens,
            load.prefill_tokens,
            load.prefill_attention_tokens,
        )
        for load in (record.load for record in records)
    ]
    return np.array(loads, dtype=np.float64), np.array([record.execute_ms for record in records], dtype=np.float64)


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
