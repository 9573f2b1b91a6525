"""What one benchmark run comes to: first-token and per-token times, throughput, goodput and adherence, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from paceline.errors import InvalidValueError
from paceline.schedule.request_times import RequestTimes, ttft_adherence
from paceline.slo import Interval, Proportion, percentile, percentile_interval

PERCENTS = (50, 95, 99)
PLAIN_PERCENTS = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class PercentileEstimate:
    """A percentile over the requests of one run; no interval where there are too few of them to tell.

    The interval takes requests for independent. In a queue neighbours wait together, so that it is too narrow: compare
    settings over repetitions, not by the intervals of two runs.
    """

    value: float
    interval: Interval | None

    def document(self) -> dict[str, object]:
        """Return value and interval, ready for JSON."""
        return {"value": self.value, "ci": self.interval and [self.interval.low, self.interval.high]}

    def __str__(self) -> str:
        return f"{self.value:.1f}" + (
            f" ({self.interval.low:.1f} to {self.interval.high:.1f})" if self.interval else ""
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Figures of one run; percentiles by percent, TPOT over requests with two tokens or more.

    `adherence` is over the requests that have a first-token budget, None when none has; goodput counts those within it
    for each second from the first arrival to the last completion.
    """

    requests: int
    preemptions: int
    duration_seconds: float
    ttft_ms: Mapping[int, PercentileEstimate]
    tpot_ms: Mapping[int, PercentileEstimate]
    prompt_tokens: int
    output_tokens: int
    adherence: Proportion | None

    @property
    def requests_per_second(self) -> float:
        """Requests finished a second, the tail in which the load runs out included."""
        return self.requests / self.duration_seconds

    @property
    def output_tokens_per_second(self) -> float:
        """Output tokens a second."""
        return self.output_tokens / self.duration_seconds

    @property
    def goodput_per_second(self) -> float | None:
        """Requests within their budgets a second; None when none has a budget."""
        return None if self.adherence is None else self.adherence.successes / self.duration_seconds

    @property
    def goodput_interval(self) -> Interval | None:
        """The interval of adherence as a rate: the run's duration is taken as it was."""
        if self.adherence is None:
            return None
        shares, rate = self.adherence.interval(), self.adherence.count / self.duration_seconds
        return Interval(low=shares.low * rate, high=shares.high * rate)

    def document(self) -> dict[str, object]:
        """Return the figures, ready for JSON."""
        shares, goodput = self.adherence and self.adherence.interval(), self.goodput_interval
        return {
            "requests": self.requests,
            "preemptions": self.preemptions,
            "duration_seconds": self.duration_seconds,
            "ttft_ms": {f"p{percent}": each.document() for percent, each in self.ttft_ms.items()},
            "tpot_ms": {f"p{percent}": each.document() for percent, each in self.tpot_ms.items()},
            "requests_per_second": self.requests_per_second,
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "output_tokens_per_second": self.output_tokens_per_second,
            "adherence": self.adherence and self.adherence.share,
            "adherence_ci": shares and [shares.low, shares.high],
            "goodput_per_second": self.goodput_per_second,
            "goodput_ci": goodput and [goodput.low, goodput.high],
        }


def summarize(requests: Sequence[RequestTimes]) -> RunSummary:
    """Return the figures of a run of at least one request."""
    if not requests:
        raise InvalidValueError("requests", 0, "at least one that finished")
    first = min(request.arrival_seconds for request in requests)
    last = max(request.completion_seconds for request in requests)
    return RunSummary(
        requests=len(requests),
        preemptions=sum(request.preemptions for request in requests),
        duration_seconds=last - first,
        ttft_ms=_percentiles([request.ttft_ms for request in requests]),
        tpot_ms=_percentiles([request.tpot_ms for request in requests if request.tpot_ms is not None]),
        prompt_tokens=sum(request.prompt_tokens for request in requests),
        output_tokens=sum(request.output_tokens for request in requests),
        adherence=ttft_adherence(requests),
    )


def plain_figures(requests: Sequence[RequestTimes]) -> dict[str, object]:
    """Return the figures of a run of at least one request as simulators print them: mean and percentiles without intervals.

    `e2e_ms` is from a request's arrival to its completion; a time that no request has is None, such as TPOT of answers of one
    token.
    """
    summary = summarize(requests)
    whole_ms = [1e3 * (request.completion_seconds - request.arrival_seconds) for request in requests]
    return {
        "requests": summary.requests,
        "preemptions": summary.preemptions,
        "simulated_seconds": summary.duration_seconds,
        "ttft_ms": _plain([request.ttft_ms for request in requests]),
        "tpot_ms": _plain([request.tpot_ms for request in requests if request.tpot_ms is not None]),
        "e2e_ms": _plain(whole_ms),
        "requests_per_second": summary.requests_per_second,
        "goodput_per_second": summary.goodput_per_second,
    }


def _plain(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": fmean(values), **{f"p{percent}": percentile(values, percent) for percent in PLAIN_PERCENTS}}


def _percentiles(values: Sequence[float]) -> dict[int, PercentileEstimate]:
    if not values:
        return {}
    return {
        percent: PercentileEstimate(value=percentile(values, percent), interval=percentile_interval(values, percent))
        for percent in PERCENTS
    }
