"""Which decoder blocks matter least: block influence over a calibration set, in one pass.

Shapes: B batch, L sequence, H hidden.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from paceline.errors import InvalidValueError
from paceline.models.critical_section import held
from paceline.models.structure import ModelParts


@torch.no_grad()
def block_influence(parts: ModelParts, requests: Iterable[Mapping[str, Any]]) -> list[float]:
    """Return 1 - cosine(input, output) of every decoder block, averaged over all tokens of `requests`.

    `requests` are model inputs as `VisionLanguageModel.prepare` makes them. Raises InvalidValueError when there are
    none. The measure is that of Men et al., ShortGPT, 2024.
    """
    sums, tokens = [0.0] * len(parts.blocks), [0] * len(parts.blocks)

    def record(index: int, entered_BLH: torch.Tensor, left_BLH: torch.Tensor) -> None:
        cosine_BL = torch.nn.functional.cosine_similarity(entered_BLH.float(), left_BLH.float(), dim=-1)
        sums[index] += float((1 - cosine_BL).sum())
        tokens[index] += cosine_BL.numel()

    with ExitStack() as stack:
        stack.enter_context(held(parts.model, "marks"))
        for index, block in enumerate(parts.blocks):
            stack.callback(block.register_forward_hook(_recorder(index, record), with_kwargs=True).remove)
        for inputs in requests:
            parts.model(**inputs, use_cache=False)
    if not all(tokens):
        raise InvalidValueError("calibration set", "empty", "at least one request")
    return [total / count for total, count in zip(sums, tokens, strict=True)]


def _recorder(index: int, record: Any) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        entered = args[0] if args else kwargs["hidden_states"]
        record(index, entered, output[0] if isinstance(output, tuple) else output)

    return hook


def rank_blocks(influence: list[float], *, protected: Collection[int] = ()) -> tuple[int, ...]:
    """Return all blocks but block 0 and `protected`, least influential first: the order in which they are passed through."""
    free = [index for index in range(1, len(influence)) if index not in protected]
    return tuple(sorted(free, key=lambda index: influence[index]))
