from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image

from paceline.errors import PictureError
from paceline.models.pictures import open_picture, upright_rgb, upright_size

# how a phone stores an upright picture under each orientation: what undoes the turn that the tag asks for
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def as_a_phone_stores_it(picture, orientation):
    """PNG bytes: pixels turned, and the tag that says so."""
    stored = picture if orientation == 1 else picture.transpose(STORED_AS[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = BytesIO()
    stored.save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_their_orientation_says(digits, questions, tmp_path, orientation):
    upright = questions[0].picture.crop((0, 0, 128, 96))  # no symmetry, no square
    content = as_a_phone_stores_it(upright, orientation)
    path = tmp_path / "phone.png"
    path.write_bytes(content)
    for opened in (open_picture(path), open_picture(content), upright_rgb(Image.open(BytesIO(content)))):
        assert np.array_equal(np.asarray(opened), np.asarray(upright))
    assert upright_size(Image.open(BytesIO(content))) == upright.size
    expected, found = (
        digits.prepare(upright, "Read.", "high"),
        digits.prepare(Image.open(BytesIO(content)), "Read.", "high"),
    )
    assert all((found.inputs[name] == value).all() for name, value in expected.inputs.items())
    assert digits.features(Image.open(BytesIO(content)), "Read.") == digits.features(upright, "Read.")


def test_turning_twice_is_turning_once(questions):
    content = as_a_phone_stores_it(questions[0].picture, 6)
    once = upright_rgb(Image.open(BytesIO(content)))
    assert upright_rgb(once) is once


GREY = np.linspace(0, 255, 64 * 48).reshape(48, 64).round()


def sixteen_bits():
    return Image.fromarray((GREY * 257).astype(np.uint16))


def test_sixteen_bits_are_scaled_not_cut_off():
    assert sixteen_bits().mode == "I;16"
    shown = np.asarray(upright_rgb(sixteen_bits()))
    assert np.array_equal(shown[..., 0], GREY) and np.array_equal(shown[..., 0], shown[..., 2])
    assert np.array_equal(np.asarray(upright_rgb(Image.fromarray(GREY.astype(np.int32))))[..., 0], GREY)


def test_what_is_transparent_is_seen_on_white():
    ink = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    ink.paste((200, 0, 0, 255), (0, 0, 4, 8))
    shown = np.asarray(upright_rgb(ink))
    assert tuple(shown[0, 0]) == (200, 0, 0) and tuple(shown[0, 7]) == (255, 255, 255)
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    palette.info["transparency"] = 0
    assert [tuple(pixel) for pixel in np.asarray(upright_rgb(palette))[0]] == [(255, 255, 255), (9, 9, 9)]
    assert tuple(np.asarray(upright_rgb(Image.new("LA", (1, 1), (7, 0))))[0, 0]) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_other_mode_is_shown_in_rgb(mode):
    assert upright_rgb(Image.new(mode, (4, 3))).mode == "RGB"


def test_of_an_animation_the_first_frame_is_taken_and_the_callers_stays_where_it_is():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    file = BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    animation = Image.open(file)
    animation.seek(1)
    assert tuple(np.asarray(upright_rgb(animation))[0, 0]) == (255, 0, 0)
    assert animation.tell() == 1


def test_floating_point_pixels_have_no_white():
    with pytest.raises(PictureError, match="floating-point"):
        upright_rgb(Image.new("F", (4, 4)))


def test_a_damaged_orientation_block_is_as_good_as_none(questions):
    file = BytesIO()
    questions[0].picture.save(file, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert open_picture(file.getvalue()).size == questions[0].picture.size
