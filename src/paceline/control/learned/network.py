"""A learned controller's network in numpy: the score of every configuration for one request, in microseconds.

All members go through each layer in one batched product. Standardisation is folded into the weights but for the shift and
the clip, the linear part beside the first hidden layer into the same product, and what follows the last sum, the mean over
members or half of each argument of the sigmoid, into the weights that lead there.
Legend of array suffixes: N requests, M members, I inputs (the request vector's numbers, ln of the budget in ms, and a last
one that is always 1, whose weights are the first biases), H hidden, O outputs of a layer, C configurations.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paceline.control.learned.artifact import ChooserWeights, read_chooser
from paceline.control.learned.description import LARGEST_INPUT, ChooserDescription
from paceline.records import KnobConfig
from paceline.request_vector import REQUEST_VECTOR_NAMES

ROWS_AT_ONCE = 8_192  # 32 MiB of hidden values with 4 members of 256

Floats32 = NDArray[np.float32]
Floats = NDArray[np.float64]


class ChooserNetwork:
    """A trained chooser: predicted accuracies (`supervised`) or preferences (`grpo`); immutable, safe between threads."""

    def __init__(self, *, description: ChooserDescription, weights: ChooserWeights) -> None:
        self.description = description
        self._supervised = description.learner == "supervised"
        self._hidden_dim, self._members = description.hidden_dim, description.members
        # σ(z) = (1 + tanh(z / 2)) / 2 does not overflow; a mean of preferences is a sum of their shares
        scale_I, share = weights["input_scale_I"].astype(np.float64), 0.5 if self._supervised else 1 / self._members
        self._mean_I = np.append(weights["input_mean_I"].astype(np.float64), 0.0)
        with np.errstate(divide="ignore"):
            self._limit_I = np.append(LARGEST_INPUT / scale_I, math.inf)  # an input of scale 0 has weights of 0
        self._first_MIO = _first_layer(weights, scale_I, share)
        self._hidden = [
            (weights[f"hidden.{layer}.weight"], weights[f"hidden.{layer}.bias"][:, None])
            for layer in range(1, description.num_layers)
        ]
        self._head_MHC = weights["head.weight"] * np.float32(share) if description.num_layers else None
        self._lowest, self._highest = _ranges(description)
        self._looks_at = tuple(name for name, scale in zip(REQUEST_VECTOR_NAMES, scale_I, strict=False) if scale > 0)

    @staticmethod
    def load(directory: Path | str) -> "ChooserNetwork":
        """Read the network of a learned controller's directory; raises ControllerError for one that cannot be trusted."""
        artifact = read_chooser(Path(directory))
        return ChooserNetwork(description=artifact.description, weights=artifact.weights)

    @property
    def configs(self) -> tuple[KnobConfig, ...]:
        """The configurations that are scored, in the order of the scores."""
        return self.description.configs

    @property
    def looks_at(self) -> tuple[str, ...]:
        """The numbers of the request vector that the scores depend on, by name."""
        return self._looks_at

    def scores(self, vector: tuple[float, ...], budget_ms: float) -> Floats:
        """Return the score of every configuration (C) for a request vector and a budget in milliseconds."""
        return self._scored(np.array([(*vector, math.log(budget_ms), 1.0)]))[0]

    def scores_of(self, inputs_NI: Floats) -> Floats:
        """Return scores (N, C) of rows of inputs: the request vector's numbers, and ln of the budget in ms last."""
        rows_NI = np.column_stack([inputs_NI, np.ones(len(inputs_NI))])
        starts = range(0, len(rows_NI), ROWS_AT_ONCE)
        parts = [self._scored(rows_NI[start : start + ROWS_AT_ONCE]) for start in starts]
        return np.concatenate([np.empty((0, len(self.configs))), *parts])

    def outside(self, vector: tuple[float, ...], budget_ms: float) -> tuple[str, ...]:
        """Return the numbers of a request vector that lie beyond the training requests', by name.

        `budget_ms` among them where the learner was trained for a range of budgets (`grpo`).
        """
        seen = np.array((*vector, budget_ms))
        beyond = (seen < self._lowest) | (seen > self._highest)
        if not beyond.any():
            return ()
        names = (*REQUEST_VECTOR_NAMES, "budget_ms")
        return tuple(names[place] for place in beyond.nonzero()[0].tolist())

    def _scored(self, inputs_NI: Floats) -> Floats:
        """Return scores (N, C); the last input is 1."""
        x_NI = inputs_NI - self._mean_I
        np.minimum(x_NI, self._limit_I, out=x_NI)
        np.maximum(x_NI, -self._limit_I, out=x_NI)
        z_MNO = np.matmul(x_NI.astype(np.float32), self._first_MIO)
        scores_MNC = z_MNO[:, :, self._hidden_dim :]
        if self._head_MHC is not None:
            hidden_MNH = np.maximum(z_MNO[:, :, : self._hidden_dim], 0.0)
            for weight_MHH, bias_M1H in self._hidden:
                hidden_MNH = np.matmul(hidden_MNH, weight_MHH)
                hidden_MNH += bias_M1H
                np.maximum(hidden_MNH, 0.0, out=hidden_MNH)
            scores_MNC = scores_MNC + np.matmul(hidden_MNH, self._head_MHC)
        if self._supervised:
            scores_MNC = np.tanh(scores_MNC)
            return np.add.reduce(scores_MNC, axis=0, dtype=np.float64) * (0.5 / self._members) + 0.5
        return np.add.reduce(scores_MNC, axis=0, dtype=np.float64)


def _first_layer(weights: ChooserWeights, scale_I: Floats, share: float) -> Floats32:
    """Return the first hidden layer's weights, if there is one, beside the linear part's; the biases in the last row."""
    skip_MIC = (
        np.concatenate([weights["skip.weight"] * scale_I[:, None], weights["skip.bias"][:, None]], axis=1) * share
    )
    if "hidden.0.weight" not in weights:
        return np.ascontiguousarray(skip_MIC, dtype=np.float32)
    hidden_MIH = np.concatenate(
        [weights["hidden.0.weight"] * scale_I[:, None], weights["hidden.0.bias"][:, None]], axis=1
    )
    return np.ascontiguousarray(np.concatenate([hidden_MIH, skip_MIC], axis=2), dtype=np.float32)


def _ranges(description: ChooserDescription) -> tuple[Floats, Floats]:
    budgets_ms = description.budget_range_ms if description.learner == "grpo" else (0.0, math.inf)
    lowest, highest = zip(*description.input_ranges.values(), budgets_ms, strict=True)
    return np.array(lowest), np.array(highest)
