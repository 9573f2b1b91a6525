"""What a learned controller wins back of the distance between a simpler controller and the best choice in hindsight.

Gain is the learned controller's accuracy minus the simpler one's, distance the best's minus the simpler one's; the share is
the sum of gains over the sum of distances, over the budgets that a fixed configuration can keep and that have a distance.
No learner can be expected to reach 1: the best knows which answers turned out right.

Legend of array suffixes: B budgets, R requests, S resamples.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paceline.evaluate.bootstrap import PairedDifference, middle_of, paired_difference, resampled_means
from paceline.evaluate.choices import Outcomes
from paceline.evaluate.names import BOUND, ORACLE, ORACLE_WITHIN_BOUND, TABLE, scaled_table_for
from paceline.evaluate.price import ScaledTable
from paceline.slo import Interval

SMALLEST_DISTANCE = 1e-9  # differences of means below it are rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """Gain, distance and share at one budget, or averaged over several, with 95 % intervals that resample requests.

    The share is None where there is no distance; its interval also where some resample has none: then the requests are too
    few, or too alike, to tell.
    """

    gain: PairedDifference
    distance: float
    share: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """One distance, from the controller `base` to `best`: a value a budget, and `overall` over those in `counted`.

    `without_distance` is how many budgets could be kept and were not counted all the same, for the best is not above the
    base there. `overall` is None where no budget counts.
    """

    base: str
    best: str
    budgets: tuple[Recovery, ...]
    counted: tuple[bool, ...]
    without_distance: int
    overall: Recovery | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedFigures:
    """A learned controller against the others: shares recovered, first from the table scaled to its own adherence.

    `adherence_minus_bound` is over all budgets together: a learner under the bound's rule should keep budgets as often.
    `scaled_table` and the difference are None where no `table`, or no `bound`, was judged.
    """

    recovered: tuple[Recovered, ...]
    scaled_table: ScaledTable | None
    adherence_minus_bound: PairedDifference | None


def learned_figures(
    name: str,
    outcomes: Mapping[str, Outcomes],
    scaled: ScaledTable | None,
    within_possible: Sequence[bool],
    pictures: Sequence[Hashable] | None = None,
) -> LearnedFigures:
    """Judge one learned controller against the others in `outcomes`; distances with an end missing are left out.

    Intervals resample `pictures`, one a request, where they are told.
    """
    distances = ((scaled_table_for(name), ORACLE), (BOUND, ORACLE_WITHIN_BOUND), (TABLE, ORACLE))
    recovered = [
        recovered_of(base, best, outcomes[name], outcomes, within_possible, pictures)
        for base, best in distances
        if base in outcomes and best in outcomes
    ]
    bound = outcomes.get(BOUND)
    more_kept_BR = None if bound is None else np.subtract(outcomes[name].kept_BR, bound.kept_BR, dtype=np.float64)
    return LearnedFigures(
        recovered=tuple(recovered),
        scaled_table=scaled,
        adherence_minus_bound=(
            None if more_kept_BR is None else paired_difference(more_kept_BR.mean(axis=0), pictures)
        ),
    )


def recovered_of(
    base: str,
    best: str,
    learned: Outcomes,
    outcomes: Mapping[str, Outcomes],
    within_possible: Sequence[bool],
    pictures: Sequence[Hashable] | None = None,
) -> Recovered:
    """Return what a learned controller recovers of the distance from `base` to `best`."""
    gain_BR = learned.accuracy_BR - outcomes[base].accuracy_BR
    distance_BR = outcomes[best].accuracy_BR - outcomes[base].accuracy_BR
    possible_B = np.asarray(within_possible, dtype=np.bool_)
    counted_B = possible_B & (distance_BR.mean(axis=1) > SMALLEST_DISTANCE)
    if counted_B.any():  # one row more: the mean over the counted budgets
        gain_BR = np.vstack([gain_BR, gain_BR[counted_B].mean(axis=0)])
        distance_BR = np.vstack([distance_BR, distance_BR[counted_B].mean(axis=0)])
    found = _recoveries(gain_BR, distance_BR, pictures)
    counted: list[bool] = counted_B.tolist()
    return Recovered(
        base=base,
        best=best,
        budgets=found[: len(counted)],
        counted=tuple(counted),
        without_distance=int((possible_B & ~counted_B).sum()),
        overall=found[-1] if any(counted) else None,
    )


def _recoveries(
    gain_BR: NDArray[np.float64], distance_BR: NDArray[np.float64], pictures: Sequence[Hashable] | None
) -> tuple[Recovery, ...]:
    count = len(gain_BR)
    means_S = resampled_means(np.vstack([gain_BR, distance_BR]).T, pictures)
    return tuple(
        _recovery(gain_BR[row], distance_BR[row], means_S[:, row], means_S[:, count + row]) for row in range(count)
    )


def _recovery(
    gain_R: NDArray[np.float64],
    distance_R: NDArray[np.float64],
    gain_S: NDArray[np.float64],
    distance_S: NDArray[np.float64],
) -> Recovery:
    gain, distance = float(gain_R.mean()), float(distance_R.mean())
    there = distance > SMALLEST_DISTANCE
    always = there and bool((distance_S > SMALLEST_DISTANCE).all())
    return Recovery(
        gain=PairedDifference(difference=gain, interval=middle_of(gain_S)),
        distance=distance,
        share=gain / distance if there else None,
        interval=middle_of(gain_S / distance_S) if always else None,
    )
