"""AVIF, HEIC, JPEG 2000 and JPEG XL: pixels as other decoders give them, and files that cannot be read."""

import io
import struct
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import PIL
import pillow_heif
import pillow_jxl
import profiles
import pytest
from pictures import encoded
from PIL import Image

from faceq.sources import read_shards
from faceq.sources.boxes import children
from faceq.sources.decode import heif
from faceq.sources.decode.image import UnreadableError, decode, format_of
from faceq.sources.listing import Shard
from faceq.storage.settings import S3Settings

LIMIT = 10_000_000
KINDS = ("AVIF", "HEIF", "JPEG2000", "JXL")
LOSSLESS = {
    "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 8},
    "HEIF": {"quality": -1, "chroma": 444, "matrix_coefficients": 0},
    "JPEG2000": {},
    "JXL": {"lossless": True},
}
EXACT = {"AVIF": 2, "HEIF": 0, "JPEG2000": 0, "JXL": 0}
"""Maximum difference of lossless files in levels. AVIF is stored as YCbCr, which rounds colours."""


@pytest.fixture(scope="module", autouse=True)
def encoders() -> None:
    pillow_heif.register_heif_opener()


@pytest.fixture(scope="module")
def photo(astronaut) -> Image.Image:
    return Image.fromarray(astronaut[:240, :320])


def lossless(picture: Image.Image, kind: str, **options) -> bytes:
    return encoded(picture, kind, **LOSSLESS[kind], **options)


def by_opencv(data: bytes) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found[..., ::-1]


def by_ffmpeg(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def away(found: np.ndarray, expected: np.ndarray) -> int:
    return int(np.abs(found.astype(int) - expected).max())


# --- pixels ---


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_a_lossless_file_are_those_that_were_written(photo, kind):
    data = lossless(photo, kind)
    assert format_of(data) == kind
    assert away(decode(data, LIMIT), np.asarray(photo)) <= EXACT[kind]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("AVIF", {"quality": 70}),
        ("AVIF", {"quality": 70, "subsampling": "4:4:4"}),
        ("JPEG2000", {}),
        ("JPEG2000", {"irreversible": True, "quality_mode": "rates", "quality_layers": [20], "mct": 1}),
        ("JPEG2000", {"no_jp2": True, "tile_size": (100, 100)}),
    ],
)
def test_pixels_are_those_of_opencv(photo, kind, options):
    data = encoded(photo, kind, **options)
    assert np.array_equal(decode(data, LIMIT), by_opencv(data))


def test_pixels_of_heic_are_those_of_ffmpeg(photo):
    data = encoded(photo, "HEIF", quality=80)
    # The programs round the conversion from YCbCr differently.
    assert away(decode(data, LIMIT), by_ffmpeg(data)) <= 2
    assert np.array_equal(decode(lossless(photo, "HEIF"), LIMIT), by_ffmpeg(lossless(photo, "HEIF")))


def test_a_heic_photo_of_tiles_as_phones_write_it(photo):
    whole = encoded(photo, "HEIF", quality=90)
    tiled = encoded(photo, "HEIF", quality=90, tile_size=128)
    assert b"grid" in tiled and b"grid" not in whole
    assert np.abs(decode(tiled, LIMIT).astype(int) - decode(whole, LIMIT)).mean() < 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
@pytest.mark.parametrize("kind", KINDS)
def test_grey_and_transparent_images_are_those_of_a_png(photo, kind, mode):
    picture = photo.convert(mode)
    if mode != "L":
        picture.putalpha(photo.getchannel("G"))
    expected = decode(encoded(picture, "PNG"), LIMIT)
    assert away(decode(lossless(picture, kind), LIMIT), expected) <= (1 if kind in ("AVIF", "HEIF") else 0)


RAMP = np.add.outer(np.arange(64), np.arange(64) * 64).astype(np.uint16)
"""Each of 4096 levels once."""


@pytest.mark.parametrize("bits", [10, 12])
def test_of_deep_heic_the_upper_eight_bits_count(bits, monkeypatch):
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", bits == 12)
    deep = np.dstack([RAMP >> (12 - bits), RAMP[::-1] >> (12 - bits), RAMP.T >> (12 - bits)])
    content = np.ascontiguousarray(deep << (16 - bits)).tobytes()
    out = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (64, 64), content).save(out, **LOSSLESS["HEIF"])
    assert np.array_equal(decode(out.getvalue(), LIMIT), deep >> (bits - 8))


def test_of_deep_grey_the_upper_eight_bits_count():
    deep = RAMP << 4 | RAMP >> 8
    assert np.array_equal(decode(lossless(Image.fromarray(deep), "JPEG2000"), LIMIT)[..., 0], deep >> 8)
    data = lossless(Image.fromarray(deep), "JXL")
    profile = pillow_jxl.Decoder()(data)[3]  # the encoder marks such samples as linear
    expected = decode(encoded(Image.fromarray(deep), "PNG", icc_profile=profile), LIMIT)
    assert np.array_equal(decode(data, LIMIT), expected)


@pytest.mark.parametrize("form", ["gbrp10le", "gbrp12le", "rgb48le", "rgba64le"])
def test_of_deep_jpeg_2000_in_colour_the_upper_eight_bits_count(form):
    bits = {"gbrp10le": 10, "gbrp12le": 12}.get(form, 16)
    deep = RAMP << 4 | RAMP >> 8
    deep = np.ascontiguousarray(np.dstack([deep, deep[::-1], deep.T, np.full_like(deep, 65535)])) >> (
        16 - bits
    )
    encoder = av.CodecContext.create("jpeg2000", "w")
    encoder.width = encoder.height = 64
    encoder.time_base, encoder.pix_fmt, encoder.options = Fraction(1), form, {"pred": "dwt53"}
    if form.startswith("gbrp"):
        frame = av.VideoFrame(64, 64, form)
        for plane, channel in zip(frame.planes, (1, 2, 0), strict=True):
            rows = np.zeros((64, plane.line_size // 2), np.uint16)
            rows[:, :64] = deep[..., channel]
            plane.update(rows.tobytes())
    else:
        channels = 4 if form == "rgba64le" else 3
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(deep[..., :channels]), form)
    data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    assert np.array_equal(decode(data, LIMIT), deep[..., :3] >> (bits - 8))


def test_deep_avif_is_rounded_to_eight_bits():
    deep = np.dstack([RAMP >> 2, RAMP[::-1] >> 2, RAMP.T >> 2])
    _, data = cv2.imencode(
        ".avif", deep[..., ::-1].copy(), [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 100]
    )
    whole = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert whole.dtype == np.uint16 and whole.max() > 255
    assert np.abs(decode(data.tobytes(), LIMIT) - whole * (255 / 1023)).max() <= 1


def test_of_deep_jpeg_xl_in_colour_the_upper_eight_bits_count(astronaut):
    """The header of an 8-bit file is changed to 10 bits, which leaves the samples as they are."""
    dark = astronaut[:41, :50]
    data = encoded(Image.fromarray(dark), "JXL", lossless=True, use_container=False)
    bits = f"{int.from_bytes(data[2:], 'little'):0{8 * len(data) - 16}b}"[::-1]
    # 26 bits of size; "not all default"; no extra fields; integers; the choice of 8 bits.
    assert bits[26:31] == "00000"
    changed = bits[:29] + "10" + bits[31:]
    deep = b"\xff\x0a" + int(changed[::-1], 2).to_bytes(len(data) - 2, "little")
    assert np.array_equal(decode(deep, LIMIT), dark >> 2)


def with_profile(data: bytes, profile: bytes) -> bytes:
    """A JPEG 2000 file with this profile in place of its enumerated colour space."""
    box = struct.pack(">I4sBBB", len(profile) + 11, b"colr", 2, 0, 0) + profile
    (header,) = ((start, end) for kind, start, end in children(data, 0, len(data)) if kind == b"jp2h")
    (old,) = ((s, e) for kind, s, e in children(data, *header) if kind == b"colr")
    content = data[header[0] : old[0] - 8] + box + data[old[1] : header[1]]
    made = struct.pack(">I4s", len(content) + 8, b"jp2h") + content
    return data[: header[0] - 8] + made + data[header[1] :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_colour_profile_is_applied(photo, kind):
    profile = profiles.rgb(profiles.ADOBE_RGB, 2.19921875)
    expected = decode(encoded(photo, "PNG", icc_profile=profile), LIMIT)
    if kind == "JPEG2000":
        data = with_profile(lossless(photo, kind), profile)
    elif kind == "JXL":
        pytest.skip("the encoder writes no profile")
    else:
        data = lossless(photo, kind, icc_profile=profile)
    assert np.abs(expected.astype(int) - np.asarray(photo)).mean() > 3
    assert np.abs(decode(data, LIMIT).astype(int) - expected).mean() <= (1 if kind == "AVIF" else 0)


# --- orientation ---


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_rotation_and_mirroring_are_applied_once(photo, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = decode(encoded(photo, "PNG", exif=exif), LIMIT)
    data = lossless(photo, kind, exif=exif.tobytes())  # the encoders turn it into the file's own rotation
    assert (b"irot" in data or b"imir" in data) == (orientation > 1)
    assert away(decode(data, LIMIT), expected) <= EXACT[kind]


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["AVIF", "HEIF", "JXL"])
def test_the_orientation_in_metadata_does_not_count(photo, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    if kind == "JXL":
        data = lossless(photo, kind, exif=exif.tobytes(), xmp=XMP)
    else:
        data = lossless(photo, kind, xmp=XMP)
        for turn in (b"irot", b"imir"):
            data = data.replace(turn, b"free")
    assert b"Orientation" in data
    assert away(decode(data, LIMIT), np.asarray(photo)) <= EXACT[kind]


def test_a_jpeg_that_became_a_jpeg_xl_is_upright(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg = encoded(photo, "JPEG", quality=95, exif=exif)
    data = pillow_jxl.Encoder(mode="RGB", lossless=True, quality=100)(jpeg, *photo.size, jpeg_encode=True)
    found, expected = decode(data, LIMIT).astype(int), decode(jpeg, LIMIT)
    assert found.shape == (320, 240, 3)
    assert np.abs(found - expected).mean() < 1


# --- which image ---


def test_the_first_image_of_an_avif_sequence_is_read(photo):
    others = [photo.rotate(180), photo.rotate(90)]
    data = lossless(photo, "AVIF", save_all=True, append_images=others)
    assert data[8:12] == b"avis"
    assert away(decode(data, LIMIT), np.asarray(photo)) <= EXACT["AVIF"]


@pytest.mark.parametrize("primary", [0, 1, 2])
def test_the_primary_image_of_a_heic_burst_is_read(photo, primary):
    burst = [photo, photo.rotate(180), photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    data = lossless(photo, "HEIF", save_all=True, append_images=burst[1:], primary_index=primary)
    assert np.array_equal(decode(data, LIMIT), np.asarray(burst[primary]))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_a_general_brand_does_not_hide_the_coding(photo, kind):
    data = lossless(photo, kind)
    general = data[:8] + b"mif1" + data[12:]
    assert heif.is_avif(general) == (kind == "AVIF") and heif.is_heic(general) == (kind == "HEIF")
    assert np.array_equal(decode(general, LIMIT), decode(data, LIMIT))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.jpg", "a.heic"])
def test_the_content_decides_whatever_the_extension(photo, kind, name, tmp_path):
    data = lossless(photo, kind)
    (tmp_path / name).write_bytes(data)
    shard = Shard(str(tmp_path / name), str(tmp_path / name), "picture", len(data))
    (frame,) = read_shards([shard], S3Settings())
    assert frame.image == data and frame.error is None


def test_a_jpeg_called_heic_is_read(photo, tmp_path):
    data = encoded(photo, "JPEG")
    (tmp_path / "a.heic").write_bytes(data)
    shard = Shard(str(tmp_path / "a.heic"), str(tmp_path / "a.heic"), "picture", len(data))
    (frame,) = read_shards([shard], S3Settings())
    assert frame.image == data and decode(data, LIMIT).shape == (240, 320, 3)


# --- what cannot be read ---


@pytest.mark.parametrize(
    ("kind", "module", "words"),
    [
        ("HEIF", "pillow_heif", r'HEIC images need pillow-heif, .*: `pip install "faceq\[formats\]"`'),
        ("JXL", "pillow_jxl", r'JPEG XL images need pillow-jxl-plugin, .*: `pip install "faceq\[formats\]"`'),
        ("AVIF", "PIL._avif", "AVIF images need Pillow 11.3 or newer"),
    ],
)
def test_a_missing_decoder_is_named(photo, kind, module, words, monkeypatch):
    data = lossless(photo, kind)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr(PIL, "_avif", raising=False)
    with pytest.raises(UnreadableError, match=words):
        decode(data, LIMIT)
    assert decode(lossless(photo, "JPEG2000"), LIMIT).shape == (240, 320, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_pixels_are_refused_before_they_are_decoded(kind):
    flat = Image.new("RGB", (1500, 1000), (9, 80, 120))
    data = encoded(flat, kind, **({"speed": 10} if kind == "AVIF" else {}))
    started = time.process_time()
    with pytest.raises(UnreadableError, match="1500x1000 pixels are more than max_pixels=1000000"):
        decode(data, 1_000_000)
    assert time.process_time() - started < 0.03


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_is_unreadable(photo, kind, share):
    data = lossless(photo, kind)
    with pytest.raises(UnreadableError, match="damaged or cut off") as caught:
        decode(data[: int(len(data) * share)], LIMIT)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}, {"tile_size": (64, 64)}])
def test_jpeg_2000_is_whole_without_its_end_marker_but_not_without_a_part(photo, options):
    data = encoded(photo, "JPEG2000", **options)
    assert data.endswith(b"\xff\xd9")
    assert np.array_equal(decode(data[:-2], LIMIT), np.asarray(photo))
    last = data.rindex(b"\xff\x90\0\x0a")
    for cut in (len(data) - 3, last + 20, last):
        with pytest.raises(UnreadableError, match=r"cut off \(some of its pixels are missing|cut off"):
            decode(data[:cut], LIMIT)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (40, b"\x87", "signed samples"),
        (40, b"\x10", "more than 16 bits per sample"),
        (38, b"\0\5", "5 components"),
        (20, bytes(8), "its size is not valid"),
    ],
)
def test_kinds_of_jpeg_2000_that_would_be_misread_are_refused(photo, place, value, words):
    data = bytearray(encoded(photo, "JPEG2000", no_jp2=True))
    place += 4 if place == 20 else 2
    data[place : place + len(value)] = value
    if words == "5 components":
        data[4:6] = struct.pack(">H", 38 + 3 * 5)
        data[42:42] = bytes.fromhex("070101" * 2)
    with pytest.raises(UnreadableError, match=words):
        decode(bytes(data), LIMIT)


def jxl_header(bits: str) -> bytes:
    """A codestream of 8x8 pixels with these bits after its size."""
    text = "1" + "00000" + "100" + bits
    return b"\xff\x0a" + int(text[::-1].rjust(400, "0"), 2).to_bytes(50, "little")


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        ("0" + "1" + "000" + "0" + "0" + "1", "an animation"),
        # A preview of 8x8 pixels comes before.
        ("0" + "1" + "000" + "0" + "1" + "1" + "01" + "00000" + "100" + "1", "an animation"),
        ("0" + "0" + "1", "floating-point samples"),
        ("0" + "0" + "0" + "00" + "0" + "11" + "000100000000", "9 extra channels"),
    ],
)
def test_kinds_of_jpeg_xl_that_would_be_misread_are_refused(bits, words):
    with pytest.raises(UnreadableError, match=f"JPEG XL with {words} is not supported"):
        decode(jxl_header(bits), LIMIT)


@pytest.mark.parametrize("transfer", [16, 18])
@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_high_dynamic_range_without_a_profile_is_refused(photo, kind, transfer):
    data = bytearray(lossless(photo, kind))
    at = data.index(b"colrnclx")
    data[at + 10 : at + 12] = struct.pack(">H", transfer)
    with pytest.raises(UnreadableError, match="high dynamic range"):
        decode(bytes(data), LIMIT)


# --- resources ---


@pytest.mark.parametrize("kind", KINDS)
def test_one_thread_decodes_an_image(astronaut, kind):
    large = Image.fromarray(astronaut).resize((1024, 1024))
    options = {"AVIF": {"speed": 10, "tile_rows": 2, "tile_cols": 2}, "HEIF": {"tile_size": 256}}
    data = encoded(large, kind, **options.get(kind, {}))
    decode(data, LIMIT)
    tasks = Path("/proc/self/task")
    done = threading.Event()
    most = [0]

    def watch() -> None:
        while not done.is_set():
            most[0] = max(most[0], len(list(tasks.iterdir())))

    watcher = threading.Thread(target=watch)
    watcher.start()
    before = len(list(tasks.iterdir()))
    decode(data, LIMIT)
    done.set()
    watcher.join()
    # libde265 decodes in a thread of its own, for which the caller waits.
    assert most[0] <= before + (1 if kind == "HEIF" else 0)


def test_pillow_decodes_the_same_formats_as_before(photo):
    """The packages are imported only for their own formats, and do not register AVIF."""
    expected = Image.open(io.BytesIO(lossless(photo, "AVIF"))).__class__
    for kind in KINDS:
        decode(lossless(photo, kind), LIMIT)
    assert Image.open(io.BytesIO(lossless(photo, "AVIF"))).__class__ is expected
    assert pillow_heif.options.DECODE_THREADS > 0
