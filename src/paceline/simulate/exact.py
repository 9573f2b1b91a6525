"""The exact run: when a request has its first token if nothing else arrives, by running a copy of the engine to the end."""

from copy import deepcopy

from paceline.simulate.choosing import Candidate
from paceline.simulate.simulation import PausableRun


def exact_first_token_seconds(
    run: PausableRun,
    *,
    arrival_seconds: float,
    candidate: Candidate,
    output_tokens: int,
    ttft_budget_seconds: float,
) -> float:
    """Return when a request that arrives now has its first token, by the run's clock, if no other arrives after it.

    The run itself stays as it is. All rules apply, memory and places included, and the requests behind it are run too: under
    an order by deadline they fill its last step. The lengths of all answers are known here; an engine does not know them.
    """
    copied = deepcopy(run)
    copied.receive(
        arrival_seconds, candidate.prompt_tokens, output_tokens, candidate.prefill_factor, ttft_budget_seconds
    )
    return float(copied.finish().first_token_seconds[-1])
