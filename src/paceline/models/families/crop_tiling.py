"""Molmo's tiers: which tiling of overlapping crops a picture gets, and what the language model gets of it.

The encoder sees the whole picture and r x c crops and pools every one of them; of the pooled patches of the crops those that
overlap are left out, so the language model gets fewer. At the released settings (336 pixels, 14 a patch, margins of 4 patches)
that is 144 for the whole picture and (8r + 4)(8c + 4) for the crops, beside a marker after each row and four around.
"""

import math
from collections.abc import Iterator

from paceline.models.families.plans import Cost, ImagePlan, TierRule, Vision
from paceline.models.families.tier_rules import none_fits

Tiling = tuple[int, int]  # rows and columns of crops
START, END, ROW_END = "<im_start>", "<im_end>", "<im_col>"


def crop_tiling() -> TierRule:
    """Return the rule of Molmo: of the crop counts of a tier the one whose shape is nearest to the picture's.

    A cap holds both counts: what the encoder pools, (crops + 1) pieces, and what the language model gets, markers included.
    SPEC's caps of 4, 9 and 16 pieces give 1 to 3, 4 to 8 and 9 to 15 crops, as far as the processor's `max_crops` goes. A prime
    number of crops above 2 would be a strip, and is left out.
    """

    def plan(vision: Vision, width: int, height: int, cap: int, cost: Cost) -> ImagePlan:
        processor = vision.processor
        pieces = cap // processor.pooled_side**2
        tilings = _by_fit(width, height, pieces, largest=processor.max_crops)
        fitting = (_planned(vision, each) for each in tilings)
        found = next((each for each in fitting if cost(each) <= cap), None)
        if found is None:
            raise none_fits(width, height, cap)
        return found

    return TierRule(kind="crop tiling", argument="max_crops", plan=plan, smallest_side=lambda _vision: 1)


def _by_fit(width: int, height: int, pieces: int, *, largest: int) -> Iterator[Tiling]:
    """Return the tilings of a tier of so many pieces, the best first; then the smaller ones, the largest first."""
    most = min(pieces - 1, largest)
    least = min(most, (math.isqrt(pieces) - 1) ** 2)
    tilings = [
        (rows, crops // rows) for crops in range(1, most + 1) if not _is_strip(crops) for rows in _divisors(crops)
    ]

    def misfit(tiling: Tiling) -> tuple[float, int, int]:
        rows, columns = tiling
        return abs(columns / rows - width / height), rows * columns, rows

    yield from sorted((each for each in tilings if math.prod(each) >= least), key=misfit)
    yield from sorted(
        (each for each in tilings if math.prod(each) < least), key=lambda each: (-math.prod(each), misfit(each))
    )


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _is_strip(crops: int) -> bool:
    return crops > 2 and len(_divisors(crops)) == 2


def _planned(vision: Vision, tiling: Tiling) -> ImagePlan:
    rows, columns = (vision.processor.pooled_along(crops) for crops in tiling)
    return ImagePlan(
        pieces=(vision.processor.pooled_side**2, rows * columns),
        arguments={"rows": tiling[0], "columns": tiling[1]},
        rows=rows,
        columns=columns,
    )


def rows_of_two(plan: ImagePlan) -> tuple[str | int, ...]:
    """The whole picture, then its crops put together again: each between two markers, a third after every row of tokens."""
    side = math.isqrt(plan.pieces[0])
    parts: list[str | int] = []
    for rows, columns in ((side, side), (plan.rows, plan.columns)):
        parts += [START, *([columns, ROW_END] * rows), END]
    return tuple(parts)
