"""A picture's size from the first bytes of its `data:` URL: nothing is decoded but the base64 of what is read.

PNG, JPEG, GIF and BMP are opened by Pillow, which reads no pixel before it is asked for one. Pillow reads a WebP file whole, so
its chunks are read here (WebP Container Specification, RFC 9649), and so is an EXIF block that a PNG file has behind its pixels.
"""

import binascii
import io
import struct
import warnings
from dataclasses import dataclass
from typing import Protocol

from PIL import ExifTags, Image, UnidentifiedImageError

from paceline.errors import PictureError
from paceline.models.pictures import QUARTER_TURNS

MOST_BYTES = 1 << 20  # read of one file, in all: headers with a colour profile and a thumbnail are smaller
MOST_CHUNKS = 10_000
PNG, RIFF, WEBP = b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"
BY_PILLOW = ("PNG", "JPEG", "GIF", "BMP")
READABLE = "PNG, JPEG, WebP, GIF or BMP"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSize:
    """Width and height in pixels of a picture that stands as its EXIF orientation says."""

    width: int
    height: int


class Letters(Protocol):
    """A text of single bytes that is read by parts."""

    def __len__(self) -> int:
        """Return how many bytes it has."""
        ...

    def __getitem__(self, part: slice, /) -> bytes:
        """Return some of them."""
        ...


Text = str | memoryview | Letters


class Base64File(io.RawIOBase):
    """A file in base64, from a place in a text or its bytes, of which only what is read is decoded, and no more than
    `most_bytes` in all.
    """

    def __init__(self, text: Text, start: int = 0, *, most_bytes: int = MOST_BYTES) -> None:
        self._text, self._start, self._place, self._left = text, start, 0, most_bytes
        self.size = (len(text) - start) // 4 * 3 - _written(text[-2:]).count("=")

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether any place in it can be read next: yes."""
        return True

    def tell(self) -> int:
        """Return the place that is read next."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, past the end too."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes from here; raises OSError beyond what may be read, and for what is no base64."""
        wanted = max(0, self.size - self._place)
        if size is not None and size >= 0:
            wanted = min(size, wanted)
        if wanted > self._left:
            raise OSError(f"its header is longer than {MOST_BYTES:,} bytes")
        self._left -= wanted
        first, last = self._place // 3, -(-(self._place + wanted) // 3)
        try:
            decoded = binascii.a2b_base64(self._text[self._start + 4 * first : self._start + 4 * last])
        except (binascii.Error, ValueError) as error:
            raise OSError(f"it is no base64: {error}") from error
        skipped = self._place - 3 * first
        self._place += wanted
        return decoded[skipped : skipped + wanted]


def size_of_data_url(url: Text) -> PictureSize:
    """Return the size of the picture in a `data:` URL of base64, or in the bytes of one, upright.

    Raises PictureError for another URL and for a picture whose header cannot be read.
    """
    spec, comma, _ = _written(url[:1000]).partition(",")
    if not comma or not spec.startswith("data:") or not spec.endswith(";base64"):
        raise PictureError(
            f"the picture's URL begins {_written(url[:32])!r}; expected a data: URL of base64, data:image/png;base64,…"
        )
    file = Base64File(url, len(spec) + 1)  # no copy: pictures are megabytes
    try:
        return _webp_size(file) if _is_webp(file) else _pillow_size(file)
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        # Pillow names the object that it read from, with its address in memory
        said = "it is no picture" if isinstance(error, UnidentifiedImageError) else error
        raise PictureError(f"the header of the picture cannot be read ({said}); expected a whole {READABLE}") from error


def _written(part: str | bytes | memoryview) -> str:
    return part if isinstance(part, str) else bytes(part).decode("latin-1")  # a letter a byte, so that places stay


def _pillow_size(file: Base64File) -> PictureSize:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torn metadata and of large pictures, which are refused by their size
        with Image.open(file, formats=BY_PILLOW) as picture:  # pyright: ignore[reportArgumentType]
            if picture.format == "PNG" and "exif" not in picture.info:
                picture.info["exif"] = _png_exif(file)
            return _upright(picture)


def _upright(picture: Image.Image) -> PictureSize:
    try:
        exif = Image.Image.getexif(picture)  # a PNG's own reads the pixels first
        turned = exif.get(ExifTags.Base.Orientation, 1) in QUARTER_TURNS
    except (SyntaxError, ValueError, OSError, struct.error):  # a damaged block counts for nothing, as in viewers
        turned = False
    width, height = picture.size
    return PictureSize(width=height, height=width) if turned else PictureSize(width=width, height=height)


def _png_exif(file: Base64File) -> bytes:
    """Return the EXIF block of a PNG file, which may stand behind its pixels; empty without one."""
    place = len(PNG)
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            break
        (length,) = struct.unpack(">I", head[:4])
        if head[4:] == b"eXIf":
            return b"Exif\0\0" + file.read(length)
        place += length + 12
    return b""


def _is_webp(file: Base64File) -> bool:
    head = file.read(12)
    file.seek(0)
    return head[:4] == RIFF and head[8:] == WEBP


def _webp_size(file: Base64File) -> PictureSize:
    file.seek(12)
    head = file.read(18)
    kind, data = head[:4], head[8:]
    if len(head) < 18:
        raise ValueError("a WebP file that ends in its header")
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (4, 7))
        turned = bool(data[0] & 0x08) and _webp_turned(file)
    elif kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        (width, height), turned = (each & 0x3FFF for each in struct.unpack("<HH", data[6:10])), False
    elif kind == b"VP8L" and data[:1] == b"\x2f":
        bits = int.from_bytes(data[1:5], "little")
        width, height, turned = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), False
    else:
        raise ValueError("a WebP file without a frame")
    return PictureSize(width=height, height=width) if turned else PictureSize(width=width, height=height)


def _webp_turned(file: Base64File) -> bool:
    place = 12
    for _ in range(MOST_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            break
        (length,) = struct.unpack("<I", head[4:])
        if head[:4] == b"EXIF":
            exif = Image.Exif()
            try:
                exif.load(file.read(length))
                return exif.get(ExifTags.Base.Orientation, 1) in QUARTER_TURNS
            except (SyntaxError, ValueError, struct.error):
                return False
        place += 8 + length + length % 2
    return False
