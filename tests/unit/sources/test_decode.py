"""Decoding of common kinds of images."""

import numpy as np
import pytest
from pictures import encoded
from PIL import Image, ImageCms

from faceq.sources.decode import pixels
from faceq.sources.decode.image import UnreadableError, decode

LIMIT = 10_000_000


@pytest.fixture(scope="module")
def photo(astronaut) -> Image.Image:
    return Image.fromarray(astronaut)


def test_png_comes_back_as_it_was(photo, astronaut):
    assert np.array_equal(decode(encoded(photo, "PNG"), LIMIT), astronaut)


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, 1)), (8, lambda a: np.rot90(a, -1))],
)
def test_exif_orientation_is_applied(astronaut, orientation, undo):
    stored = Image.fromarray(np.ascontiguousarray(undo(astronaut[:300])))
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(encoded(stored, "PNG", exif=exif), LIMIT), astronaut[:300])


def test_grey_becomes_three_equal_channels(photo):
    found = decode(encoded(photo.convert("L"), "PNG"), LIMIT)
    assert found.shape == (512, 512, 3)
    assert np.array_equal(found[..., 0], found[..., 2])


def test_sixteen_bit_grey_is_scaled_not_clipped(photo):
    grey = np.asarray(photo.convert("L"))
    wide = Image.fromarray(grey.astype(np.uint16) * 257)
    assert np.array_equal(decode(encoded(wide, "PNG"), LIMIT)[..., 0], grey)


def test_transparent_parts_are_white(photo):
    clear = photo.convert("RGBA")
    clear.putalpha(0)
    assert decode(encoded(clear, "PNG"), LIMIT).min() == 255


def test_palette_with_a_transparent_colour():
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.putpixel((4, 4), 1)
    found = decode(encoded(picture, "PNG", transparency=0), LIMIT)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[4, 4].tolist() == [255, 0, 0]


def test_cmyk_jpeg_looks_like_the_rgb_it_came_from(photo, astronaut):
    found = decode(encoded(photo.convert("CMYK"), "JPEG", quality=95), LIMIT)
    assert np.abs(found.astype(int) - astronaut).mean() < 5


def test_first_frame_of_an_animation(photo):
    pages = [photo, Image.new("RGB", photo.size)]
    found = decode(encoded(pages[0], "WEBP", save_all=True, append_images=pages[1:], lossless=True), LIMIT)
    assert np.array_equal(found, np.asarray(photo))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_every_supported_format_opens(photo, kind):
    assert decode(encoded(photo, kind), LIMIT).shape == (512, 512, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_read_if_it_is_whole(photo, kind):
    """The file is truncated after the first frame. (The pages of a TIFF may be in any order; Pillow writes
    them in order.)"""
    pages = [photo, photo.rotate(90), photo.rotate(180)]
    options = {"WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(pages[0], kind, save_all=True, append_images=pages[1:], **options)
    alone = len(encoded(photo, kind, **options))
    whole = decode(data, LIMIT)
    assert np.array_equal(decode(data[: alone + (len(data) - alone) // 2], LIMIT), whole)
    with pytest.raises(UnreadableError, match="damaged or cut off"):
        decode(data[: alone // 2], LIMIT)


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "JPEG"])
def test_metadata_after_the_pixels_may_be_truncated(photo, kind):
    exif = Image.Exif()
    exif[0x010E] = "x" * 2000
    data = encoded(photo, kind, exif=exif)
    if kind == "WEBP":
        assert np.array_equal(decode(data[:-1000], LIMIT), decode(encoded(photo, kind), LIMIT))
    assert np.array_equal(decode(data + data[:1000], LIMIT), decode(encoded(photo, kind), LIMIT))


def lzw(codes: list[tuple[int, int]]) -> bytes:
    """GIF codes, each with its number of bits."""
    bits = "".join(f"{code:0{size}b}" for code, size in reversed(codes))
    return int(bits, 2).to_bytes(-(-len(bits) // 8), "little")


@pytest.mark.parametrize(("end", "whole"), [([(1, 3), (5, 4)], True), ([(1, 3)], True), ([(5, 3)], False)])
def test_a_gif_whose_pixels_end_early_is_unreadable(end, whole):
    """An image of two pixels: the clear code, one pixel, and then another pixel or the end code."""
    data = lzw([(4, 3), (2, 3), *end])
    frame = b",\0\0\0\0\2\0\1\0\0\2" + bytes([len(data)]) + data + b"\0;"
    gif = b"GIF89a\2\0\1\0\x91\0\0" + bytes(range(12)) + frame
    if whole:
        assert decode(gif, LIMIT).tolist() == [[[6, 7, 8], [3, 4, 5]]]
    else:
        with pytest.raises(UnreadableError, match="damaged or cut off"):
            decode(gif, LIMIT)


@pytest.mark.parametrize("maximum", [1, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("magic", [b"P2", b"P5", b"P3", b"P6"])
def test_ppm_of_any_maximum_is_scaled_to_it(maximum, magic):
    levels = np.unique(np.linspace(0, maximum, 50).astype(int))
    samples = np.repeat(levels, 3) if magic in (b"P3", b"P6") else levels
    binary = samples.astype(">u2" if maximum > 255 else np.uint8).tobytes()
    body = binary if magic in (b"P5", b"P6") else b" ".join(b"%d" % v for v in samples) + b"\n"
    found = decode(b"%b\n%d 1\n%d\n" % (magic, len(levels), maximum) + body, LIMIT)
    assert np.abs(found[0] - levels[:, None] * 255 / maximum).max() <= 1
    assert found.max() == 255 and found.min() == 0


def test_a_pixel_with_premultiplied_alpha(photo):
    """Pillow gives such modes for TIFF. Other formats could give them too."""
    for mode, plain in (("La", "LA"), ("RGBa", "RGBA")):
        picture = photo.convert(plain)
        picture.putalpha(200)
        expected = pixels.to_rgb(picture).astype(int)
        assert np.abs(pixels.to_rgb(picture.convert(mode)) - expected).max() <= 2


MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


@pytest.mark.parametrize("mode", [*MODES, "I", "I;16", "I;16L", "I;16B", "I;16N"])
def test_black_and_white_of_every_mode_of_pillow(mode):
    for level in (0, 255):
        source = Image.new("RGB", (3, 2), (level,) * 3)
        if mode == "LAB":
            spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
            picture = ImageCms.profileToProfile(source, *spaces, outputMode="LAB")
        elif mode.startswith("I"):
            picture = Image.new(mode, (3, 2), level * 257)
        elif mode in ("La", "RGBa", "PA"):
            picture = source.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]).convert(mode)
        else:
            picture = source.convert(mode)
        found = pixels.to_rgb(picture)
        assert found.dtype == np.uint8 and np.abs(found.astype(int) - level).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16"])
def test_bands_of_rows_give_the_same_pixels_as_one_band(astronaut, orientation, mode, monkeypatch):
    grey = astronaut[:301, :200, 0].astype(np.uint16) * 257
    picture = (
        Image.fromarray(grey) if mode == "I;16" else Image.fromarray(astronaut[:301, :200]).convert(mode)
    )
    if mode == "RGBA":
        picture.putalpha(Image.fromarray(astronaut[:301, :200, 1]))
    picture.getexif()[0x0112] = orientation
    whole = pixels.to_rgb(picture)
    monkeypatch.setattr(pixels, "_BAND", 200 * 7)
    assert np.array_equal(pixels.to_rgb(picture), whole)
    assert whole.shape == ((301, 200, 3) if orientation < 5 else (200, 301, 3))


def bad_pictures(photo: Image.Image) -> dict[str, tuple[bytes, str]]:
    jpeg = encoded(photo, "JPEG")
    png = encoded(photo, "PNG")
    return {
        "empty": (b"", "empty"),
        "text": (b"<html>404</html>", "not an image"),
        "cut off": (jpeg[: len(jpeg) // 2], "cut off"),
        "header only": (jpeg[:20], "damaged or cut off"),
        "broken crc": (png[:2000] + bytes(50) + png[2050:], "damaged"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "damaged or cut off"),
        "float": (encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "float"),
        "postscript": (encoded(photo, "EPS"), "PostScript .* not supported"),
    }


@pytest.mark.parametrize("case", bad_pictures(Image.new("RGB", (64, 64))))
def test_unreadable_says_why(photo, case):
    data, reason = bad_pictures(photo)[case]
    with pytest.raises(UnreadableError, match=reason):
        decode(data, LIMIT)


def test_too_many_pixels_are_refused_before_decoding():
    bomb = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(UnreadableError, match="10000x10000 pixels are more than max_pixels=10000000"):
        decode(bomb, LIMIT)
