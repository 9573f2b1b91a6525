"""What a latency budget allows each configuration: how many output tokens, and whether the expected answer fits."""

import math
from dataclasses import dataclass

from paceline.errors import InvalidValueError
from paceline.records import KnobConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class FeasibleConfig:
    """One configuration under a budget.

    `max_output_tokens` counts whole tokens, the first among them: it comes from prefill and costs no decode step. It is 0
    when prefill alone exceeds the budget, and None where decode is unknown or costs nothing. `total_ms` is
    prefill + decode · (expected output tokens − 1), `feasible` whether that is within the budget; these are the
    estimator's means: about half of such requests take longer, which only a bound promises against.
    """

    config: KnobConfig
    prefill_ms: float
    decode_per_token_ms: float | None
    total_ms: float | None
    max_output_tokens: int | None
    feasible: bool


def feasible_config(
    config: KnobConfig,
    prefill_ms: float,
    decode_per_token_ms: float,
    budget_ms: float,
    expected_output_tokens: float = 1.0,
) -> FeasibleConfig:
    """Return what a budget of milliseconds allows a configuration of these latencies.

    Where decode is NaN (unknown), an answer of more than one token is never feasible. Raises InvalidValueError for a
    budget that is not above 0 or an expected length below 1.
    """
    if not 0 < budget_ms < math.inf:
        raise InvalidValueError("latency budget", budget_ms, "a number of milliseconds above 0, for example 200")
    if not 1 <= expected_output_tokens < math.inf:
        raise InvalidValueError("expected_output_tokens", expected_output_tokens, "a number of at least 1")
    decode_ms = None if math.isnan(decode_per_token_ms) else decode_per_token_ms
    steps = expected_output_tokens - 1
    total_ms = prefill_ms if steps == 0 else None if decode_ms is None else prefill_ms + decode_ms * steps
    return FeasibleConfig(
        config=config,
        prefill_ms=prefill_ms,
        decode_per_token_ms=decode_ms,
        total_ms=total_ms,
        max_output_tokens=most_output_tokens(prefill_ms, decode_ms, budget_ms),
        feasible=total_ms is not None and total_ms <= budget_ms,
    )


def most_output_tokens(prefill_ms: float, decode_per_token_ms: float | None, budget_ms: float) -> int | None:
    """Return the most output tokens within a budget, the first among them; None where nothing limits or tells them."""
    if prefill_ms > budget_ms:
        return 0
    if not decode_per_token_ms:
        return None
    return math.floor((budget_ms - prefill_ms) / decode_per_token_ms) + 1
