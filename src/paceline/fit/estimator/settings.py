"""How an estimator is trained: every number of it in one record, and two of them by name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.fit.estimator.losses import loss_named
from paceline.fit.estimator.rows import JOINED_MEANS
from paceline.records import require_seed

DEFAULT_SEED = 3407
MOST = 1_000_000  # rows a batch, passes, rounds
WARM_UP_SHARE = 0.2
LAST_SHARE = 1e-3  # of the peak learning rate, at the end of one cycle


def constant(progress: float) -> float:
    """Return 1 throughout."""
    del progress
    return 1.0


def one_cycle(progress: float) -> float:
    """Return the share of the peak learning rate: up over WARM_UP_SHARE of training, down to nearly 0, on cosines.

    Smith and Topin, "Super-convergence" (2018): large batches at a large learning rate reach in few steps what small
    batches at a small constant one reach in many.
    """
    if progress < WARM_UP_SHARE:
        return LAST_SHARE + (1 - LAST_SHARE) * (1 - math.cos(math.pi * progress / WARM_UP_SHARE)) / 2
    fall = (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)
    return LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * fall)) / 2


SCHEDULES: dict[str, Callable[[float], float]] = {"constant": constant, "one_cycle": one_cycle}


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorSettings:
    """What an estimator's weights follow from, the data aside.

    `step_choices`, ascending, serve data so small that `num_epochs` would be fewer steps than the last of them: then the
    number of steps is the one with the best loss on `validation_share` of the samples, and training starts again on all.
    With `structured` a prediction is what the work costs (`paceline.estimate.work_terms`, fitted first) times what the
    network makes of it; then no step at all is the first of the choices, and more are taken only where they are surely better.
    `join_equal_rows` replaces rows of equal features by their mean with their count as weight: the same loss up to a
    constant, in fewer rows. `patience` ends training after that many rounds (an epoch, or a fiftieth of all of them)
    without a better loss on `validation_share` of the samples; None trains to the end on all of them.
    """

    loss: str = "mse"
    structured: bool = False
    hidden_dim: int = 256
    num_layers: int = 2
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    schedule: str = "constant"
    batch_size: int = 64
    num_epochs: int = 50
    step_choices: tuple[int, ...] = ()
    join_equal_rows: bool = False
    patience: int | None = None
    validation_share: float = 0.2
    seed: int = DEFAULT_SEED

    def __post_init__(self) -> None:
        loss_named(self.loss)
        require_seed(self.seed)
        if self.schedule not in SCHEDULES:
            raise UnknownChoiceError("schedule", self.schedule, tuple(SCHEDULES))
        for name, (fits, expected) in RANGES.items():
            if not fits(getattr(self, name)):
                raise InvalidValueError(name, getattr(self, name), expected)
        if self.join_equal_rows and self.loss not in JOINED_MEANS:
            raise InvalidValueError(
                "join_equal_rows", True, f"False with loss {self.loss}: no mean stands for its rows"
            )


RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "batch_size": (lambda count: 1 <= count <= MOST, f"a whole number from 1 to {MOST:,}"),
    "num_epochs": (lambda count: 1 <= count <= MOST, f"a whole number from 1 to {MOST:,}"),
    "step_choices": (
        lambda counts: all(low < high for low, high in pairwise((0, *counts))),
        "whole numbers, ascending",
    ),
    "learning_rate": (lambda rate: 0 < rate < 1, "a number above 0 and below 1, such as 0.001"),
    "weight_decay": (lambda decay: 0 <= decay < math.inf, "a number of at least 0, such as 0.00001"),
    "patience": (
        lambda rounds: rounds is None or 1 <= rounds <= MOST,
        f"a whole number from 1 to {MOST:,}, or None",
    ),
    "validation_share": (lambda share: 0 < share < 1, "a share between 0 and 1"),
}
REFERENCE = EstimatorSettings()
# the loss: latencies are skewed, most of all on a busy machine; squared milliseconds follow the stalls, logarithms do not
FAST = EstimatorSettings(
    loss="log",
    structured=True,
    learning_rate=4e-3,
    schedule="one_cycle",
    batch_size=1024,
    num_epochs=12,
    step_choices=(100, 300, 1000, 3000),
    join_equal_rows=True,
)
SETTINGS = {"fast": FAST, "reference": REFERENCE}


def settings_named(name: str) -> EstimatorSettings:
    """Return settings by name; raises UnknownChoiceError."""
    if name not in SETTINGS:
        raise UnknownChoiceError("settings", name, tuple(SETTINGS))
    return SETTINGS[name]
