"""The numbers that a learned controller sees of a request, in one order, with their ranges and a version.

The budget is not among them: a controller adds it, for one request may be asked for under many.
"""

import math

from paceline.errors import InvalidValueError
from paceline.records import (
    LARGEST_MARK_COUNT,
    PICTURE_RANGES,
    PROMPT_EMBEDDING_SIZE,
    THUMBNAIL_PX,
    TIERS,
    PictureFeatures,
    RequestFeatures,
)

REQUEST_VECTOR_VERSION = 1
DECIMALS = 6

_LARGEST_LOG_COUNT = 16.0  # 8.9 million tokens
_LARGEST_LOG_PIXELS = 20.0  # 485 million pixels
_LARGEST_LOG_ASPECT = math.log(200)  # the widest picture that a model takes
_LARGEST_LOG_LENGTH = math.log1p(THUMBNAIL_PX)
_AS_THEY_ARE = tuple(name for name in PICTURE_RANGES if name not in ("stroke_width", "mark_size", "mark_count"))

RANGES: dict[str, tuple[float, float]] = {
    "log_text_tokens": (0.0, _LARGEST_LOG_COUNT),
    **{f"log_vision_tokens_{tier}": (0.0, _LARGEST_LOG_COUNT) for tier in TIERS},
    "log_pixels": (0.0, _LARGEST_LOG_PIXELS),
    "log_aspect": (-_LARGEST_LOG_ASPECT, _LARGEST_LOG_ASPECT),
    **{name: PICTURE_RANGES[name] for name in _AS_THEY_ARE},
    "log_stroke_width": (0.0, _LARGEST_LOG_LENGTH),
    "log_mark_size": (0.0, _LARGEST_LOG_LENGTH),
    "log_mark_count": (0.0, math.log1p(LARGEST_MARK_COUNT)),
    "has_prompt_embedding": (0.0, 1.0),
    **{f"prompt_{index:02}": (-1.0, 1.0) for index in range(PROMPT_EMBEDDING_SIZE)},
}
REQUEST_VECTOR_NAMES = tuple(RANGES)


def request_vector(features: RequestFeatures) -> tuple[float, ...]:
    """Return a request's numbers in the order of REQUEST_VECTOR_NAMES, each within its RANGES and of six decimals.

    Counts, and lengths in thumbnail pixels, stand as ln(1 + n); pixels and aspect (width / height) as ln. A value beyond its
    range is given as the range's end. A request that brings its vector has it returned as it is. Raises InvalidValueError for
    one of another length or with a number that is not finite, when the request brings neither vector nor picture features,
    and where it has no tokens for one of the tiers.
    """
    if features.vector is not None:
        return _checked(features.vector)
    if features.picture is None:
        raise InvalidValueError(
            "picture", None, "the features of the picture, as `VisionLanguageModel.features` gives them"
        )
    embedding = features.prompt_embedding
    numbers = (
        math.log1p(features.text_tokens),
        *(math.log1p(_vision_tokens(features, tier)) for tier in TIERS),
        *_picture_numbers(features.picture),
        0.0 if embedding is None else 1.0,
        *((0.0,) * PROMPT_EMBEDDING_SIZE if embedding is None else embedding),
    )
    # rounded, so that a vector read back from a file equals the one computed again
    return tuple(
        round(min(max(number, lowest), highest), DECIMALS)
        for number, (lowest, highest) in zip(numbers, RANGES.values(), strict=True)
    )


def _checked(vector: tuple[float, ...]) -> tuple[float, ...]:
    if len(vector) != len(REQUEST_VECTOR_NAMES) or not all(map(math.isfinite, vector)):
        expected = f"{len(REQUEST_VECTOR_NAMES)} finite numbers, in the order of REQUEST_VECTOR_NAMES"
        raise InvalidValueError("vector", vector, expected)
    return vector


def _vision_tokens(features: RequestFeatures, tier: str) -> int:
    """Return a tier's image tokens; those of a model without tiers are the same under all."""
    tokens = features.vision_tokens.get(tier, features.vision_tokens.get(None))
    if tokens is None:
        known = ", ".join(str(name) for name in features.vision_tokens)
        raise InvalidValueError("vision_tokens", f"given for {known} only", f"the image tokens of tier {tier} too")
    return tokens


def _picture_numbers(picture: PictureFeatures) -> tuple[float, ...]:
    return (
        math.log(picture.width_px * picture.height_px),
        math.log(picture.width_px / picture.height_px),
        *(getattr(picture, name) for name in _AS_THEY_ARE),
        math.log1p(THUMBNAIL_PX * picture.stroke_width),
        math.log1p(THUMBNAIL_PX * picture.mark_size),
        math.log1p(picture.mark_count),
    )
