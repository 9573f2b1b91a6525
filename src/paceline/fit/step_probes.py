"""Whether a step log can tell the costs of a step apart: how many of its steps stand behind a prediction.

The least-squares prediction for a load x has the variance h · σ² with h = xᵀ (XᵀX)⁻¹ x, where X holds the fitted loads:
that of the mean of 1 / h steps of the load x itself. Where h exceeds what the data's own loads reach, a prediction
extrapolates, however small the residuals are (Montgomery, Peck and Vining, Introduction to Linear Regression
Analysis, on hidden extrapolation). Asked are loads that a planner weighs against each other: decodes alone, few and
many, and a small and a large chunk beside them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.errors import StepTimeError
from paceline.schedule import PrefillChunk, StepLoad, StepRecord
from paceline.schedule.step_log import step_load
from paceline.slo import percentile

LEAST_STEPS_BEHIND = 10.0
FEW, MANY = 5, 95  # percentiles of the decodes of steps that have some
SMALL, LARGE = 8, 2  # parts of the most prompt tokens that a step computed
NUMERICAL_NOISE = 1e-10  # of the columns' squared norm: what is below is no information
ROOM = "run a load that leaves the engine room, for example `paceline tune replay … --rate` at half of what it serves"
LENGTHS = "run prompts of many different lengths, some of them much shorter than a step's budget"

FloatArray = NDArray[np.float64]


def load_row(load: StepLoad) -> tuple[float, ...]:
    """Return a load in the order of LinearStepTime's coefficients."""
    return (
        1.0,
        load.decode_tokens,
        load.decode_context_tokens,
        load.prefill_tokens,
        load.prefill_attention_tokens,
    )


def require_reach(loads_SC: FloatArray, records: Sequence[StepRecord]) -> None:
    """Raise StepTimeError, naming the load and the remedy, unless ten steps' worth stand behind every probed load.

    `loads_SC` (step, coefficient) is what was fitted, `records` are the log's steps; both prefill and decodes are in it.
    """
    for words, remedy, load in _probes(records):
        behind = steps_behind(loads_SC, np.array(load_row(load), dtype=np.float64))
        if behind < LEAST_STEPS_BEHIND:
            raise StepTimeError(
                f"the step log cannot tell what {words} costs: {behind:.2g} steps' worth stand behind that, as its steps are "
                f"few or their loads grew together; expected at least {LEAST_STEPS_BEHIND:g}; {remedy}"
            )


def steps_behind(loads_SC: FloatArray, load_C: FloatArray) -> float:
    """Return 1 / h: how many steps of this very load would tell as much of its time; 0 where nothing tells it."""
    norms_C = np.linalg.norm(loads_SC, axis=0)
    used_C = norms_C > 0
    if load_C[~used_C].any():
        return 0.0
    unit_SC, asked_C = loads_SC[:, used_C] / norms_C[used_C], load_C[used_C] / norms_C[used_C]
    information_CC = unit_SC.T @ unit_SC + NUMERICAL_NOISE * np.eye(int(used_C.sum()))
    return float(1.0 / (asked_C @ np.linalg.solve(information_CC, asked_C)))


def _probes(records: Sequence[StepRecord]) -> list[tuple[str, str, StepLoad]]:
    decoding = [record for record in records if record.decode_tokens]
    counts = [float(record.decode_tokens) for record in decoding]
    context = percentile([record.decode_context_tokens / record.decode_tokens for record in decoding], 50)
    most_prefill = max(record.load.prefill_tokens for record in records)

    def probe(decodes: float, chunk: int) -> StepLoad:
        chunks = [PrefillChunk(tokens=chunk, context_tokens=0)] if chunk else []
        return step_load(round(decodes), decode_context_tokens=round(decodes * context), chunks=chunks)

    few, many = percentile(counts, FEW), percentile(counts, MANY)
    small, large = max(1, most_prefill // SMALL), max(1, most_prefill // LARGE)
    return [
        (f"a step of {few:.0f} decodes alone", ROOM, probe(few, 0)),
        (f"a step of {many:.0f} decodes alone", ROOM, probe(many, 0)),
        (f"a chunk of {small} tokens beside {many:.0f} decodes", LENGTHS, probe(many, small)),
        (f"a chunk of {large} tokens beside {few:.0f} decodes", LENGTHS, probe(few, large)),
    ]
