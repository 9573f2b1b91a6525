"""Read a picture from disk, refusing what no tier can carry before its pixels are decoded."""

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from paceline.errors import PictureError

LARGEST_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: a quarter gigabyte of RGB
WIDEST_ASPECT = 200  # the pixel-budget processors refuse more


def open_picture(path: Path | str) -> Image.Image:
    """Return the picture at `path` in RGB; raises PictureError when it is missing, no picture, or too large."""
    path = Path(path)
    if not path.is_file():
        raise PictureError(f"there is no picture at {path}; expected a PNG, JPEG, WebP or another format Pillow reads")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_pixels refuses it, as an error
            with Image.open(path) as picture:
                check_pixels(picture.width, picture.height, name=str(path))
                return picture.convert("RGB")
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{path} has more than {LARGEST_PIXELS:,} pixels ({error}): scale it down first, the high tier looks at far fewer"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise PictureError(
            f"{path} is not a picture that can be read ({error}); expected a whole PNG, JPEG or WebP"
        ) from error


def check_pixels(width: int, height: int, *, name: str = "the picture") -> None:
    """Raise PictureError when a picture of this size is too large to decode or too long for its width."""
    if width * height > LARGEST_PIXELS:
        raise PictureError(
            f"{name} is {width}x{height} pixels; expected at most {LARGEST_PIXELS:,} in all: scale it down first, "
            "the high tier looks at far fewer"
        )
    if max(width, height) > WIDEST_ASPECT * min(width, height):
        raise PictureError(
            f"{name} is {width}x{height} pixels; expected sides of at most {WIDEST_ASPECT}:1: crop it first"
        )


def check_smallest(width: int, height: int, smallest_side: int) -> None:
    """Raise PictureError when a side is shorter than one image token of the model."""
    if min(width, height) < smallest_side:
        raise PictureError(
            f"the picture is {width}x{height} pixels; expected at least {smallest_side} a side, the size of one image "
            "token of this model: send the original, or scale it up"
        )
