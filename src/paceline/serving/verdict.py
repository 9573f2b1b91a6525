"""What was decided on a request with a budget, and what is said to one that is refused."""

import math
from dataclasses import dataclass

from paceline.errors import RequestRefusedError
from paceline.records import Decision
from paceline.schedule.load_control import COLD, NONE_FIT, RELEGATED, LoadDecision
from paceline.schedule.look_ahead import PrefillWork
from paceline.wire.budget import BUDGET_FIELD


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One decision: the configuration, its place in the line of requests, and what is expected, bounded and promised of it.

    `why_not` says why nothing is promised, None where it is; `calibration_n` how many requests the bound is made of.
    """

    taken: Decision
    load: LoadDecision
    work: PrefillWork
    expected_ms: float
    bound_ms: float | None
    why_not: str | None
    calibration_n: int


def why_none_beside(reason: str | None, *, seen: int, needed: int) -> str | None:
    """Return in words why nothing is promised to a request that has others beside it; None for a promise."""
    words = {
        COLD: f"{seen} of {needed} requests like it were answered beside others so far, which a bound on waiting needs",
        NONE_FIT: "no configuration is bounded by this budget with what is ahead, or all would break a promise given",
        RELEGATED: "not even the fastest configuration is expected to keep this budget with what is ahead, so it runs behind "
        "those that can keep theirs",
    }
    return None if reason is None else words[reason]


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
