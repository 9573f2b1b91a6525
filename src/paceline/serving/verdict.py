"""What was decided on a request with a budget, and in words why nothing is promised."""

from dataclasses import dataclass

from paceline.records import Decision
from paceline.schedule.load_control import COLD, NONE_FIT, RELEGATED, LoadDecision
from paceline.schedule.look_ahead import PrefillWork


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
