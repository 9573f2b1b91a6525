"""The pictures that a server is asked about: handwritten digits that ship with scikit-learn, at any size, no two the same."""

import base64
import io

import numpy as np
from PIL import Image

from paceline.datasets.digits import compose_scene, digit_scans

SCENE_SIDE_PX = 160
JPEG_QUALITY = 90
NOISE = 3  # of 255: unseen, and enough that no cache of pictures or prefixes has one before


def picture_url(*, seed: int, scene: int, variant: int, size_px: tuple[int, int]) -> str:
    """Return a JPEG of a width and height as a `data:` URL; the same scene at every size, other noise for every variant."""
    drawn = compose_scene(digit_scans("test"), np.random.default_rng([seed, scene]), (SCENE_SIDE_PX, SCENE_SIDE_PX))
    scaled = np.asarray(drawn.picture.resize(size_px, Image.Resampling.BICUBIC), dtype=np.int16)
    noise = np.random.default_rng([seed, scene, variant, *size_px]).integers(-NOISE, NOISE + 1, scaled.shape)
    pixels = np.clip(scaled + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
