"""Pictures as a model sees them: upright, opaque, eight bits a channel. What no tier can carry is refused undecoded."""

import struct
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from paceline.errors import PictureError

LARGEST_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs: a quarter gigabyte of RGB
WIDEST_ASPECT = 200  # the pixel-budget processors refuse more
# what Pillow raises for damaged files: its plugins read fields that may be missing, of another type or beyond the end
UNREADABLE = (
    UnidentifiedImageError, OSError, SyntaxError, TypeError, ValueError, LookupError, ArithmeticError, struct.error
)  # fmt: skip
QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
BACKGROUND = (255, 255, 255)  # under transparent pixels, as a page shows them


def open_picture(source: Path | str | bytes, *, formats: tuple[str, ...] | None = None) -> Image.Image:
    """Return the picture in a file, or in the bytes of one, as `upright_rgb` makes it.

    `formats` are Pillow's names of those that are taken, None for all. Raises PictureError when it is missing, no picture, or
    too large.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise PictureError(f"there is no picture at {name}; expected a PNG, JPEG, WebP or another format Pillow reads")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_pixels refuses it, as an error
            warnings.simplefilter("ignore", UserWarning)  # torn metadata beside whole pixels
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as picture:
                check_pixels(picture.width, picture.height, name=name)
                seen = upright_rgb(picture)
                return (
                    picture.copy() if seen is picture else seen
                )  # the file closes here, and pixels may not be read yet
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name} has more than {LARGEST_PIXELS:,} pixels ({error}): scale it down first, the high tier looks at far fewer"
        ) from error
    except PictureError:
        raise
    except UNREADABLE as error:
        raise PictureError(
            f"{name} is not a picture that can be read ({error}); expected a whole PNG, JPEG or WebP"
        ) from error


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Return a picture as people see it, in RGB: its first frame, turned as its EXIF orientation says, on white where it is
    transparent, sixteen bits scaled to eight.

    A picture that is all this already comes back as it is. Raises PictureError for pixels that are floating-point numbers,
    for nothing says which of them is white.
    """
    frame = _first_frame(picture)
    turned = frame if _orientation(frame) == 1 else ImageOps.exif_transpose(frame)
    if turned.mode == "RGB" and "transparency" not in turned.info:
        return turned
    if turned.mode == "F":
        raise PictureError("the picture has floating-point pixels; expected 8 or 16 bits a channel: convert it first")
    if turned.mode == "I" or turned.mode.startswith("I;16"):
        return _eight_bits(turned).convert("RGB")
    if turned.has_transparency_data:
        opaque = Image.new("RGBA", turned.size, (*BACKGROUND, 255))
        return Image.alpha_composite(opaque, turned.convert("RGBA")).convert("RGB")
    return turned.convert("RGB")


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Return (width, height) in pixels once a picture stands as its EXIF orientation says; no pixel is read."""
    turned = _orientation(picture) in QUARTER_TURNS
    return (picture.height, picture.width) if turned else (picture.width, picture.height)


def _orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation, 1 (upright) where there is none or the block that holds it is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a torn block: the answer is the same
            found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except (SyntaxError, ValueError, OSError, struct.error):  # as viewers do: the pixels are whole
        return 1
    return found if found in range(1, 9) else 1


def _first_frame(picture: Image.Image) -> Image.Image:
    """Return the first frame; the caller's own picture stays at the frame it is at."""
    shown = picture.tell() if getattr(picture, "n_frames", 1) > 1 else 0
    if shown == 0:
        return picture
    picture.seek(0)
    try:
        return picture.copy()
    finally:
        picture.seek(shown)


def _eight_bits(picture: Image.Image) -> Image.Image:
    levels_HW = np.asarray(picture).astype(np.float64)
    scale = 257 if levels_HW.max(initial=0) > 255 else 1  # "I" holds eight or sixteen bits, and does not say which
    if picture.mode != "I":
        scale = 257
    return Image.fromarray(np.clip(np.rint(levels_HW / scale), 0, 255).astype(np.uint8))


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
