"""The tensors of several pictures as those of one request: each picture is encoded by its own plan, then they are joined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from paceline.models.families.plans import TierRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Several:
    """How a family's pictures stand in one request when there are several.

    Tensors of the image processor are joined along dimension 0, those named in `along` along another; where pictures differ in
    size in the other dimensions, the smaller are filled up at their ends, with 0 or what `fill` names. `tiers` is the rule
    that each picture follows when it is not alone; None where it is the same. `together` is for a processor that must know
    that there are several: it is given all of them at once, and joins them itself.
    """

    along: Mapping[str, int] = field(default_factory=dict[str, int])
    fill: Mapping[str, int] = field(default_factory=dict[str, int])
    tiers: TierRule | None = None
    together: bool = False


def joined(pictures: Sequence[Mapping[str, torch.Tensor]], several: Several) -> dict[str, torch.Tensor]:
    """Return the tensors of all pictures, in their order; numbers that are of one picture alone are left out."""
    return {
        name: _joined([each[name] for each in pictures], several.along.get(name, 0), several.fill.get(name, 0))
        for name, first in pictures[0].items()
        if first.ndim
    }


def _joined(tensors: Sequence[torch.Tensor], axis: int, fill: int) -> torch.Tensor:
    shapes = [list(each.shape) for each in tensors]
    axis %= len(shapes[0])
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    return torch.cat([_filled_up(each, largest, axis, fill) for each in tensors], dim=axis)


def _filled_up(tensor: torch.Tensor, largest: Sequence[int], axis: int, fill: int) -> torch.Tensor:
    missing = [0 if index == axis else size - tensor.shape[index] for index, size in enumerate(largest)]
    if not any(missing):
        return tensor
    # torch counts from the last dimension, before and after each
    ends = [part for size in reversed(missing) for part in (0, size)]
    return torch.nn.functional.pad(tensor, ends, value=fill)
