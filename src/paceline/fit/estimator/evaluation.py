"""How far an estimator is off on samples it never saw, next to baselines fitted on the samples it was trained on.

Every interval counts samples, not rows: the configurations of one sample share its picture and the moment it ran, so
their errors are not independent. Legend of array suffixes: N rows, S samples, K heads (prefill, decode).
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import t as student

from paceline.errors import EstimatorError, PacelineWarning
from paceline.estimate.circumstances import circumstances_of, differences, engines_apart
from paceline.estimate.description import DESCRIPTION_FILE
from paceline.estimate.network import NetworkEstimator
from paceline.fit.conformal import parts_of_profile, split_of
from paceline.fit.estimator.baselines import BASELINES
from paceline.fit.estimator.rows import decode_definition_of, latency_rows
from paceline.profiles import CONFIGURATION, Profile, SampleParts
from paceline.records import KnobConfig
from paceline.slo import CONFIDENCE, Interval

PERCENTILES = {"p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95}
HEADS = ("prefill", "decode")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyErrors:
    """Errors of one latency over `n` rows; signed errors are predicted − measured.

    `relative_error` is the mean of |error| / measured and `median_relative_error` its median, over rows that took any
    time; None where no row did. `mae_interval` covers 95 %, None from a single sample.
    """

    n: int
    mae_ms: float
    mae_interval: Interval | None
    rmse_ms: float
    bias_ms: float
    relative_error: float | None
    median_relative_error: float | None
    error_percentiles_ms: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadErrors:
    """Errors of both latencies over the same `n` rows; a latency that no row has is None."""

    n: int
    prefill: LatencyErrors
    decode: LatencyErrors | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaeDifference:
    """Mean |error| of the estimator minus that of a baseline on the same rows: below 0 the estimator is better.

    It says so with confidence where the whole interval (95 %) is below 0.
    """

    difference_ms: float
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineErrors:
    """A baseline's errors, and what the estimator gains on it for each latency that was judged."""

    errors: HeadErrors
    estimator_minus_baseline: dict[str, MaeDifference]


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorEvaluation:
    """All that held-out samples say of an estimator; `n` rows of `num_samples` samples."""

    n: int
    num_samples: int
    errors: HeadErrors
    by_config: Mapping[str, HeadErrors]
    by_dataset: Mapping[str, HeadErrors]
    baselines: Mapping[str, BaselineErrors]


def require_comparable(estimator: NetworkEstimator, profile: Profile, artifact: Path | str = DESCRIPTION_FILE) -> None:
    """Refuse an estimator of another model or engine than the profile's, and warn of one measured in other circumstances.

    Raises EstimatorError.
    """
    estimator.require_model(frozenset(run.model for run in profile.provenance), artifact=artifact)
    runs = [asdict(run) for run in profile.provenance]
    there, here = circumstances_of(estimator.provenance), circumstances_of(runs)
    apart = engines_apart(there, here)
    if apart is not None:
        raise EstimatorError(
            artifact,
            f"was {apart}",
            expected="an estimator and a profile of one engine",
            mend="train one on this profile",
        )
    found = differences(there, here)
    if found:
        warnings.warn(
            f"the estimator and {profile.source} were measured in different circumstances ({'; '.join(found)}), so its "
            "errors here say little of either; train one on this profile",
            PacelineWarning,
            stacklevel=3,
        )


def parts_of(estimator: NetworkEstimator, profile: Profile) -> SampleParts:
    """Return the profile parted as the estimator's training parted it, so that what it saw never judges it.

    Warns where it was measured in other circumstances. Raises EstimatorError when the profile was measured on another model
    or under other configurations.
    """
    require_comparable(estimator, profile)
    configs = {KnobConfig(**row) for row in profile.samples.select(CONFIGURATION).unique().iter_rows(named=True)}
    unknown = sorted(config.key for config in configs - set(estimator.configs))
    if unknown:
        raise EstimatorError(
            profile.source,
            f"holds samples under {', '.join(unknown[:4])}, which the estimator was not trained on",
            expected=f"the {len(estimator.configs)} configurations of the estimator",
            mend="train an estimator on this profile, or judge it on a profile of its own grid",
        )
    return parts_of_profile(profile, split_of(estimator.description))


def evaluate_estimator(
    estimator: NetworkEstimator, parts: SampleParts, *, baselines: Sequence[str] = tuple(BASELINES)
) -> EstimatorEvaluation:
    """Judge an estimator and some of BASELINES on the test part; the baselines are fitted on the fit part."""
    definition = decode_definition_of(pl.concat([parts.fit, parts.test]))
    fitted, judged = latency_rows(parts.fit, definition), latency_rows(parts.test, definition)
    sample_N = parts.test.select(pl.struct(pl.col("dataset").cast(pl.String), "sample_id").rank("dense")).to_series()
    measured = _Measured(
        ms_NK=judged.measured_ms_NK, known_NK=judged.weight_NK > 0, sample_N=sample_N.to_numpy().astype(np.int64)
    )
    predicted_NK = np.column_stack(estimator.estimate_rows(judged.features_NF))
    if not estimator.description.num_decode_rows:
        measured.known_NK[:, 1] = False
    baseline_NK_by_name = {name: BASELINES[name](fitted)(judged.features_NF) for name in baselines}
    return EstimatorEvaluation(
        n=len(sample_N),
        num_samples=sample_N.n_unique(),
        errors=measured.errors(predicted_NK),
        by_config=_by_group(measured, predicted_NK, parts.test.select(_config_key()).to_series()),
        by_dataset=_by_group(measured, predicted_NK, parts.test["dataset"].cast(pl.String)),
        baselines={
            name: BaselineErrors(
                errors=measured.errors(baseline_NK),
                estimator_minus_baseline=measured.differences(predicted_NK, baseline_NK),
            )
            for name, baseline_NK in baseline_NK_by_name.items()
        },
    )


def evaluation_document(evaluation: EstimatorEvaluation) -> dict[str, Any]:
    """Return the evaluation as the JSON document of `paceline estimator eval`; a latency nobody measured is null."""
    return {
        "n": evaluation.n,
        "num_samples": evaluation.num_samples,
        **_head_document(evaluation.errors),
        "by_config": {name: {"n": each.n, **_head_document(each)} for name, each in evaluation.by_config.items()},
        "by_dataset": {name: {"n": each.n, **_head_document(each)} for name, each in evaluation.by_dataset.items()},
        "baselines": {
            name: {
                **_head_document(each.errors),
                "estimator_minus_baseline": {
                    head: {"mae_ms": gain.difference_ms, "ci": _pair(gain.interval)}
                    for head, gain in each.estimator_minus_baseline.items()
                },
            }
            for name, each in evaluation.baselines.items()
        },
    }


def sample_mean(values_N: Floats, sample_N: NDArray[np.int64]) -> tuple[float, Interval | None]:
    """Return the mean of values and its 95 % interval with samples as the independent units; None from a single one.

    The ratio estimator's own variance, with Student's t of samples − 1 (Cochran, Sampling Techniques, 1977, ch. 2 and 6).
    """
    of_N = np.unique(sample_N, return_inverse=True)[1]
    count_S = np.bincount(of_N)
    mean, samples = float(values_N.mean()), len(count_S)
    if samples < 2:
        return mean, None
    residual_S = np.bincount(of_N, values_N - mean)
    error = math.sqrt(float(residual_S @ residual_S) * samples / (samples - 1)) / len(values_N)
    reach = float(student.ppf((1 + CONFIDENCE) / 2, samples - 1)) * error
    return mean, Interval(low=mean - reach, high=mean + reach)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What held-out rows took, which of both latencies each has, and which sample it is of."""

    ms_NK: Floats
    known_NK: NDArray[np.bool_]
    sample_N: NDArray[np.int64]

    def of(self, rows_N: NDArray[np.bool_]) -> "_Measured":
        """Return some of the rows."""
        return _Measured(ms_NK=self.ms_NK[rows_N], known_NK=self.known_NK[rows_N], sample_N=self.sample_N[rows_N])

    def errors(self, predicted_NK: Floats) -> HeadErrors:
        """Return the errors of predictions for these rows."""
        decode = self._latency_errors(predicted_NK, 1) if self.known_NK[:, 1].any() else None
        return HeadErrors(n=len(self.ms_NK), prefill=self._latency_errors(predicted_NK, 0), decode=decode)

    def differences(self, predicted_NK: Floats, baseline_NK: Floats) -> dict[str, MaeDifference]:
        """Return what predictions gain on a baseline's, paired by row."""
        found: dict[str, MaeDifference] = {}
        for head, name in enumerate(HEADS):
            known_N = self.known_NK[:, head]
            if known_N.any():
                measured_N = self.ms_NK[known_N, head]
                ours_N, theirs_N = (np.abs(each[known_N, head] - measured_N) for each in (predicted_NK, baseline_NK))
                mean, interval = sample_mean(ours_N - theirs_N, self.sample_N[known_N])
                found[name] = MaeDifference(difference_ms=mean, interval=interval)
        return found

    def _latency_errors(self, predicted_NK: Floats, head: int) -> LatencyErrors:
        known_N = self.known_NK[:, head]
        measured_N = self.ms_NK[known_N, head]
        error_N = predicted_NK[known_N, head] - measured_N
        took_time_N = measured_N > 0
        relative_N = np.abs(error_N[took_time_N]) / measured_N[took_time_N]
        mae_ms, interval = sample_mean(np.abs(error_N), self.sample_N[known_N])
        cuts = np.percentile(error_N, list(PERCENTILES.values()))
        return LatencyErrors(
            n=len(error_N),
            mae_ms=mae_ms,
            mae_interval=interval,
            rmse_ms=math.sqrt(float(np.mean(error_N**2))),
            bias_ms=float(error_N.mean()),
            relative_error=float(relative_N.mean()) if len(relative_N) else None,
            median_relative_error=float(np.median(relative_N)) if len(relative_N) else None,
            error_percentiles_ms=dict(zip(PERCENTILES, cuts.tolist(), strict=True)),
        )


def _by_group(measured: _Measured, predicted_NK: Floats, names: pl.Series) -> dict[str, HeadErrors]:
    rows_by_name = {name: (names == name).to_numpy() for name in sorted(names.unique().to_list())}
    return {name: measured.of(rows_N).errors(predicted_NK[rows_N]) for name, rows_N in rows_by_name.items()}


def _config_key() -> pl.Expr:
    return pl.concat_str([pl.col(name).cast(pl.String).fill_null("none") for name in CONFIGURATION], separator="_")


def _head_document(errors: HeadErrors) -> dict[str, Any]:
    return {
        "prefill": _latency_document(errors.prefill),
        "decode": None if errors.decode is None else _latency_document(errors.decode),
    }


def _latency_document(errors: LatencyErrors) -> dict[str, Any]:
    document = asdict(errors)
    document["mae_ci"] = _pair(errors.mae_interval)
    del document["mae_interval"]
    return document


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]
