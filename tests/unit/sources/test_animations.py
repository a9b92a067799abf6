"""Animations as videos: frames as other decoders compose them, their times, and damage."""

import io
import itertools
import struct
import tracemalloc
from pathlib import Path

import av
import numpy as np
import profiles
import pytest
from pictures import encoded
from PIL import Image

from faceq.config import Limits, Video
from faceq.sources import Findings, animation, read_again, read_shards
from faceq.sources.decode import packed
from faceq.sources.decode.image import decode
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

LIMIT = 10_000_000
KINDS = ("GIF", "WEBP", "PNG")
OPTIONS = {"GIF": {}, "WEBP": {"lossless": True, "exact": True}, "PNG": {}}
MEMORY = 1 << 30


@pytest.fixture(scope="module")
def pictures(astronaut) -> list[Image.Image]:
    """Images of which parts move over a background that stays."""
    made = []
    for step in range(8):
        image = Image.fromarray(astronaut[:120, :160])
        image.paste(Image.fromarray(astronaut[200:240, 200:240]), (15 * step, 10 * step))
        made.append(image)
    return made


def animated(pictures: list[Image.Image], kind: str, **options) -> bytes:
    options = {"duration": 40, **OPTIONS[kind], **options}
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


def frames_in(data: bytes) -> list[np.ndarray]:
    return [frame.pixels().copy() for frame in animation.read(data, MEMORY)]


def times_in(data: bytes) -> list[float]:
    return [float(frame.time) for frame in animation.read(data, MEMORY)]


def by_ffmpeg(data: bytes, kind: str) -> list[np.ndarray]:
    """The frames as FFmpeg composes them, over white."""
    form = {"GIF": "gif", "PNG": "apng", "WEBP": "webp"}[kind]
    found = []
    with av.open(io.BytesIO(data), format=form) as container:
        for frame in container.decode(video=0):
            rgba = Image.fromarray(frame.to_ndarray(format="rgba"), "RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            found.append(np.asarray(Image.alpha_composite(white, rgba).convert("RGB")))
    return found


def by_pillow(data: bytes) -> list[np.ndarray]:
    found = []
    with Image.open(io.BytesIO(data)) as picture:
        for index in range(picture.n_frames):
            picture.seek(index)
            rgba = picture.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            found.append(np.asarray(Image.alpha_composite(white, rgba).convert("RGB")))
    return found


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], most: int = 0) -> None:
    assert len(found) == len(expected)
    for index, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert np.abs(one.astype(int) - other).max() <= most, f"frame {index}"


# --- composing ---


@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_that_were_written(pictures, kind):
    data = animated(pictures, kind)
    assert animation.is_animated(data)
    expected = by_pillow(data) if kind == "GIF" else [np.asarray(picture) for picture in pictures]
    assert_same(frames_in(data), expected)
    assert np.array_equal(frames_in(data)[0], decode(data, LIMIT))


def moving(mode: str) -> list[Image.Image]:
    """Discs on a transparent background; in RGBA, they have a soft edge."""
    made = []
    for step in range(6):
        y, x = np.indices((60, 90))
        away = np.hypot(y - 20 - 4 * step, x - 20 - 10 * step)
        alpha = np.clip(3 * (14 - away), 0, 255) * 6 if mode == "RGBA" else np.where(away < 14, 255, 0)
        colour = np.dstack([np.full_like(y, 40 * step), 2 * y, 2 * x, np.clip(alpha, 0, 255)])
        made.append(Image.fromarray(colour.astype(np.uint8), "RGBA"))
    return made


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_every_disposal_of_gif_is_as_in_ffmpeg(disposal):
    data = animated(moving("GIF"), "GIF", disposal=disposal, optimize=False)
    assert_same(frames_in(data), by_ffmpeg(data, "GIF"))


def test_disposals_of_gif_that_change_are_as_in_ffmpeg():
    data = animated(moving("GIF"), "GIF", disposal=[1, 3, 2, 1, 3, 1])
    assert_same(frames_in(data), by_ffmpeg(data, "GIF"))


@pytest.mark.parametrize("blend", [0, 1])
@pytest.mark.parametrize("disposal", [0, 1, 2])
def test_every_disposal_and_blending_of_apng_is_as_in_ffmpeg(disposal, blend):
    data = animated(moving("RGBA"), "PNG", disposal=disposal, blend=blend)
    # Two programs round half-transparent colours differently.
    assert_same(frames_in(data), by_ffmpeg(data, "PNG"), most=2)


@pytest.mark.parametrize("options", [{}, {"minimize_size": True}, {"kmin": 1, "kmax": 2}, {"quality": 60}])
def test_partial_frames_of_webp_are_as_libwebp_composes_them(options):
    lossy = {"lossless": False} if "quality" in options else {}
    data = animated(moving("RGBA"), "WEBP", **options, **lossy)
    assert_same(frames_in(data), by_pillow(data), most=2)


def anmf(still: bytes, left: int, top: int, size: tuple[int, int], flags: int) -> bytes:
    three = [number.to_bytes(3, "little") for number in (left // 2, top // 2, size[0] - 1, size[1] - 1, 70)]
    content = b"".join(three) + bytes([flags]) + still[12:]
    return b"ANMF" + struct.pack("<I", len(content)) + content


@pytest.mark.parametrize("flags", list(itertools.product(range(4), range(4))))
def test_every_disposal_and_blending_of_webp_is_as_libwebp_composes_it(flags):
    spots = [Image.new("RGBA", (20, 10), (200, 30 * n, 9, 110 + 20 * n)) for n in range(4)]
    stills = [encoded(spot, "WEBP", lossless=True, exact=True) for spot in spots]
    stills = [still if still[12:16] != b"VP8X" else still[:12] + still[30:] for still in stills]
    places = [(0, 0), (10, 4), (14, 6), (2, 2)]
    parts = [
        anmf(still, *place, (20, 10), flag)
        for still, place, flag in zip(stills, places, (*flags, 0, 0), strict=True)
    ]
    head = struct.pack("<4sIBBBB", b"VP8X", 10, 0x12, 0, 0, 0) + bytes([39, 0, 0, 19, 0, 0])
    body = b"WEBP" + head + b"ANIM\6\0\0\0" + bytes(6) + b"".join(parts)
    data = b"RIFF" + struct.pack("<I", len(body)) + body
    assert_same(frames_in(data), by_pillow(data), most=2)


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_colours_and_orientation_are_those_of_the_first_frame_as_an_image(pictures, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = profiles.rgb(profiles.ADOBE_RGB, 2.19921875)
    data = animated(pictures[:3], kind, exif=exif, icc_profile=profile)
    found = frames_in(data)
    assert [each.shape for each in found] == [(160, 120, 3)] * 3
    assert np.array_equal(found[0], decode(data, LIMIT))
    alone = encoded(pictures[2], "PNG", exif=exif, icc_profile=profile)
    assert np.array_equal(found[2], decode(alone, LIMIT))


def test_the_hidden_image_of_an_apng_is_no_frame(pictures):
    hidden = Image.new("RGB", pictures[0].size)
    data = encoded(hidden, "PNG", save_all=True, append_images=pictures, default_image=True, duration=40)
    assert_same(frames_in(data), [np.asarray(picture) for picture in pictures])


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1"])
def test_frames_of_other_modes(pictures, mode):
    made = [picture.convert(mode) for picture in pictures]
    assert_same(frames_in(animated(made, "PNG")), [np.asarray(picture.convert("RGB")) for picture in made])


def test_frames_of_16_bits(pictures):
    grey = [np.asarray(picture.convert("L")).astype(np.uint16) * 257 for picture in pictures]
    data = animated([Image.fromarray(each) for each in grey], "PNG")
    found = frames_in(data)
    assert np.array_equal(found[0][..., 0], grey[0] >> 8)
    # Pillow writes wrong pixels into the other frames. FFmpeg rounds to 8 bits.
    assert_same(found, by_ffmpeg(data, "PNG"), most=1)


# --- times ---


@pytest.mark.parametrize("kind", KINDS)
def test_times_are_the_sums_of_the_delays(pictures, kind):
    data = animated(pictures[:5], kind, duration=[40, 200, 1000, 20, 30])
    assert times_in(data) == pytest.approx([0, 0.04, 0.24, 1.24, 1.26])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delay", [0, 10])
def test_delays_of_up_to_ten_milliseconds_are_shown_as_a_tenth_of_a_second(pictures, kind, delay):
    data = animated(pictures[:3], kind, duration=delay)
    assert times_in(data) == pytest.approx([0, 0.1, 0.2])


# --- reading ---


def shard_of(tmp_path: Path, data: bytes, name: str = "a.gif") -> Shard:
    path = tmp_path / name
    path.write_bytes(data)
    return Shard(str(path), str(path), "picture", len(data))


def read(shard: Shard, **how) -> list[Frame]:
    return list(read_shards([shard], S3Settings(), **{"animated": True, **how}))


def image_of(frame: Frame) -> np.ndarray:
    assert frame.image is not None, frame.error
    return decode(frame.image, LIMIT)


@pytest.mark.parametrize("kind", KINDS)
def test_each_frame_is_a_row_on_request(pictures, kind, tmp_path):
    data = animated(pictures, kind)
    shard = shard_of(tmp_path, data, f"a.{kind.lower()}")
    findings = Findings()
    frames = read(shard, findings=findings)
    assert [(frame.member, frame.frame_index) for frame in frames] == [(None, n) for n in range(8)]
    assert [frame.timestamp_s for frame in frames] == pytest.approx([0.04 * n for n in range(8)])
    assert_same([image_of(frame) for frame in frames], frames_in(data))
    assert not findings.notes
    (finished,) = findings.finished
    assert (finished.source, finished.frames) == (shard.source, 8)

    (only,) = read(shard, animated=False)
    assert (only.frame_index, only.timestamp_s, only.image) == (0, None, data)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [(Video(every=3), [0, 3, 6]), (Video(fps=10), [0, 3, 5]), (Video(fps=1), [0])],
)
def test_frames_are_sampled_like_those_of_a_video(pictures, sampling, expected, tmp_path):
    frames = read(shard_of(tmp_path, animated(pictures, "GIF")), sampling=sampling)
    assert [frame.frame_index for frame in frames] == expected


@pytest.mark.parametrize("kind", [*KINDS, "JPEG", "TIFF", "BMP"])
def test_a_still_image_is_the_same_with_and_without(pictures, kind, tmp_path):
    options = {"save_all": True} if kind in KINDS else {}
    shard = shard_of(tmp_path, encoded(pictures[0], kind, **options))
    assert read(shard) == read(shard, animated=False)
    (frame,) = read(shard)
    assert frame.timestamp_s is None and frame.image == Path(shard.path).read_bytes()


def test_frames_that_are_done_are_not_encoded_again(pictures, tmp_path):
    shard = shard_of(tmp_path, animated(pictures, "GIF"))
    done = {frame.id for frame in read(shard)[1:]}
    assert [frame.done for frame in read(shard, done=done)] == [False] + [True] * 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [0, 5])
def test_a_frame_is_read_again(pictures, kind, index, tmp_path):
    shard = shard_of(tmp_path, animated(pictures, kind), f"a.{kind.lower()}")
    wanted = read(shard)[index]
    (again,) = read_again({shard.source: {None: index}}, {wanted.id}, S3Settings(), animated=True)
    assert again == wanted


def test_a_file_that_is_too_long_is_refused_as_an_image(pictures, tmp_path):
    data = animated(pictures, "GIF")
    for kind in ("picture", "video"):
        shard = shard_of(tmp_path, data)
        shard = Shard(shard.source, shard.path, kind, len(data))  # type: ignore[arg-type]
        (frame,) = read(shard, limits=Limits(frame_bytes=len(data) - 1))
        assert frame.frame_index == 0 and "limits.frame_bytes" in (frame.error or "")


def test_two_thousand_frames_take_the_memory_of_one():
    dots = [Image.new("P", (64, 64), n % 2) for n in range(2)]
    for dot in dots:
        dot.putpalette([0, 0, 0, 255, 255, 255])
    pair = animated(dots, "GIF", loop=0)
    first = pair.index(b"\x21\xf9")
    second = pair.index(b"\x21\xf9", first + 2)
    data = pair[:first] + pair[first:-1] * 1000 + b";"
    assert second > first
    tracemalloc.start()
    count = sum(1 for _ in animation.read(data, MEMORY))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 2_000 and most < 2_000_000


# --- damage ---


@pytest.mark.parametrize("kind", KINDS)
def test_frames_before_a_cut_are_rows_and_the_rest_is_a_break(pictures, kind, tmp_path):
    data = animated(pictures, kind)
    whole = frames_in(data)
    frames = read(shard_of(tmp_path, data[: len(data) * 3 // 4], f"a.{kind.lower()}"))
    assert [frame.frame_index for frame in frames[:-1]] == list(range(len(frames) - 1)) and len(frames) > 2
    assert_same([image_of(frame) for frame in frames[:-1]], whole[: len(frames) - 1])
    assert frames[-1].frame_index == BREAK and f"after {len(frames) - 1} " in (frames[-1].error or "")


@pytest.mark.parametrize("kind", KINDS)
def test_frames_before_damaged_pixels_are_rows_and_the_rest_is_a_break(pictures, kind, tmp_path):
    data = bytearray(animated(pictures, kind))
    mark = {"GIF": b"\x21\xf9\x04", "WEBP": b"ANMF", "PNG": b"fdAT"}[kind]
    at = -1
    for _ in range(4):
        at = data.index(mark, at + 1)
    at += 1200 if kind == "GIF" else 40  # beyond the palette, whose damage nothing shows
    data[at : at + 360] = bytes(360)
    frames = read(shard_of(tmp_path, bytes(data), f"a.{kind.lower()}"))
    assert 2 < len(frames) < 8
    assert all(frame.error is None for frame in frames[:-1])
    assert frames[-1].frame_index == BREAK and "copy or export it again" in (frames[-1].error or "")


def test_a_canvas_that_takes_too_much_memory_is_refused(pictures, tmp_path):
    data = bytearray(animated(pictures, "GIF"))
    data[6:10] = struct.pack("<HH", 65535, 65535)
    (frame,) = read(shard_of(tmp_path, bytes(data)))
    assert frame.frame_index == BREAK and "limits.source_memory" in (frame.error or "")


def test_parts_beyond_the_canvas_are_not_shown():
    spots = [Image.new("P", (20, 20), 1), Image.new("P", (20, 20), 2)]
    for spot in spots:
        spot.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    data = animated(spots, "GIF")
    second = data.index(b",", data.index(b"\x21\xf9", data.index(b",") + 10))
    for left, top in ((15, 15), (30, 0), (0, 65000)):
        moved = data[: second + 1] + struct.pack("<HH", left, top) + data[second + 5 :]
        found = frames_in(moved)
        assert [each.shape for each in found] == [(20, 20, 3)] * 2
        assert found[1][0, 0].tolist() == [200, 0, 0]
        assert found[1][19, 19].tolist() == ([0, 200, 0] if left == 15 else [200, 0, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_packed_frames_are_not_files(pictures, kind, tmp_path):
    """Frames travel as pixels, as those of videos do."""
    frames = read(shard_of(tmp_path, animated(pictures[:2], kind)))
    assert all(packed.is_packed(frame.image or b"") for frame in frames)
