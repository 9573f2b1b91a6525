"""What a server is warmed up with: pictures and wording that it never had before, of several sizes and lengths.

An engine keeps pictures and the beginnings of prompts that it had before, and answers what repeats them many times faster. A
bound that is calibrated on such answers is too low for every request that comes after them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

from paceline.errors import InvalidValueError
from paceline.quick.levels import MOST_NEW_TOKENS
from paceline.quick.pictures import picture_url
from paceline.records import require_seed
from paceline.wire.budget import BUDGET_FIELD

DEFAULT_SIZES_PX = ((448, 448), (896, 672), (1344, 1008))
DEFAULT_WORDS = (8, 24, 64)
DEFAULT_BUDGETS_MS = (1000.0,)
SMALLEST_SIDE_PX, LARGEST_SIDE_PX, MOST_WORDS, LONGEST_BUDGET_MS = 32, 4096, 4096, 3_600_000
QUESTION = "Which digits do you see, in order?"
WORDS = (
    *("river", "stone", "window", "garden", "paper", "music", "winter", "summer", "bread", "table", "forest", "engine"),
    *("silver", "bridge", "letter", "candle", "harbour", "orange", "mountain", "pocket", "shadow", "copper", "village"),
    *("basket", "thunder", "ladder", "meadow", "violin", "lantern", "market", "saddle", "feather"),
)
CONSONANTS, VOWELS, SYLLABLES = "bdfgklmnprstvz", "aeiou", 6  # 70 to the sixth names: none comes twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a request is like: its picture's width and height (None without one), words of its question, and its budget."""

    size_px: tuple[int, int] | None
    words: int
    budget_ms: float


class WarmUpRequests:
    """Requests without end; two of different seeds, or of one, share no picture and no beginning of their texts.

    The first ones ask about every size once, for a size's first request is slow and a server leaves its first three out; the
    others go through all combinations in rounds, each in an order drawn anew. No `sizes_px` asks about no picture.
    """

    def __init__(
        self,
        *,
        seed: int,
        sizes_px: Sequence[tuple[int, int]] = DEFAULT_SIZES_PX,
        words: Sequence[int] = DEFAULT_WORDS,
        budgets_ms: Sequence[float] = DEFAULT_BUDGETS_MS,
    ) -> None:
        require_seed(seed)
        for size in sizes_px:
            if not all(SMALLEST_SIDE_PX <= side <= LARGEST_SIDE_PX for side in size):
                expected = f"WIDTHxHEIGHT of {SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX} pixels, for example 896x672"
                raise InvalidValueError("picture", "x".join(map(str, size)), expected)
        if not words or not all(1 <= count <= MOST_WORDS for count in words):
            raise InvalidValueError("words", list(words), f"numbers of words from 1 to {MOST_WORDS}")
        if not budgets_ms or not all(0 < budget <= LONGEST_BUDGET_MS for budget in budgets_ms):
            expected = f"milliseconds above 0 and at most {LONGEST_BUDGET_MS:,}"
            raise InvalidValueError("budgets", list(budgets_ms), expected)
        self.seed = seed
        self._random = Random(seed)
        self._sizes: tuple[tuple[int, int] | None, ...] = tuple(sizes_px) or (None,)
        self._shapes = self._all_shapes(words, budgets_ms)
        self._number = 0

    def next_body(self, model: str) -> dict[str, Any]:
        """Return the next chat request: its text first, so that the prompts differ before their pictures do."""
        self._number += 1
        shape = next(self._shapes)
        content: list[dict[str, Any]] = [{"type": "text", "text": self._text(shape.words)}]
        if shape.size_px is not None:
            url = picture_url(seed=self.seed, scene=self._number, variant=self._number, size_px=shape.size_px)
            content.append({"type": "image_url", "image_url": {"url": url}})
        return {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": MOST_NEW_TOKENS,
            "stream": True,
            BUDGET_FIELD: shape.budget_ms,
        }

    def _text(self, words: int) -> str:
        name = "".join(self._random.choice(CONSONANTS) + self._random.choice(VOWELS) for _ in range(SYLLABLES))
        more = self._random.choices(WORDS, k=words - 1)
        return f"{' '.join([name, *more])}. {QUESTION}"

    def _all_shapes(self, words: Sequence[int], budgets_ms: Sequence[float]) -> Iterator[Shape]:
        for size in self._sizes:
            yield Shape(size_px=size, words=words[0], budget_ms=budgets_ms[0])
        every = [
            Shape(size_px=size, words=count, budget_ms=budget)
            for size, count, budget in product(self._sizes, words, budgets_ms)
        ]
        while True:
            yield from self._random.sample(every, len(every))
