"""The rules by which a tier caps image tokens: area, edge, tile count, pinpoints, enumerated and fixed.

Pure functions of a picture's size, the image processor's settings and the model's configuration. Where transformers counts by
itself (`get_number_of_image_patches`), that is asked; the rest is the arithmetic of the processors, checked once at load.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from paceline.errors import PictureError
from paceline.models.families.plans import Capped, Cost, ImagePlan, TierRule, Vision

LARGEST_AREA_ATTEMPTS = 32  # two or three are enough where the processor heeds the limits; one that does not never ends

Number = Callable[[Vision], int]
Size = tuple[int, int]


def area(*, frames: bool = False) -> TierRule:
    """Return the rule of processors that scale a picture to an area: `size`, whose edges are areas in pixels.

    With `frames` the processor counts a picture's area once for each frame that a still is repeated to.
    """

    def plan(vision: Vision, width: int, height: int, cap: int, _cost: Cost) -> ImagePlan:
        repeated = int(vision.processor.temporal_patch_size) if frames else 1
        return _within_area(vision, [(width, height, cap)], repeated)[0]

    def alike(vision: Vision, pictures: Sequence[Capped], _cost: Cost) -> list[ImagePlan]:
        repeated = int(vision.processor.temporal_patch_size) if frames else 1
        return _within_area(vision, pictures, repeated)

    kind = "area × frames" if frames else "area"
    return TierRule(kind=kind, argument="size", plan=plan, smallest_side=_token_side, alike=alike)


def _within_area(vision: Vision, pictures: Sequence[Capped], frames: int) -> list[ImagePlan]:
    largest = min(cap for _, _, cap in pictures) * _token_side(vision) ** 2 * frames
    for _attempt in range(LARGEST_AREA_ATTEMPTS):
        found = [_at_area(vision, width, height, largest) for width, height, _ in pictures]
        room = min(cap / plan.tokens for plan, (_, _, cap) in zip(found, pictures, strict=True))
        if room >= 1:
            return found
        # a side is never less than a token, so a long strip exceeds the area; its tokens go with the root of it
        largest = max(1, int(largest * room**2))
    raise none_fits(*pictures[0])


def _at_area(vision: Vision, width: int, height: int, largest: int) -> ImagePlan:
    processor = vision.processor
    smallest = min(int(processor.size["shortest_edge"]), largest)
    size = {"shortest_edge": smallest, "longest_edge": largest}
    # some processors read the pixels, some the size, and each ignores the other
    limits = {"min_pixels": smallest, "max_pixels": largest, "size": size}
    patches = int(processor.get_number_of_image_patches(height, width, limits))
    return ImagePlan(pieces=(patches // int(processor.merge_size) ** 2,), arguments={"size": size})


def _token_side(vision: Vision) -> int:
    return int(vision.processor.patch_size) * int(vision.processor.merge_size)


def edge(token_side: Number) -> TierRule:
    """Return the rule of processors that keep a picture's shape and shorten its longest edge: `size["longest_edge"]`.

    A smaller picture is not enlarged, but to four tokens. `token_side` is the side in pixels of one image token. The edge never
    exceeds the processor's own, which the encoder's positions end at.
    """

    def plan(vision: Vision, width: int, height: int, cap: int, cost: Cost) -> ImagePlan:
        side = token_side(vision)
        low, high = 1, max(1, int(vision.processor.size["longest_edge"]) // side)
        while low < high:  # tokens grow with the edge: find the last that fits
            middle = (low + high + 1) // 2
            fits = cost(_at_edge(width, height, middle * side, side)) <= cap
            low, high = (middle, high) if fits else (low, middle - 1)
        return _first_within([_at_edge(width, height, low * side, side)], width, height, cap, cost)

    return TierRule(kind="edge", argument="size", plan=plan, smallest_side=_one_pixel)


def _at_edge(width: int, height: int, longest_edge: int, side: int) -> ImagePlan:
    ratio = max(height / longest_edge, width / longest_edge)
    vanishing = min(width, height) < ratio  # the processor would round a thin strip's side down to nothing
    if ratio > 1:  # rounded down, and up to whole tokens: as Pixtral's processor does
        width, height = max(1, math.floor(width / ratio)), max(1, math.floor(height / ratio))
    rows, columns = max(0, (height - 1)) // side + 1, max(0, (width - 1)) // side + 1
    # Mistral 3 mistakes the hidden size of a single token for tokens: the smallest pictures are enlarged to four
    single = rows * columns == 1
    rows, columns = (2, 2) if single else (rows, columns)
    return ImagePlan(
        pieces=(rows * columns,),
        arguments={
            "size": {"longest_edge": max(longest_edge, 2 * side)},
            "patch_size": {"height": side, "width": side},
        },
        rows=rows,
        columns=columns,
        scaled_to=(2 * side, 2 * side) if single else (width, height) if vanishing else None,
    )


def tile_count(
    argument: str, largest: Number, tiled: Callable[[Vision, int, int, int], ImagePlan], *, least: int = 1
) -> TierRule:
    """Return the rule of processors that cut a picture into tiles: the most tiles whose tokens stay within the cap.

    `largest(vision)` is the processor's own limit; `tiled(vision, width, height, tiles)` is the plan under a limit of `tiles`.
    """

    def plan(vision: Vision, width: int, height: int, cap: int, cost: Cost) -> ImagePlan:
        return alike(vision, [(width, height, cap)], cost)[0]

    def alike(vision: Vision, pictures: Sequence[Capped], cost: Cost) -> list[ImagePlan]:
        for tiles in range(max(least, largest(vision)), least - 1, -1):
            found = [tiled(vision, width, height, tiles) for width, height, _ in pictures]
            if all(cost(plan) <= cap for plan, (_, _, cap) in zip(found, pictures, strict=True)):
                return found
        raise none_fits(*pictures[0])

    return TierRule(kind="tile count", argument=argument, plan=plan, smallest_side=_one_pixel, alike=alike)


def pinpoints(candidates: Callable[[Vision], Sequence[Size]], at: Callable[[Vision, int, int], ImagePlan]) -> TierRule:
    """Return the rule of processors that pick one of a list of resolutions (width, height): the picture is scaled first.

    The model itself picks a resolution again from the picture's size, so leaving some out of the processor's list would
    crash it; a smaller picture leads both to the same smaller one. `at(vision, width, height)` is the plan of a picture of
    that size.
    """

    def plan(vision: Vision, width: int, height: int, cap: int, cost: Cost) -> ImagePlan:
        fitted = {_fitted(width, height, box) for box in candidates(vision)} | {(width, height)}
        plans = [_scaled(at(vision, *size), size, (width, height)) for size in sorted(fitted)]
        plans.sort(key=lambda each: (each.tokens, each.scaled_to is None, each.scaled_to or ()), reverse=True)
        return _first_within(plans, width, height, cap, cost)

    return TierRule(kind="pinpoints", argument="size of the picture", plan=plan, smallest_side=_one_pixel)


def _fitted(width: int, height: int, box: Size) -> Size:
    ratio = min(box[0] / width, box[1] / height)
    return max(1, math.floor(width * ratio)), max(1, math.floor(height * ratio))


def _scaled(plan: ImagePlan, size: Size, own: Size) -> ImagePlan:
    scaled_to = None if size == own else size
    return ImagePlan(
        pieces=plan.pieces, arguments=plan.arguments, rows=plan.rows, columns=plan.columns, scaled_to=scaled_to
    )


def enumerated(argument: str, plans: Callable[[Vision, int, int], Iterable[ImagePlan]]) -> TierRule:
    """Return the rule of processors with a few settings only: the one that gives most tokens within the cap."""

    def plan(vision: Vision, width: int, height: int, cap: int, cost: Cost) -> ImagePlan:
        ordered = sorted(plans(vision, width, height), key=lambda each: each.tokens, reverse=True)
        return _first_within(ordered, width, height, cap, cost)

    return TierRule(kind="enumerated", argument=argument, plan=plan, smallest_side=_one_pixel)


def fixed(tokens: Number, *, smallest_side: int = 1) -> TierRule:
    """Return the rule of families whose every picture has the same number of tokens: there is nothing for a tier to move."""

    def plan(vision: Vision, _width: int, _height: int, _cap: int, _cost: Cost) -> ImagePlan:
        return ImagePlan(pieces=(tokens(vision),))

    return TierRule(kind="fixed", argument=None, plan=plan, smallest_side=lambda _vision: smallest_side)


def _first_within(plans: Iterable[ImagePlan], width: int, height: int, cap: int, cost: Cost) -> ImagePlan:
    for plan in plans:
        if cost(plan) <= cap:
            return plan
    raise none_fits(width, height, cap)


def none_fits(width: int, height: int, cap: int) -> PictureError:
    """Return what is said of a picture that no plan brings within a cap."""
    return PictureError(
        f"nothing brings a picture of {width}x{height} pixels to {cap} image tokens on this model; expected a higher tier, or "
        "a shape closer to a square: crop it first"
    )


def _one_pixel(_vision: Vision) -> int:
    return 1
