"""Hear of an answer's tokens while they are generated, and end it: what a stream, a stop sequence or a client that left needs."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from transformers import StoppingCriteria


class Listener(Protocol):
    """Hears of one answer's tokens, in the thread that generates them; what it raises ends the answer."""

    def prefilled(self, vision_ms: float, prefill_ms: float) -> None:
        """Take note of the stages before the first token, in milliseconds; called once, right before its `token`."""
        ...

    def token(self, token_id: int) -> bool:
        """Take the next token, the one that ends an answer too, and tell whether another one is wanted."""
        ...


class Told(StoppingCriteria):
    """Tells a listener of each token where `generate()` asks whether to stop; for one answer of batch 1."""

    def __init__(self, listener: Listener, stages: Callable[[], tuple[float, float]]) -> None:
        self._listener, self._stages, self._begun = listener, stages, False

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **_kwargs: Any) -> torch.BoolTensor:  # noqa: ARG002
        """Return whether to stop after the last token of input_ids (batch, length)."""
        token_id = int(input_ids[0, -1])  # waits for a GPU: every mark up to here can be read
        if not self._begun:
            self._begun = True
            self._listener.prefilled(*self._stages())
        wanted = self._listener.token(token_id)
        return torch.full((1,), not wanted, dtype=torch.bool, device=input_ids.device)  # pyright: ignore[reportReturnType]
