"""Average normalised Levenshtein similarity, as the Robust Reading Competition's script computes it (DocVQA, ST-VQA)."""

from collections.abc import Sequence

THRESHOLD = 0.5  # similarities below it count 0; exactly this one stays


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Return the similarity in 0 to 1 to the closest answer, 0 below THRESHOLD.

    Case and runs of white space are folded before the edit distance is taken; it is divided by the longer length of the
    raw upper-cased texts, so white space counts there and `ß` counts two.
    """
    said, raw_length = _folded(prediction), len(prediction.upper())
    distances = (_relative_distance(said, raw_length, answer) for answer in answers)
    similarity = 1 - min(distances, default=1.0)
    return similarity if similarity >= THRESHOLD else 0.0


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _relative_distance(said: str, raw_length: int, answer: str) -> float:
    length = max(raw_length, len(answer.upper()))
    return edit_distance(said, _folded(answer)) / length if length else 0.0


def edit_distance(left: str, right: str) -> int:
    """Return the Levenshtein distance over code points.

    Bit-parallel (Myers, 1999, in the form of Hyyrö, 2003): one column of the matrix is two whole numbers of len(left)
    bits, whose bits say where a cell is one more or one less than the cell above it.
    """
    if left == right:
        return 0
    if not left or not right:
        return len(left) + len(right)
    places: dict[str, int] = {}
    for position, sign in enumerate(left):
        places[sign] = places.get(sign, 0) | 1 << position
    mask, last = (1 << len(left)) - 1, 1 << (len(left) - 1)
    more, less, distance = mask, 0, len(left)
    for sign in right:
        equal = places.get(sign, 0)
        diagonal = (((equal & more) + more) ^ more) | equal | less
        up = less | ~(diagonal | more)
        down = more & diagonal
        distance += bool(up & last) - bool(down & last)
        up, down = (up << 1 | 1) & mask, down << 1
        more, less = (down | ~(diagonal | up)) & mask, up & diagonal
    return distance
