"""Where the picture of a question comes from; it is opened when it is asked for, and not before."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from paceline.errors import DatasetError, PictureError
from paceline.models.pictures import BACKGROUND, open_picture


class PictureSource(Protocol):
    """A picture that can be opened, any number of times, and told from others without being decoded."""

    def open(self) -> Image.Image:
        """Return the picture upright and in RGB; raises DatasetError or PictureError where it cannot be read."""
        ...

    def sha256(self) -> str:
        """Return what names the picture's content: 64 hexadecimal digits."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPicture:
    """A picture in memory; its hash is that of its size and its RGB values."""

    image: Image.Image = field(repr=False, compare=False)

    def open(self) -> Image.Image:
        """Return the picture itself."""
        return self.image

    def sha256(self) -> str:
        """Return the hash of width, height and RGB values."""
        rgb = self.image.convert("RGB")
        return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPicture:
    """A picture as a file holds it (JPEG, PNG, …); its hash is that of those bytes. `place`, `row` and `field` name it in
    errors."""

    read: Callable[[], bytes] = field(repr=False, compare=False)
    place: str
    row: int
    field: str

    def open(self) -> Image.Image:
        """Decode the picture; raises DatasetError, naming file, row and field, where that cannot be done."""
        try:
            return open_picture(self.read())
        except PictureError as error:
            raise DatasetError(
                self.place,
                f"the picture cannot be used ({error})",
                expected="a whole PNG, JPEG or WebP",
                mend="copy the file again, or leave the row out of it",
                row=self.row,
                field=self.field,
            ) from error

    def sha256(self) -> str:
        """Return the hash of the encoded bytes."""
        return hashlib.sha256(self.read()).hexdigest()


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return several pictures as one, from left to right at the top of a white ground; a single one as it is.

    A request holds one picture here, and few questions (MMMU's) show more.
    """
    if len(pictures) == 1:
        return pictures[0]
    canvas = Image.new("RGB", (sum(each.width for each in pictures), max(each.height for each in pictures)), BACKGROUND)
    left = 0
    for each in pictures:
        canvas.paste(each, (left, 0))
        left += each.width
    return canvas
