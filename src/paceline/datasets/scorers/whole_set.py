"""Scorers that judge all answers of a set together: a picture's score depends on which others are scored with it."""

from collections.abc import Callable, Mapping

from paceline.datasets.scorers.cider import Captioned, cider


def cider_by_picture(captions: Mapping[str, Captioned]) -> Mapping[str, float]:
    """Return the CIDEr of each picture of a complete set, in 0 to 10; their mean is the set's own."""
    return cider(captions).by_picture


# id → scores by sample id, from every prediction of the set with its references
WHOLE_SET_SCORERS: dict[str, Callable[[Mapping[str, Captioned]], Mapping[str, float]]] = {"cider/1": cider_by_picture}
