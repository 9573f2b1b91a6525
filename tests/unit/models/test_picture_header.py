"""A picture's size from its data URL, beside the size of the picture once it is decoded and upright."""

import base64
import io
import struct
import zlib
from unittest.mock import patch

import pytest
from PIL import Image, ImageFile

from paceline.errors import PictureError
from paceline.models.picture_header import Base64File, size_of_data_url
from paceline.models.pictures import open_picture

FORMATS = {
    "PNG": {},
    "JPEG": {},
    "GIF": {},
    "BMP": {},
    "WEBP": {},
    "WEBP lossless": {"format": "WEBP", "lossless": True},
    "WEBP animated": {"format": "WEBP", "save_all": True, "append_images": [Image.new("RGB", (31, 17))]},
    "PNG palette": {"format": "PNG", "mode": "P"},
    "GIF transparent": {"format": "GIF", "mode": "P", "transparency": 0},
    "JPEG progressive": {"format": "JPEG", "progressive": True},
    "JPEG with a profile": {"format": "JPEG", "icc_profile": b"x" * 200_000},
    "WEBP with alpha": {"format": "WEBP", "mode": "RGBA"},
}


def data_url(data, kind="png"):
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def saved(width, height, kind="PNG", **settings):
    file = io.BytesIO()
    mode = settings.pop("mode", "RGB")
    Image.effect_noise((width, height), 50).convert(mode).save(file, settings.pop("format", kind), **settings)
    return file.getvalue()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [(31, 17), (1, 1), (400, 3)])
def test_the_size_is_that_of_the_decoded_picture(name, size):
    if "animated" in name and size != (31, 17):
        pytest.skip("all frames have one size")
    data = saved(*size, name.split(" ")[0], **FORMATS[name])
    found = size_of_data_url(data_url(data))
    assert (found.width, found.height) == open_picture(data).size == size


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8, 9, 0])
def test_a_turned_picture_has_the_size_in_which_it_is_seen(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(40, 25, kind, exif=exif)
    found = size_of_data_url(data_url(data))
    assert (found.width, found.height) == open_picture(data).size


def test_an_exif_block_behind_the_pixels_of_a_png_counts():
    data = saved(40, 25)
    exif = Image.Exif()
    exif[0x0112] = 6
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = data[:-12] + chunk + data[-12:]
    found = size_of_data_url(data_url(data))
    assert (found.width, found.height) == open_picture(data).size == (25, 40)


def test_no_pixel_is_read():
    with patch.object(ImageFile.ImageFile, "load", side_effect=AssertionError("decoded")):
        for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
            assert size_of_data_url(data_url(saved(60, 50, kind))).width == 60


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png",
        "data:image/png,abc",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        data_url(b"no picture"),
        data_url(saved(30, 30)[:20]),
        data_url(b"RIFF\x20\0\0\0WEBPVP8X"),
        data_url(b"RIFF\x20\0\0\0WEBPabcd" + b"\0" * 20),
        data_url(saved(30, 30, "TIFF")),
    ],
)
def test_what_has_no_header_is_refused_with_what_was_expected(url):
    with pytest.raises(PictureError, match="expected"):
        size_of_data_url(url)


def test_a_header_without_end_is_given_up():
    endless = b"\xff\xd8" + (b"\xff\xe1\xff\xff" + b"x" * 65_533) * 40
    with pytest.raises(PictureError, match="longer than 1,048,576 bytes"):
        size_of_data_url(data_url(endless, "jpeg"))


def test_a_file_in_base64_reads_as_the_file_does():
    data = bytes(range(256)) * 3 + b"!"
    ours, file = Base64File(base64.b64encode(data).decode()), io.BytesIO(data)
    for place, whence, count in (
        (0, 0, 5),
        (7, 0, 100),
        (-3, 2, 10),
        (-20, 1, 4),
        (10_000, 0, 3),
        (1, 0, 0),
        (2, 0, -1),
    ):
        assert ours.seek(place, whence) == file.seek(place, whence)
        assert ours.read(count) == file.read(count)
        assert ours.tell() == file.tell()
