"""What a simulation serves: sizes and arrivals of requests in columns, so that a million of them are three arrays."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paceline.errors import InvalidValueError
from paceline.schedule.trace_request import TraceRequest

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RequestColumns:
    """Requests by arrival, seconds and tokens, one entry a request in each column; equal arrivals keep their order.

    `ttft_budget_seconds` is infinite for a request without a budget; no column where none has one.
    `prefill_factor`, None for 1 everywhere, is what a request's prompt tokens cost in shares of their time by the
    step-time model. Of a step with chunks, what it takes longer than its decodes alone is multiplied by the mean factor
    of its prompt tokens; without decodes all of it is. Decodes cost the same under all factors, and the planner's time
    target does not know of them.
    """

    arrival_seconds: Floats
    prompt_tokens: Integers
    output_tokens: Integers
    prefill_factor: Floats | None = None
    ttft_budget_seconds: Floats | None = None

    def __post_init__(self) -> None:
        optional = [each for each in (self.prefill_factor, self.ttft_budget_seconds) if each is not None]
        sizes = [len(each) for each in (self.arrival_seconds, self.prompt_tokens, self.output_tokens, *optional)]
        if len(set(sizes)) > 1 or not sizes[0]:
            raise InvalidValueError("columns of a load", tuple(sizes), "one length for all, of at least 1 request")
        _require_numbers(self.arrival_seconds)
        late = np.flatnonzero(np.diff(self.arrival_seconds) < 0)
        if len(late):
            index = int(late[0]) + 1
            expected = (
                f"at least {float(self.arrival_seconds[index - 1])}, the arrival before it: sort requests by arrival"
            )
            raise InvalidValueError(f"arrival_seconds[{index}]", float(self.arrival_seconds[index]), expected)
        for name in ("prompt_tokens", "output_tokens"):
            column: Integers = getattr(self, name)
            empty = np.flatnonzero(column < 1)
            if len(empty):
                expected = "at least 1 token: a request has a prompt and gets an answer"
                raise InvalidValueError(f"{name}[{int(empty[0])}]", int(column[empty[0]]), expected)
        if self.prefill_factor is not None:
            _require_factors(self.prefill_factor)
        if self.ttft_budget_seconds is not None:
            _require_budgets(self.ttft_budget_seconds)

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    @staticmethod
    def of(requests: Sequence[TraceRequest]) -> "RequestColumns":
        """Return the columns of a trace."""
        return RequestColumns(
            arrival_seconds=np.array([request.arrival_seconds for request in requests], dtype=np.float64),
            prompt_tokens=np.array([request.prompt_tokens for request in requests], dtype=np.int64),
            output_tokens=np.array([request.output_tokens for request in requests], dtype=np.int64),
            ttft_budget_seconds=np.array([_budget_seconds(request) for request in requests], dtype=np.float64),
        )

    @property
    def factors(self) -> Floats:
        """The prefill factor of each request."""
        return np.ones(len(self)) if self.prefill_factor is None else self.prefill_factor

    @staticmethod
    def without_ones(factors: Floats) -> Floats | None:
        """Return prefill factors as a load has them: None where all are 1."""
        return factors if (factors != 1.0).any() else None

    @property
    def budgets(self) -> Floats:
        """The budget of each request in seconds, infinite without one."""
        return np.full(len(self), math.inf) if self.ttft_budget_seconds is None else self.ttft_budget_seconds

    def rows(self) -> Iterator[tuple[float, int, int, float, float]]:
        """Yield arrival, prompt and output tokens, prefill factor and budget of each request."""
        columns = (self.arrival_seconds, self.prompt_tokens, self.output_tokens, self.factors, self.budgets)
        return zip(*(column.tolist() for column in columns), strict=True)

    def part(self, chosen: Integers) -> "RequestColumns":
        """Return the requests of these indexes, which rise."""
        return RequestColumns(
            arrival_seconds=self.arrival_seconds[chosen],
            prompt_tokens=self.prompt_tokens[chosen],
            output_tokens=self.output_tokens[chosen],
            prefill_factor=None if self.prefill_factor is None else self.prefill_factor[chosen],
            ttft_budget_seconds=None if self.ttft_budget_seconds is None else self.ttft_budget_seconds[chosen],
        )


def _budget_seconds(request: TraceRequest) -> float:
    return math.inf if request.ttft_budget_ms is None else request.ttft_budget_ms / 1e3


def _require_budgets(budgets: Floats) -> None:
    bad = np.flatnonzero(~(budgets > 0))
    if len(bad):
        index = int(bad[0])
        expected = "a number of seconds above 0, infinite for no budget"
        raise InvalidValueError(f"ttft_budget_seconds[{index}]", float(budgets[index]), expected)


def _require_numbers(arrivals: Floats) -> None:
    bad = np.flatnonzero(~(np.isfinite(arrivals) & (arrivals >= 0)))
    if len(bad):
        index = int(bad[0])
        expected = "a number of seconds of at least 0"
        raise InvalidValueError(f"arrival_seconds[{index}]", float(arrivals[index]), expected)


def _require_factors(factors: Floats) -> None:
    bad = np.flatnonzero(~(np.isfinite(factors) & (factors > 0)))
    if len(bad):
        index = int(bad[0])
        raise InvalidValueError(f"prefill_factor[{index}]", float(factors[index]), "a finite number above 0")
