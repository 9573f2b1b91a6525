"""Upper bounds of latency that hold with a chosen probability, from scores of requests that calibrated them.

A score is log(measured / predicted). The bound of a prediction is the prediction times exp(q), where q is a split-conformal
quantile of the scores: the ceil((n + 1)(1 − α))-th smallest of n (Vovk, Gammerman and Shafer, Algorithmic Learning in a
Random World, 2005; Romano, Patterson and Candès, Conformalized Quantile Regression, 2019). For a request exchangeable with
the calibrating ones the measured latency then exceeds the bound with probability α at most, whatever the distribution.

With fewer than ceil(1/α) − 1 scores that quantile is infinite. Such a configuration takes a quantile of all
configurations' scores instead. Those of one request are not independent of one another, so each request counts as one:
its scores share the weight 1/(K + 1) among K requests, and 1/(K + 1) is kept for the request to come (hierarchical
conformal prediction: Lee, Barber and Willett, Distribution-free inference with hierarchical data, 2023). That holds for
a configuration drawn at random, not for each by itself.

Split conformal promises 1 − α on average over all calibrations that might have been drawn; the one that was drawn keeps more
or less. With a `confidence` the rank is that of a tolerance limit (`slo.tolerance_rank`; Vovk, Conditional Validity of
Inductive Conformal Predictors, 2012): this very calibration keeps at least 1 − α with that confidence. The two ranks converge
as scores grow. Controllers use it, for they search many configurations for one whose bound fits, and so find the quantiles
that came out low by chance (docs/decisions/005-bounds.md).

Legend of array suffixes: C configurations, N scores.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.estimate.latency_model import LatencyEstimates
from paceline.records import KnobConfig, LatencyKind
from paceline.slo import tolerance_rank

SMALLEST_MS = 1e-6  # times below it count as this much, so that a score is always finite
DEFAULT_CONFIDENCE = 0.9
RANK_SLACK = 1e-9  # (n + 1)(1 − α) is a float: 19.000000000000004 is the 19th


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibratedConfig:
    """What a profile says of one configuration besides its latency; never learned from the samples that judge.

    `expected_output_tokens` is the mean length of its answers; a total latency counts on it where the request has no own.
    """

    config: KnobConfig
    accuracy: float
    accuracy_std: float
    num_samples: int
    expected_output_tokens: float

    def __post_init__(self) -> None:
        for name in ("accuracy", "accuracy_std", "expected_output_tokens"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InvalidValueError(name, value, "a finite number of at least 0")
        if self.num_samples < 1:
            raise InvalidValueError("num_samples", self.num_samples, "at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformalScores:
    """log(measured / predicted) of every calibrating request, for one latency kind.

    `scores_N` holds one configuration after another, each ascending; `counts_C` how many each has. `requests_N` numbers
    the request of each score, from 0.
    """

    scores_N: NDArray[np.float64]
    requests_N: NDArray[np.int32]
    counts_C: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.scores_N.ndim != 1 or self.requests_N.shape != self.scores_N.shape:
            raise InvalidValueError("scores", self.scores_N.shape, "a flat array with the request of each score")
        if self.counts_C.ndim != 1 or (self.counts_C < 0).any() or self.counts_C.sum() != len(self.scores_N):
            raise InvalidValueError("counts", self.counts_C.tolist(), f"counts that add up to {len(self.scores_N)}")
        if len(self.scores_N) == 0 or not np.isfinite(self.scores_N).all():
            raise InvalidValueError("scores", "empty or not finite", "at least one score, all of them finite numbers")
        if (np.diff(self.scores_N) < 0)[_inside(self.counts_C, len(self.scores_N) - 1)].any():
            raise InvalidValueError("scores", "out of order", "the scores of each configuration in ascending order")
        numbers = np.unique(self.requests_N)
        if not np.array_equal(numbers, np.arange(len(numbers))):
            raise InvalidValueError("requests", "with gaps", "the numbers from 0 on, each with at least one score")

    @property
    def num_requests(self) -> int:
        """How many requests the scores come from."""
        return int(self.requests_N.max()) + 1

    def quantiles(self, alpha: float, confidence: float | None = None) -> NDArray[np.float64]:
        """Return the quantile of every configuration, a pooled one where it has too few scores; infinite where all do.

        Holds on average over calibrations for a `confidence` of None, else for this one with that confidence.
        """
        starts = np.cumsum(self.counts_C) - self.counts_C
        ranks = self._ranks(alpha, confidence)
        own = ranks <= self.counts_C
        found = np.full(len(self.counts_C), math.inf if own.all() else self.pooled_quantile(alpha, confidence))
        found[own] = self.scores_N[(starts + ranks - 1)[own]]
        return found

    def medians(self) -> NDArray[np.float64]:
        """Return the median score of every configuration, that of all scores where it has none."""
        ends = np.cumsum(self.counts_C)
        own = (self.scores_N[end - count : end] for end, count in zip(ends, self.counts_C, strict=True))
        return np.array([np.median(scores if len(scores) else self.scores_N) for scores in own])

    def pooled_quantile(self, alpha: float, confidence: float | None = None) -> float:
        """Return the quantile over all configurations, every request of equal weight; infinite with too few requests."""
        requests = self.num_requests
        level = 1 - alpha if confidence is None else _rank(requests, alpha, confidence) / (requests + 1)
        order = np.argsort(self.scores_N, kind="stable")
        weights_N = 1 / np.bincount(self.requests_N)[self.requests_N[order]] / (requests + 1)
        place = int(np.searchsorted(np.cumsum(weights_N), level - RANK_SLACK))
        return float(self.scores_N[order[place]]) if place < len(order) else math.inf

    def pooled_configs(self, alpha: float, confidence: float | None = None) -> NDArray[np.bool_]:
        """Return which configurations have too few scores for a quantile of their own."""
        return self._ranks(alpha, confidence) > self.counts_C

    def _ranks(self, alpha: float, confidence: float | None) -> NDArray[np.int64]:
        counts = self.counts_C.tolist()
        rank_of = {count: _rank(count, alpha, confidence) for count in set(counts)}
        return np.array([rank_of[count] for count in counts])


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyBounds:
    """Scores of every configuration and latency kind; gives bounds at any α when they are asked for.

    `expected` says by kind what the fitted samples made expect of each configuration's bound, as a multiple of its
    prediction; the order in which bounds are tested comes of it, so nothing of the calibration may. `provenance` holds one
    JSON document a profiling run.
    """

    configs: tuple[CalibratedConfig, ...]
    scores: Mapping[LatencyKind, ConformalScores]
    expected: Mapping[LatencyKind, NDArray[np.float64]] = field(default_factory=dict[LatencyKind, NDArray[np.float64]])
    provenance: tuple[dict[str, object], ...] = ()

    def __post_init__(self) -> None:
        keys = [each.config.key for each in self.configs]
        if not keys or len(set(keys)) < len(keys):
            raise InvalidValueError("configurations", keys, "at least one, and none twice")
        for kind, scores in self.scores.items():
            if len(scores.counts_C) != len(keys):
                raise InvalidValueError(
                    f"{kind} counts", len(scores.counts_C), f"one for each of {len(keys)} configurations"
                )
        for kind, expected_C in self.expected.items():
            if expected_C.shape != (len(keys),) or not (np.isfinite(expected_C) & (expected_C > 0)).all():
                expected = f"a number above 0 for each of {len(keys)} configurations"
                raise InvalidValueError(f"expected bounds of {kind}", expected_C.tolist(), expected)

    def require_kind(self, kind: str) -> ConformalScores:
        """Return the scores of a latency kind; raises UnknownChoiceError when none were calibrated for it."""
        for known, scores in self.scores.items():
            if known == kind:
                return scores
        raise UnknownChoiceError("latency kind", kind, tuple(self.scores))

    def factors(
        self, alpha: float, kind: LatencyKind, confidence: float | None = DEFAULT_CONFIDENCE
    ) -> NDArray[np.float64]:
        """Return what a prediction of each configuration is multiplied by to be exceeded with probability α at most.

        With `confidence` over the calibration that was drawn, or on average over all that might have been for None. Raises
        InvalidValueError when α is no probability, or smaller than the number of calibrating requests can promise.
        """
        require_alpha(alpha)
        scores = self.require_kind(kind)
        factors_C = np.exp(scores.quantiles(alpha, confidence))
        if np.isinf(factors_C).all():
            count = scores.num_requests
            raise InvalidValueError(
                "alpha",
                alpha,
                f"at least {_least_alpha(count, confidence):.4g}: {count} requests calibrated these bounds and can promise "
                f"no more; profile more samples, so that {least_requests(alpha, confidence)} calibrate them, or give "
                "calibration a larger share",
            )
        return factors_C

    def ratios(self, kind: LatencyKind) -> NDArray[np.float64]:
        """Return what a prediction of each configuration is multiplied by to be the typical latency of a kind.

        The latency model predicts prefills and totals. A time to first token is its prefill times the median of measured
        over predicted: what preprocessing and the gaps between stages add.
        """
        if kind != "ttft":
            return np.ones(len(self.configs))
        return np.exp(self.require_kind(kind).medians())

    def expected_factors(self, kind: LatencyKind) -> NDArray[np.float64]:
        """Return the multiple of its prediction at which each configuration's bound is expected; ones where nothing says."""
        return self.expected.get(kind, np.ones(len(self.configs)))

    @property
    def expected_output_tokens(self) -> NDArray[np.float64]:
        """The mean answer length of every configuration."""
        return np.array([each.expected_output_tokens for each in self.configs])


def require_alpha(alpha: float) -> None:
    """Raise InvalidValueError unless `alpha` is a probability strictly between 0 and 1."""
    if not 0 < alpha < 1:
        raise InvalidValueError("alpha", alpha, "a probability between 0 and 1, for example 0.05")


def least_requests(alpha: float, confidence: float | None = DEFAULT_CONFIDENCE) -> int:
    """Return how many calibrating requests a bound needs that is exceeded with probability α at most.

    ceil(1/α) − 1 on average over calibrations; with a confidence the n at which (1 − α)^n is at most 1 − confidence.
    """
    if confidence is None:
        return math.ceil(1 / alpha - RANK_SLACK) - 1
    return math.ceil(math.log(1 - confidence) / math.log(1 - alpha) - RANK_SLACK)


def _least_alpha(count: int, confidence: float | None) -> float:
    return 1 / (count + 1) if confidence is None else 1 - (1 - confidence) ** (1 / count)


def _rank(count: int, alpha: float, confidence: float | None) -> int:
    """Return the rank of the score that bounds, from 1; above `count` where there are too few."""
    if confidence is None:
        # alpha so large that the rank is 0 still bounds by the smallest score
        return max(1, math.ceil((count + 1) * (1 - alpha) - RANK_SLACK))
    return tolerance_rank(count, 1 - alpha, confidence) or count + 1


def predicted_ms(
    estimates: LatencyEstimates, kind: LatencyKind, output_tokens_C: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Return the predicted latency of every configuration, one kind: a total is prefill + decode · (output tokens − 1).

    For `ttft` that is the prefill, which its scores and `LatencyBounds.ratios` are relative to.

    Raises InvalidValueError for a total of several tokens from a model that never saw a decode step.
    """
    if kind != "total":
        return np.maximum(estimates.prefill_ms_C, SMALLEST_MS)
    steps_C = np.maximum(np.asarray(output_tokens_C) - 1, 0.0)
    decode_ms_C = np.where(steps_C > 0, estimates.decode_per_token_ms_C * steps_C, 0.0)
    if np.isnan(decode_ms_C).any():
        expected = "1: no sample that the latency model was fitted on had a decode step"
        raise InvalidValueError("output tokens", float(steps_C.max() + 1), expected)
    return np.maximum(estimates.prefill_ms_C + decode_ms_C, SMALLEST_MS)


def _inside(counts_C: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Return which steps from one score to the next stay within a configuration."""
    inside = np.ones(size, dtype=np.bool_)
    borders = np.cumsum(counts_C)[:-1] - 1
    inside[borders[(borders >= 0) & (borders < size)]] = False
    return inside
