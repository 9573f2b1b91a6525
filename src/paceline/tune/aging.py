"""Weights of the aging policy from a run: what a second of waiting is worth in prompt tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from paceline.errors import InvalidValueError, RequestFileError, UnknownChoiceError
from paceline.schedule.policies import PolicyWeights
from paceline.schedule.request_times import REQUEST_METRICS, RequestTimes
from paceline.slo import percentile
from paceline.tune.metrics_csv import run_metric
from paceline.tune.run_files import REQUESTS, read_requests

PREFILL_METRIC = "prefill_time_execution_plus_preemption_normalized"
TOKEN_WEIGHTED = "token_weighted_mean"
STATISTICS = ("mean", "median", "p80", TOKEN_WEIGHTED)
SHORT_REQUEST_FACTOR = 0.3  # SPEC S10: of the prefill rate, to favour short requests


@dataclass(frozen=True, slots=True, kw_only=True)
class AgingWeights:
    """Two ways to weigh aging, from the seconds that a prompt token took in a run of `requests` requests.

    `weights` makes a second of waiting worth the prompt tokens that a second prefills: time_weight 1, prompt_weight
    minus the seconds a token. `alternative` counts in tokens, prompt_weight -1, and a second of waiting for less than
    that, `short_request_factor` of the prefill rate, so that short requests pass for longer.

    `seconds_per_prefill_token` holds mean, median and P80 over requests: a short prompt counts as much as a long one, and
    as each is in steps that it shares, the mean is above what a token costs the engine. `token_weighted_mean` divides all
    prefill seconds by all prompt tokens; None for a run without its requests' lengths.
    """

    seconds_per_prefill_token: Mapping[str, float]
    token_weighted_mean: float | None
    statistic: str
    short_request_factor: float
    requests: int

    @property
    def weights(self) -> PolicyWeights:
        """time_weight 1 and prompt_weight -(seconds per prefill token)."""
        return PolicyWeights(time_weight=1.0, prompt_weight=-self._chosen)

    @property
    def alternative(self) -> PolicyWeights:
        """prompt_weight -1 and time_weight (prefill tokens per second) · short_request_factor."""
        return PolicyWeights(time_weight=self.short_request_factor / self._chosen, prompt_weight=-1.0)

    @property
    def _chosen(self) -> float:
        if self.statistic == TOKEN_WEIGHTED and self.token_weighted_mean is not None:
            return self.token_weighted_mean
        return self.seconds_per_prefill_token[self.statistic]

    def document(self) -> dict[str, object]:
        """Return the weights as JSON."""
        alternative = self.alternative
        return {
            "seconds_per_prefill_token": dict(self.seconds_per_prefill_token),
            TOKEN_WEIGHTED: self.token_weighted_mean,
            "time_weight": self.weights.time_weight,
            "prompt_weight": self.weights.prompt_weight,
            "alternative": {"time_weight": alternative.time_weight, "prompt_weight": alternative.prompt_weight},
            "statistic": self.statistic,
            "short_request_factor": self.short_request_factor,
            "requests": self.requests,
        }


def aging_weights(
    run: Path | str, *, statistic: str = "mean", short_request_factor: float = SHORT_REQUEST_FACTOR
) -> AgingWeights:
    """Return aging's weights from a run's CSV files; raises RequestFileError when it has none that can be trusted."""
    run = Path(run)
    _require_choice(statistic, short_request_factor)
    seconds = run_metric(run, PREFILL_METRIC)
    by_tokens = _token_weighted_mean(run, seconds)
    figures = _statistics(list(seconds.values()))
    if statistic == TOKEN_WEIGHTED and by_tokens is None:
        raise RequestFileError(
            run,
            f"has no {REQUESTS}, so that the lengths of its prompts are not known",
            expected=f"one for the {TOKEN_WEIGHTED}",
            mend="choose another statistic, or name a run of `paceline tune replay`",
        )
    if (by_tokens if statistic == TOKEN_WEIGHTED else figures[statistic]) == 0:
        raise RequestFileError(
            run, f"{PREFILL_METRIC}: the {statistic} is 0", expected="times above 0", mend="run it again"
        )
    return AgingWeights(
        seconds_per_prefill_token=figures,
        token_weighted_mean=by_tokens,
        statistic=statistic,
        short_request_factor=short_request_factor,
        requests=len(seconds),
    )


def weights_of(
    requests: Sequence[RequestTimes], *, statistic: str = "mean", short_request_factor: float = SHORT_REQUEST_FACTOR
) -> AgingWeights:
    """Return aging's weights from finished requests; raises as `aging_weights` does for what cannot be asked for."""
    _require_choice(statistic, short_request_factor)
    metric = REQUEST_METRICS[PREFILL_METRIC]
    seconds = [metric(request) or 0.0 for request in requests]
    tokens = [request.prompt_tokens for request in requests]
    weighted = sum(each * count for each, count in zip(seconds, tokens, strict=True))
    return AgingWeights(
        seconds_per_prefill_token=_statistics(seconds),
        token_weighted_mean=weighted / sum(tokens),
        statistic=statistic,
        short_request_factor=short_request_factor,
        requests=len(requests),
    )


def _require_choice(statistic: str, short_request_factor: float) -> None:
    if statistic not in STATISTICS:
        raise UnknownChoiceError("statistic", statistic, STATISTICS)
    if not (math.isfinite(short_request_factor) and short_request_factor > 0):
        raise InvalidValueError("short request factor", short_request_factor, "a number above 0, for example 0.3")


def _statistics(seconds: Sequence[float]) -> dict[str, float]:
    return {"mean": fmean(seconds), "median": median(seconds), "p80": percentile(seconds, 80)}


def _token_weighted_mean(run: Path, seconds_per_token: Mapping[str, float]) -> float | None:
    if not (run / REQUESTS).is_file():
        return None
    tokens = {request.request_id: request.prompt_tokens for request in read_requests(run)}
    unknown = [name for name in seconds_per_token if name not in tokens]
    if unknown:
        raise RequestFileError(
            run / REQUESTS,
            f"lacks request {unknown[0]!r}, which {PREFILL_METRIC}.csv has",
            expected="the same requests in both",
            mend="run it again",
        )
    weighted = sum(seconds * tokens[name] for name, seconds in seconds_per_token.items())
    return weighted / sum(tokens[name] for name in seconds_per_token)
