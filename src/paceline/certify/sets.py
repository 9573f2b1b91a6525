"""Whether question sets rank configurations differently, beyond what chance would show.

Legend of array suffixes: M questions, C configurations.
"""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 199
SIGNIFICANT = 0.01


def sets_differ(answers_MC: Floats, sets_M: Sequence[str], random: Generator, *, draws: int = DRAWS) -> float:
    """Return the p-value of a permutation test that sets have the same differences between configurations.

    Levels are taken out question by question: a harder set alone is no difference. Labels are drawn anew `draws` times.
    """
    centred_MC = np.asarray(answers_MC, dtype=np.float64)
    centred_MC = centred_MC - centred_MC.mean(axis=1, keepdims=True)
    centred_MC = centred_MC - centred_MC.mean(axis=0)
    labels_M = np.unique(np.asarray(sets_M), return_inverse=True)[1]
    counts = np.bincount(labels_M)
    if len(counts) < 2:
        return 1.0

    sets = np.arange(len(counts))[:, None]

    def spread(labels: NDArray[np.intp]) -> float:
        sums = (sets == labels).astype(np.float64) @ centred_MC
        return float((sums**2 / counts[:, None]).sum())

    own = spread(labels_M)
    beyond = sum(spread(random.permutation(labels_M)) >= own for _ in range(draws))
    return (1 + beyond) / (draws + 1)
