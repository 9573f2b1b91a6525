"""What is refused of those who would rather be refused, and what is said to them: only what surely cannot be."""

import math
from collections.abc import Sequence

from paceline.errors import RequestRefusedError
from paceline.records import Decision
from paceline.serving.alone import AloneBounds
from paceline.wire.budget import BUDGET_FIELD


def refusal_alone(
    budget_ms: float, found: Sequence[Decision], *, least: Decision, alone: AloneBounds, before_ms: float
) -> RequestRefusedError | None:
    """Return why a request alone is refused, None where it may be kept.

    Every configuration of `found` must take longer, but for a share α of requests, if not by itself then after what is over and
    what is ahead (`before_ms`). `least` is the one with the smallest bound.
    """
    surely_ms = alone.surely_ms([least])
    if surely_ms is None or before_ms + surely_ms <= budget_ms:
        return None
    surely_ms, upper_ms = alone.surely_ms(found), alone.upper_ms(least)
    if surely_ms is None or before_ms + surely_ms <= budget_ms:  # of others less is known, or they spread more
        return None
    if surely_ms > budget_ms:
        return infeasible(budget_ms, least=least, least_ms=upper_ms)
    return contended(budget_ms, wait_ms=before_ms, excess_ms=before_ms + upper_ms - budget_ms)


def refusal_beside(
    budget_ms: float,
    found: Sequence[Decision],
    *,
    predicted_ms: Sequence[float],
    factors: tuple[float | None, float | None],
    alone: AloneBounds,
    spent_ms: float,
) -> RequestRefusedError | None:
    """Return why a request with others beside it is refused, None where it may be kept.

    The fastest configuration of `found`, by `predicted_ms` of each from now on, must be late even where it takes little of its
    time: `factors` are what a prediction beside others is multiplied by to be surely exceeded, and to be its bound; None before
    they are known. `spent_ms` are over already.
    """
    fastest = min(range(len(found)), key=predicted_ms.__getitem__)
    before_ms = spent_ms + max(0.0, predicted_ms[fastest] - alone.typical_ms(found[fastest]))
    alone_ms = alone.surely_ms(found)
    if alone_ms is not None and alone_ms > budget_ms:
        return infeasible(budget_ms, least=found[fastest], least_ms=alone.upper_ms(found[fastest]))
    lower, upper = factors
    if lower is not None:
        surely_ms = spent_ms + lower * predicted_ms[fastest]
    elif alone_ms is not None:
        surely_ms = before_ms + alone_ms
    else:
        return None
    if surely_ms <= budget_ms:
        return None
    late_ms = spent_ms + predicted_ms[fastest] * (upper or 1.0)
    return contended(budget_ms, wait_ms=before_ms, excess_ms=late_ms - budget_ms)


def infeasible(budget_ms: float, *, least: Decision, least_ms: float) -> RequestRefusedError:
    """Return the refusal (422) of a budget that not even an idle engine keeps."""
    rounded = math.ceil(100 * least_ms) / 100
    return RequestRefusedError(
        f"no configuration keeps {budget_ms:g} ms, not even on an idle machine: {least.config.key} needs {rounded:g} ms; "
        "ask for at least that, or say on_infeasible degrade",
        status=422,
        code="budget_infeasible",
        param=BUDGET_FIELD,
        details={"least_budget_ms": rounded, "config": least.config.key},
    )


def contended(budget_ms: float, *, wait_ms: float, excess_ms: float) -> RequestRefusedError:
    """Return the refusal (429) of a budget that this engine does not keep now, with when it would.

    `wait_ms` is what goes before the request, `excess_ms` by how much the fastest configuration is late: what is ahead is worked
    off as fast as time passes.
    """
    return RequestRefusedError(
        f"{budget_ms:g} ms are kept on an idle engine, and what goes before this request, others or its pictures' fetching, is "
        f"expected to take {wait_ms:.0f} ms of them; ask again later, or say on_infeasible degrade",
        status=429,
        code="budget_contended",
        param=BUDGET_FIELD,
        details={"expected_wait_ms": round(wait_ms, 3)},
        headers={"retry-after": str(max(1, math.ceil(excess_ms / 1e3)))},
    )
