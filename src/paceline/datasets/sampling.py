"""Which questions are asked: a seeded order in which every beginning is a fair part of each type."""

import hashlib
from collections.abc import Mapping, Sequence

SCALE = float(2**64)


def stratified_order(types: Mapping[str, Sequence[str]], *, seed: int) -> list[str]:
    """Return the sample ids of a set in the order in which they are asked, given the types of each.

    Every beginning of the order holds one and the same share of each combination of types, within one question; more
    questions only go on after fewer. A place depends on the seed, the ids and their types, not on the order in which they
    stand.
    """
    strata: dict[tuple[str, ...], list[tuple[float, str]]] = {}
    for sample_id, labels in types.items():
        strata.setdefault(tuple(labels), []).append((_uniform(seed, "question", sample_id), sample_id))
    placed: list[tuple[float, float, str]] = []
    for labels, members in strata.items():
        offset = _uniform(seed, "type", *labels)  # systematic sampling: each question is as likely as any other
        for rank, (key, sample_id) in enumerate(sorted(members)):
            placed.append(((rank + offset) / len(members), key, sample_id))
    return [sample_id for _place, _key, sample_id in sorted(placed)]


def _uniform(seed: int, *words: str) -> float:
    digest = hashlib.sha256("\0".join((str(seed), *words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / SCALE
