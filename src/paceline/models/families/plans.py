"""What one picture becomes: the arguments of the image processor, and the image tokens that come of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """How one picture is encoded, decided from its size alone.

    `arguments` are the image processor's at call time. `pieces` are the image tokens of each piece (the whole picture, or its
    tiles), in the order in which they stand in the prompt. `rows` and `columns` count the tiles of a picture that is cut, or
    the tokens of one that keeps its shape. `scaled_to` is the (width, height) in pixels to which the picture is scaled
    before the processor sees it; None where it is not.
    """

    pieces: tuple[int, ...]
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rows: int = 1
    columns: int = 1
    scaled_to: tuple[int, int] | None = None

    @property
    def tokens(self) -> int:
        """The image tokens of all pieces, markers left out: as many features the encoder must return."""
        return sum(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierPlan:
    """A request's pictures under one tier: all tokens that they bring into the prompt, and the image processor's arguments."""

    tokens: int
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """Where a family's numbers are: the image processor and the model's configuration."""

    processor: Any
    config: Any


Layout = Callable[
    [ImagePlan], tuple[str | int, ...]
]  # marker text and runs of image tokens, as they stand in the prompt
Cost = Callable[[ImagePlan], int]  # all tokens that a plan brings into the prompt, markers included
Capped = tuple[int, int, int]  # a picture's width and height in pixels, and the most tokens that it may have


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRule:
    """How a family's pictures follow a cap of tokens.

    `plan(vision, width, height, cap, cost)` returns the largest plan within the cap for a picture of this size in pixels, and
    raises PictureError where none is. `argument` is what it moves, in the processor's own word; None for a family whose
    pictures all have one size. `smallest_side(vision)` is the shortest side in pixels that the processor takes.
    `alike(vision, pictures, cost)` returns the largest plans of several pictures, each within its own cap, that have the same
    arguments, and raises PictureError where there are none; None for a rule that is not known to have them.
    """

    kind: str
    argument: str | None
    plan: Callable[[Vision, int, int, int, Cost], ImagePlan]
    smallest_side: Callable[[Vision], int]
    alike: Callable[[Vision, Sequence[Capped], Cost], list[ImagePlan]] | None = None
