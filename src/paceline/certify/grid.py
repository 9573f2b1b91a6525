"""Where configurations stand to one another: the place of each value among its knob's values, in order.

Legend of array suffixes: C configurations, K knobs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.records import TIERS, KnobConfig


def ordinal_places(configs: Sequence[KnobConfig]) -> NDArray[np.float64]:
    """Return (configuration, knob): each value's rank among those of its knob, from 0; knobs of one value are left out."""
    columns = [
        [-1 if each.tier is None else TIERS.index(each.tier) for each in configs],
        [each.top_k or 0 for each in configs],
        [each.num_active_blocks or 0 for each in configs],
    ]
    moving = [np.unique(column, return_inverse=True)[1] for column in columns if len(set(column)) > 1]
    return np.stack(moving, axis=1).astype(np.float64) if moving else np.zeros((len(configs), 0))


def largest(configs: Sequence[KnobConfig]) -> int:
    """Return the place of the full configuration: the one under which most of the model runs."""
    return max(range(len(configs)), key=lambda place: configs[place].size)
