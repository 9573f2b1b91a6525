"""What an encoder of images may still do in a step: embeddings it computes, and room where they are kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.errors import InvalidValueError


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptImage:
    """An image, or another item for the encoder, at the tokens `start` to `end` (excluded) of a prompt.

    `compute_embeds` is what the encoder has to compute before any of these tokens can be, 0 when that is cached.
    `cache_embeds` is the room that it takes in the cache, 0 when it is kept there for an unfinished request already.
    Images of one `identifier` are computed and kept once.
    """

    identifier: str
    start: int
    end: int
    compute_embeds: int
    cache_embeds: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise InvalidValueError("tokens of an image", (self.start, self.end), "a start of at least 0, then an end")
        if self.compute_embeds < 0 or self.cache_embeds < 0:
            embeds = (self.compute_embeds, self.cache_embeds)
            raise InvalidValueError("embeddings of an image", embeds, "numbers of at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderBudget:
    """What an encoder may do in one step: embeddings to compute, and embeddings of room in its cache."""

    compute_embeds: int
    cache_embeds: int

    def __post_init__(self) -> None:
        if self.compute_embeds < 0 or self.cache_embeds < 0:
            budget = (self.compute_embeds, self.cache_embeds)
            raise InvalidValueError("encoder budget", budget, "numbers of at least 0")


class EncoderUnderway:
    """The encoder's step while chunks are added to it; without a budget it takes every image.

    `whole_images` says that no chunk may end inside an image.
    """

    __slots__ = ("_cache_left", "_compute_left", "_limited", "_taken", "_whole_images")

    def __init__(self, budget: EncoderBudget | None, *, whole_images: bool) -> None:
        self._limited = budget is not None
        self._compute_left = 0 if budget is None else budget.compute_embeds
        self._cache_left = 0 if budget is None else budget.cache_embeds
        self._whole_images = whole_images
        self._taken: set[str] = set()

    def reach(self, images: Sequence[PromptImage], context_tokens: int, chunk: int) -> int:
        """Return the largest chunk of at most `chunk` tokens, from `context_tokens` on, that the encoder goes along with.

        It ends before the first image that cannot be computed or kept, as vLLM ends it.
        """
        end = context_tokens + chunk
        compute = cache = 0
        seen: set[str] = set()
        for image in _within(images, context_tokens, end):
            before = max(0, image.start - context_tokens)
            if self._whole_images and end < image.end:
                return before
            if not self._limited or image.identifier in self._taken or image.identifier in seen:
                continue
            seen.add(image.identifier)
            compute, cache = compute + image.compute_embeds, cache + image.cache_embeds
            if compute > self._compute_left or cache > self._cache_left:
                return before
        return chunk

    def take(self, images: Sequence[PromptImage], context_tokens: int, chunk: int) -> None:
        """Add a chunk that `reach` returned."""
        if self._limited:
            for image in _within(images, context_tokens, context_tokens + chunk):
                if image.identifier not in self._taken:
                    self._taken.add(image.identifier)
                    self._compute_left -= image.compute_embeds
                    self._cache_left -= image.cache_embeds


def _within(images: Sequence[PromptImage], start: int, end: int) -> list[PromptImage]:
    return [image for image in images if image.start < end and start < image.end]
