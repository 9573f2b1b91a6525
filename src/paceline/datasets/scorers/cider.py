"""CIDEr of a set of captions, in the clipped, length-penalised form that the caption evaluation of COCO computes.

Vedantam et al., "CIDEr: Consensus-based image description evaluation" (2015), its CIDEr-D; figures equal those of
pycocoevalcap 1.2. n-grams are weighted by how rare they are among the pictures *scored together*, so a picture's score
depends on the set it is scored in: one picture alone scores 0, a part of a set another value than the whole.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from paceline.datasets.scorers.ptb_tokens import caption_tokens

LONGEST_NGRAM = 4
LENGTH_SIGMA = 6.0
SCALE = 10.0

NGram = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captioned:
    """What was said of a picture, and what people said of it."""

    prediction: str
    references: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CiderScores:
    """The score of each picture in 0 to 10 in the set's own order, and their mean, which is the set's score."""

    corpus: float
    by_picture: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Weighted:
    """The weighted n-grams of one caption: one mapping and one norm for each n, and the number of its bigrams."""

    weights: tuple[dict[NGram, float], ...]
    norms: tuple[float, ...]
    bigrams: int


def cider(captions: Mapping[str, Captioned]) -> CiderScores:
    """Return the CIDEr of a complete set of pictures, by picture id; a set without pictures scores 0."""
    counted = {
        picture: (_ngrams(each.prediction), [_ngrams(reference) for reference in each.references])
        for picture, each in captions.items()
    }
    pictures_with = Counter(
        ngram for _, references in counted.values() for ngram in {ngram for counts in references for ngram in counts}
    )
    rarity = _Rarity(pictures_with, len(counted))
    by_picture = {picture: _score(rarity, said, references) for picture, (said, references) in counted.items()}
    return CiderScores(corpus=fmean(by_picture.values()) if by_picture else 0.0, by_picture=by_picture)


class _Rarity:
    """ln(pictures) - ln(pictures whose references have the n-gram), those that have it counted as at least one."""

    __slots__ = ("_log_pictures", "_of")

    def __init__(self, pictures_with: Mapping[NGram, int], pictures: int) -> None:
        self._log_pictures = math.log(max(1, pictures))
        self._of = {ngram: self._log_pictures - math.log(count) for ngram, count in pictures_with.items()}

    def weighted(self, counts: Mapping[NGram, int]) -> _Weighted:
        weights: tuple[dict[NGram, float], ...] = tuple({} for _ in range(LONGEST_NGRAM))
        squares = [0.0] * LONGEST_NGRAM
        bigrams = 0
        for ngram, count in counts.items():
            order = len(ngram) - 1
            weight = count * self._of.get(ngram, self._log_pictures)
            weights[order][ngram] = weight
            squares[order] += weight * weight
            bigrams += count if order == 1 else 0
        return _Weighted(weights, tuple(math.sqrt(square) for square in squares), bigrams)


def _ngrams(caption: str) -> Counter[NGram]:
    words = " ".join(caption_tokens(caption)).split()
    return Counter(
        tuple(words[start : start + length])
        for length in range(1, LONGEST_NGRAM + 1)
        for start in range(len(words) - length + 1)
    )


def _score(rarity: _Rarity, said: Mapping[NGram, int], references: Sequence[Mapping[NGram, int]]) -> float:
    ours = rarity.weighted(said)
    similarities = (_similarity(ours, rarity.weighted(reference)) for reference in references)
    return SCALE * math.fsum(similarities) / len(references) if references else 0.0


def _similarity(ours: _Weighted, theirs: _Weighted) -> float:
    longer = ours.bigrams - theirs.bigrams
    penalty = math.exp(-(longer * longer) / (2 * LENGTH_SIGMA**2))
    total = 0.0
    for mine, yours, my_norm, your_norm in zip(ours.weights, theirs.weights, ours.norms, theirs.norms, strict=True):
        if my_norm and your_norm:
            shared = sum(min(weight, yours[ngram]) * yours[ngram] for ngram, weight in mine.items() if ngram in yours)
            total += shared / (my_norm * your_norm)
    return penalty * total / LONGEST_NGRAM
