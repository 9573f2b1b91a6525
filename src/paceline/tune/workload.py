"""What a benchmark run serves: requests of a trace, scaled, or a synthetic load, labelled as one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from paceline.errors import InvalidValueError
from paceline.records import require_seed
from paceline.schedule.trace_request import TraceRequest

MOST = 10_000_000  # requests of a load, tokens of a request
MOST_TOKENS = 10**9  # of a prompt, or of an answer, of a trace
LARGEST_SECONDS = 1e12  # beyond the year 33,000: a count of milliseconds or nanoseconds taken for seconds is no arrival
Setting = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests by arrival, where they come from, and everything that was done to them."""

    requests: tuple[TraceRequest, ...]
    source: str
    synthetic: bool
    settings: Mapping[str, Setting] = field(default_factory=dict[str, Setting])

    def __post_init__(self) -> None:
        if not self.requests:
            raise InvalidValueError("requests", 0, "at least one")

    @property
    def label(self) -> str:
        """The source in words, `synthetic` first where it is that."""
        return f"synthetic load ({self.source})" if self.synthetic else f"trace {self.source}"

    @property
    def requests_per_second(self) -> float | None:
        """The offered load, (n - 1) arrivals over the time between the first and the last; None where all are at once."""
        seconds = self.requests[-1].arrival_seconds - self.requests[0].arrival_seconds
        return (len(self.requests) - 1) / seconds if seconds > 0 else None

    def document(self) -> dict[str, object]:
        """Return what a run's file says of its load, ready for JSON."""
        return {
            "source": self.source,
            "synthetic": self.synthetic,
            "requests": len(self.requests),
            "requests_per_second": self.requests_per_second,
            "prompt_tokens": sum(request.prompt_tokens for request in self.requests),
            "output_tokens": sum(request.output_tokens for request in self.requests),
            **self.settings,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadScaling:
    """How a load is changed before it is served, in this order; None and 1 leave it as it is.

    `limit` keeps the first requests; `length_scale` multiplies prompt and output tokens, never below one token;
    `speed` divides arrival times, or `rate` stretches them to so many requests a second; `ttft_budget_ms` is the budget
    of every request that brings none of its own.
    """

    limit: int | None = None
    length_scale: float = 1.0
    speed: float = 1.0
    rate: float | None = None
    ttft_budget_ms: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InvalidValueError("limit", self.limit, "at least 1 request")
        for name, value in (("length scale", self.length_scale), ("speed", self.speed), ("rate", self.rate)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidValueError(name, value, "a number above 0")
        if self.rate is not None and self.speed != 1:
            raise InvalidValueError("speed", self.speed, "1 (or nothing) together with a rate: both set the arrivals")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticLoad:
    """Poisson arrivals and lognormal lengths; medians in tokens, sigma of the logarithm, longest lengths cut off."""

    count: int = 200
    rate: float = 1.0
    prompt_median: int = 1000
    prompt_sigma: float = 1.0
    longest_prompt: int = 4000
    output_median: int = 130
    output_sigma: float = 0.8
    longest_output: int = 1000

    def __post_init__(self) -> None:
        for name in ("count", "prompt_median", "longest_prompt", "output_median", "longest_output"):
            if not 1 <= getattr(self, name) <= MOST:
                raise InvalidValueError(name, getattr(self, name), f"1 to {MOST:,}")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise InvalidValueError("rate", self.rate, "requests a second above 0")
        if self.count / self.rate > LARGEST_SECONDS:
            raise InvalidValueError("rate", self.rate, f"one at which all requests arrive within {LARGEST_SECONDS:g} s")
        for name in ("prompt_sigma", "output_sigma"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InvalidValueError(name, getattr(self, name), "a number of at least 0")

    def workload(self, seed: int) -> Workload:
        """Return the load that this seed draws; the same seed draws the same one."""
        require_seed(seed)
        random = np.random.default_rng(seed)
        gaps = random.exponential(1 / self.rate, self.count)
        arrivals = np.cumsum(gaps) - gaps[0]
        prompts = _lengths(random, self.count, self.prompt_median, self.prompt_sigma, self.longest_prompt)
        outputs = _lengths(random, self.count, self.output_median, self.output_sigma, self.longest_output)
        requests = tuple(
            TraceRequest(
                request_id=str(index),
                arrival_seconds=float(arrivals[index]),
                prompt_tokens=prompts[index],
                output_tokens=outputs[index],
            )
            for index in range(self.count)
        )
        source = f"Poisson arrivals, lognormal lengths, seed {seed}"
        settings: dict[str, Setting] = {
            "load_seed": seed,
            "drawn_rate": self.rate,
            "prompt_median": self.prompt_median,
            "prompt_sigma": self.prompt_sigma,
            "longest_prompt": self.longest_prompt,
            "output_median": self.output_median,
            "output_sigma": self.output_sigma,
            "longest_output": self.longest_output,
        }
        return Workload(requests=requests, source=source, synthetic=True, settings=settings)


def scaled(workload: Workload, scaling: LoadScaling) -> Workload:
    """Return the load after limit, length scale, speed or rate, and budget; raises InvalidValueError for a rate that
    cannot be set because all requests arrive at once, and for requests beyond sense."""
    kept = workload.requests[: scaling.limit]
    speed = _speed(kept, scaling)
    longest = max(max(each.prompt_tokens, each.output_tokens) for each in kept)
    if longest * scaling.length_scale > MOST_TOKENS:
        raise InvalidValueError("length scale", scaling.length_scale, f"one that leaves at most {MOST_TOKENS:,} tokens")
    if kept[-1].arrival_seconds - kept[0].arrival_seconds > LARGEST_SECONDS * speed:
        name, value = ("speed", scaling.speed) if scaling.rate is None else ("rate", scaling.rate)
        raise InvalidValueError(name, value, f"one at which all requests arrive within {LARGEST_SECONDS:g} s")
    requests = tuple(
        replace(
            request,
            arrival_seconds=(request.arrival_seconds - kept[0].arrival_seconds) / speed,
            prompt_tokens=_scaled_length(request.prompt_tokens, scaling.length_scale),
            output_tokens=_scaled_length(request.output_tokens, scaling.length_scale),
            ttft_budget_ms=scaling.ttft_budget_ms if request.ttft_budget_ms is None else request.ttft_budget_ms,
        )
        for request in kept
    )
    changes: dict[str, Setting] = {
        "limit": scaling.limit,
        "length_scale": scaling.length_scale,
        "speed": speed,
        "ttft_budget_ms": scaling.ttft_budget_ms,
    }
    return replace(workload, requests=requests, settings={**workload.settings, **changes})


def at_once(workload: Workload) -> Workload:
    """Return the same requests as a burst, all arriving at the start: what an engine's capacity is measured with."""
    requests = tuple(replace(request, arrival_seconds=0.0) for request in workload.requests)
    return replace(workload, requests=requests, settings={**workload.settings, "burst": True})


def require_context(workload: Workload, max_model_len: int) -> None:
    """Raise InvalidValueError, naming the first, when a request with its answer is longer than the model's context."""
    too_long = [each for each in workload.requests if each.prompt_tokens + each.output_tokens > max_model_len]
    if too_long:
        first = too_long[0]
        raise InvalidValueError(
            f"length of request {first.request_id!r}",
            first.prompt_tokens + first.output_tokens,
            f"at most {max_model_len} tokens, prompt and answer together: the model's context "
            f"({len(too_long)} of {len(workload.requests)} requests are longer; scale them with --length-scale)",
        )


def _speed(requests: Sequence[TraceRequest], scaling: LoadScaling) -> float:
    if scaling.rate is None:
        return scaling.speed
    seconds = requests[-1].arrival_seconds - requests[0].arrival_seconds
    if seconds <= 0:
        raise InvalidValueError("rate", scaling.rate, "nothing: all requests arrive at once, no stretching spaces them")
    return scaling.rate * seconds / (len(requests) - 1)


def _scaled_length(tokens: int, scale: float) -> int:
    return max(1, round(tokens * scale))


def _lengths(random: np.random.Generator, count: int, median: int, sigma: float, longest: int) -> list[int]:
    drawn = random.lognormal(math.log(median), sigma, count)
    return [int(length) for length in np.clip(np.rint(drawn), 1, longest)]
