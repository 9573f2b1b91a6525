"""When things happened to one finished request, and the metrics that follow from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from paceline.errors import InvalidValueError
from paceline.schedule.trace_request import require_lengths, require_ttft_budget
from paceline.slo import Proportion, adherence, goodput_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimes:
    """A finished request; its four times are of one clock, `execution_seconds` adds the steps it was in, all attempts.

    The metrics carry the names of their CSV files (S10); those named so are in seconds.
    """

    request_id: str
    arrival_seconds: float
    first_scheduled_seconds: float
    first_token_seconds: float
    completion_seconds: float
    execution_seconds: float
    prompt_tokens: int
    output_tokens: int
    preemptions: int = 0
    ttft_budget_ms: float | None = None

    def __post_init__(self) -> None:
        times = (
            self.arrival_seconds,
            self.first_scheduled_seconds,
            self.first_token_seconds,
            self.completion_seconds,
        )
        if not all(before <= after for before, after in pairwise(times)):
            raise InvalidValueError(
                f"times of request {self.request_id!r}", times, "arrival ≤ first scheduled ≤ first token ≤ completion"
            )
        if not self.execution_seconds >= 0:
            raise InvalidValueError("execution_seconds", self.execution_seconds, "a number of at least 0")
        if self.preemptions < 0:
            raise InvalidValueError("preemptions", self.preemptions, "at least 0")
        require_lengths(self.prompt_tokens, self.output_tokens)
        require_ttft_budget(self.ttft_budget_ms)

    @property
    def ttft_ms(self) -> float:
        """Time to first token, from the arrival."""
        return 1e3 * self.prefill_e2e_time

    @property
    def tpot_ms(self) -> float | None:
        """Time a token after the first, preemptions included; None for one output token."""
        seconds = self.decode_time_execution_plus_preemption_normalized
        return None if seconds is None else 1e3 * seconds

    @property
    def request_execution_time(self) -> float:
        """Seconds really executing, over all attempts."""
        return self.execution_seconds

    @property
    def request_execution_time_normalized(self) -> float:
        """Seconds really executing ÷ prompt and output tokens; Vidur and Sarathi-Serve divide by output tokens."""
        return self.execution_seconds / (self.prompt_tokens + self.output_tokens)

    @property
    def prefill_e2e_time(self) -> float:
        """Seconds from the arrival to the first token: TTFT."""
        return self.first_token_seconds - self.arrival_seconds

    @property
    def prefill_time_execution_plus_preemption_normalized(self) -> float:
        """Seconds from first scheduled to first token ÷ prompt tokens."""
        return (self.first_token_seconds - self.first_scheduled_seconds) / self.prompt_tokens

    @property
    def decode_time_execution_plus_preemption_normalized(self) -> float | None:
        """Seconds from first token to completion ÷ decode tokens; None for one output token.

        Decode tokens are those after the first, which comes from prefill; Vidur divides by all output tokens.
        """
        if self.output_tokens == 1:
            return None
        return (self.completion_seconds - self.first_token_seconds) / (self.output_tokens - 1)


# by the name of the CSV file and its column; None where a request has no such figure
REQUEST_METRICS: dict[str, Callable[[RequestTimes], float | None]] = {
    "request_execution_time": lambda request: request.request_execution_time,
    "request_execution_time_normalized": lambda request: request.request_execution_time_normalized,
    "prefill_e2e_time": lambda request: request.prefill_e2e_time,
    "prefill_time_execution_plus_preemption_normalized": (
        lambda request: request.prefill_time_execution_plus_preemption_normalized
    ),
    "decode_time_execution_plus_preemption_normalized": (
        lambda request: request.decode_time_execution_plus_preemption_normalized
    ),
}


def ttft_adherence(requests: Sequence[RequestTimes]) -> Proportion | None:
    """Return the share of requests with a budget whose first token came within it; None when none has a budget."""
    latencies_ms, budgets_ms = _ttfts_and_budgets(requests)
    return adherence(latencies_ms, budgets_ms) if budgets_ms else None


def ttft_goodput_per_second(requests: Sequence[RequestTimes], *, duration_seconds: float) -> float | None:
    """Return the requests whose first token kept its budget, for each second of a run; None when none has a budget."""
    latencies_ms, budgets_ms = _ttfts_and_budgets(requests)
    return goodput_per_second(latencies_ms, budgets_ms, duration_seconds=duration_seconds) if budgets_ms else None


def _ttfts_and_budgets(requests: Sequence[RequestTimes]) -> tuple[list[float], list[float]]:
    pairs = [(request.ttft_ms, request.ttft_budget_ms) for request in requests if request.ttft_budget_ms is not None]
    return [ttft for ttft, _ in pairs], [budget for _, budget in pairs]
