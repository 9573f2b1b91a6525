"""Weights of the aging policy from a run: what a second of waiting is worth in prompt tokens."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from paceline.errors import InvalidValueError, RequestFileError, UnknownChoiceError
from paceline.schedule.policies import PolicyWeights
from paceline.slo import percentile
from paceline.tune.metrics_csv import run_metric

PREFILL_METRIC = "prefill_time_execution_plus_preemption_normalized"
STATISTICS = ("mean", "median", "p80")
SHORT_REQUEST_FACTOR = 0.3  # SPEC S10: of the prefill rate, to favour short requests


@dataclass(frozen=True, slots=True, kw_only=True)
class AgingWeights:
    """Two ways to weigh aging, from the seconds that a prompt token took in a run of `requests` requests.

    `weights` makes a second of waiting worth the prompt tokens that a second prefills: time_weight 1, prompt_weight
    minus the seconds a token. `alternative` counts in tokens, prompt_weight -1, and a second of waiting for less than
    that, `short_request_factor` of the prefill rate, so that short requests pass for longer.
    """

    seconds_per_prefill_token: Mapping[str, float]
    statistic: str
    short_request_factor: float
    requests: int

    @property
    def weights(self) -> PolicyWeights:
        """time_weight 1 and prompt_weight -(seconds per prefill token)."""
        return PolicyWeights(time_weight=1.0, prompt_weight=-self.seconds_per_prefill_token[self.statistic])

    @property
    def alternative(self) -> PolicyWeights:
        """prompt_weight -1 and time_weight (prefill tokens per second) · short_request_factor."""
        tokens_per_second = 1 / self.seconds_per_prefill_token[self.statistic]
        return PolicyWeights(time_weight=tokens_per_second * self.short_request_factor, prompt_weight=-1.0)

    def document(self) -> dict[str, object]:
        """Return the weights as JSON."""
        alternative = self.alternative
        return {
            "seconds_per_prefill_token": dict(self.seconds_per_prefill_token),
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
    if statistic not in STATISTICS:
        raise UnknownChoiceError("statistic", statistic, STATISTICS)
    if not (math.isfinite(short_request_factor) and short_request_factor > 0):
        raise InvalidValueError("short request factor", short_request_factor, "a number above 0, for example 0.3")
    values = list(run_metric(run, PREFILL_METRIC).values())
    figures = {"mean": fmean(values), "median": median(values), "p80": percentile(values, 80)}
    if figures[statistic] == 0:
        raise RequestFileError(
            run, f"{PREFILL_METRIC}: the {statistic} is 0", expected="times above 0", mend="run it again"
        )
    return AgingWeights(
        seconds_per_prefill_token=figures,
        statistic=statistic,
        short_request_factor=short_request_factor,
        requests=len(values),
    )
