"""Mutated images and shards, read in their own process because a decoder may crash or hang in native code.

A kind and a seed identify an input. To reproduce one: `python tests/support/fuzz.py KIND SEED 1`.
"""

import base64
import functools
import io
import json
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pillow_heif
import pillow_jxl  # noqa: F401 - registers its encoder
import pyarrow as pa
import pyarrow.parquet as pq
from compressors import FORMS, pack
from PIL import Image
from places import ROOT
from records import MAGIC, framed, identities

from faceq.sources import read_shards
from faceq.sources.decode.image import UnreadableError, decode
from faceq.sources.kinds import Kind
from faceq.sources.listing import Shard
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

ANIMATIONS = {"frames.gif": "GIF", "frames.webp": "WEBP", "frames.png": "PNG"}
KINDS = (
    *("jpeg", "png", "webp", "avif", "heic", "jp2", "jxl", *ANIMATIONS),
    *("tar", *(f"tar.{form}" for form in FORMS), "parquet", "parquet_nested", "rec", "mdb"),
)
MAX_PIXELS = 1_000_000
EXTRA_BYTES = 16 << 10
SECONDS_EACH = 10
ADDRESS_SPACE = 2 << 30
"""Maximum bytes that a process may allocate after its start, to protect the machine."""

MEMORY = 256 << 20
"""Maximum growth of the memory in use, bytes. Decoding an image of MAX_PIXELS takes about 30 MB."""


# --- samples to mutate ---


def _pictures(kind: str) -> list[bytes]:
    ramp = np.indices((40, 56)).sum(0)[..., None] * np.array([1, 2, 3])
    noise = np.random.default_rng(0).integers(0, 60, (40, 56, 3))
    photo = Image.fromarray((ramp % 180 + noise).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: dict[str, list[tuple[Image.Image, dict]]] = {
        "JPEG": [
            (photo, {"exif": exif}),
            (photo, {"progressive": True}),
            (photo.convert("CMYK"), {}),
            (photo.convert("L"), {"restart_marker_blocks": 2}),
        ],
        "PNG": [
            (photo, {"exif": exif}),
            (photo.quantize(16), {"transparency": 3}),
            (photo.convert("LA"), {}),
            (photo, {"save_all": True, "append_images": [photo.rotate(180)]}),
        ],
        "WEBP": [
            (photo, {"exif": exif}),
            (photo, {"lossless": True}),
            (photo.convert("RGBA"), {}),
            (photo, {"save_all": True, "append_images": [photo.rotate(180)]}),
        ],
        "AVIF": [
            (photo, {"exif": exif, "speed": 10}),
            (photo.convert("RGBA"), {"speed": 10}),
            (photo, {"save_all": True, "append_images": [photo.rotate(180)], "speed": 10}),
        ],
        "HEIF": [
            (photo, {"exif": exif}),
            (photo.convert("RGBA"), {"quality": -1}),
            (photo, {"save_all": True, "append_images": [photo.rotate(180)]}),
        ],
        "JPEG2000": [
            (photo, {}),
            (photo, {"no_jp2": True, "tile_size": (20, 20), "plt": True}),
            (photo.convert("LA"), {"irreversible": True}),
        ],
        "JXL": [
            (photo, {"lossless": True}),
            (photo.convert("RGBA"), {}),
            # Damage in the pixels hardly ever leaves them readable, so that one file has many other bytes.
            (photo, {"use_container": True, "xmp": bytes(4000)}),
        ],
    }
    pillow_heif.register_heif_opener()
    return [_encoded(picture, kind, **options) for picture, options in variants[kind]]


def _animations(kind: str) -> list[bytes]:
    photo = Image.open(io.BytesIO(_pictures("PNG")[0]))
    steps = [photo.rotate(9 * step) for step in range(6)]
    made = [steps, [step.convert("RGBA") for step in steps]]
    return [
        _encoded(each[0], kind, save_all=True, append_images=each[1:], disposal=disposal)
        for each in made
        for disposal in (1, 2)
    ]


def _encoded(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def _tars() -> list[bytes]:
    return [_tar(layout) for layout in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]


def _compressed_tars(form: str) -> list[bytes]:
    """Each tar as one stream, and as several: then damage in one leaves the others intact."""
    found = []
    for data in _tars():
        pieces = [data[at : at + 2048] for at in range(0, len(data), 2048)]
        found += [pack(data, form), b"".join(pack(piece, form) for piece in pieces)]
    return found


_SIDECAR = b'{"identity": "n1", "box": [1, 2, 3]}'


def _tar(layout: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as archive:
        for index in range(6):
            long = "" if layout == tarfile.USTAR_FORMAT else "ü" * 120
            info = tarfile.TarInfo(f"d/{long}{index % 4}.jpg")
            info.size = 300 * index
            archive.addfile(info, io.BytesIO(bytes([index]) * info.size))
            side = tarfile.TarInfo(f"d/{long}{index % 4}.json")
            side.size = len(_SIDECAR)
            archive.addfile(side, io.BytesIO(_SIDECAR))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "d/0.jpg"
        archive.addfile(link)
    return out.getvalue()


def _parquets() -> list[bytes]:
    images = [bytes([index]) * 60 for index in range(50)]
    keys = [f"k{index % 40}" for index in range(50)]
    feature = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    more = {"caption": [f"caption {key}" for key in keys], "box": [[index, 1] for index in range(50)]}
    structs = pa.array(
        [{"bytes": image, "path": key} for image, key in zip(images, keys, strict=True)], feature
    )
    written = (
        ({"key": keys, "image": images, **more}, {"compression": "NONE", "use_dictionary": False}),
        ({"key": keys, "image": images, **more}, {"compression": "SNAPPY", "row_group_size": 20}),
        ({"key": keys, "image": structs}, {"compression": "ZSTD", "row_group_size": 20}),
        ({"image": pa.array(images).dictionary_encode()}, {"data_page_version": "2.0"}),
    )
    return [_written(columns, **options) for columns, options in written]


def _nested_parquets() -> list[bytes]:
    images = [b"\xff\xd8\xff" + bytes([index]) * 60 for index in range(60)]
    rows = [images[index : index + index % 4] for index in range(0, 60, 3)]
    keys = [f"k{index % 15}" for index in range(20)]
    samples = [{"image": image, "caption": key} for image, key in zip(images[:20], keys, strict=True)]
    pixels = pa.array([[[[n, row, 3]] * 4 for row in range(5)] for n in range(20)], _lists_of(pa.uint8(), 3))
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.uint8(), (2, 3, 3)),
        pa.array([list(range(18))] * 20, pa.list_(pa.uint8(), 18)),
    )
    texts = [[base64.b64encode(image).decode() for image in row] for row in rows]
    flat = {"pixels": [bytes(60)] * 20, "height": [5] * 20, "width": [4] * 20}
    return [
        _written({"key": keys, "image": rows}, compression="NONE", use_dictionary=False),
        _written({"key": keys, "frames": rows}, compression="SNAPPY", row_group_size=8),
        _written({"key": keys, "sample": samples}, compression="NONE"),
        _written({"key": keys, "faces": [samples[:2]] * 20}, compression="NONE", data_page_version="2.0"),
        _written({"image": pixels}, compression="NONE"),
        _written({"image": tensors}, compression="SNAPPY"),
        _written({"images": texts}, compression="NONE", use_dictionary=False),
        _written(flat, compression="NONE"),
    ]


def _lists_of(kind: pa.DataType, depth: int) -> pa.DataType:
    return _lists_of(pa.list_(kind), depth - 1) if depth else kind


def _written(columns: dict[str, Any], **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, **options)
    return out.getvalue()


def _records() -> list[bytes]:
    images = [(index // 3, bytes([index]) * 40 * index + MAGIC * (index % 3)) for index in range(1, 12)]
    return [b"".join(framed(content) for _, content in identities(images))]


def _lmdbs() -> list[bytes]:
    contents = []
    for count in (8, 150):
        with tempfile.TemporaryDirectory() as folder:
            env = lmdb.open(folder, map_size=1 << 24)
            with env.begin(write=True) as transaction:
                for index in range(count):
                    transaction.put(b"%d.jpg" % index, bytes([index]) * 70 * (index % 5) * (index % 7))
                transaction.put(b"big.jpg", bytes(9000))
            env.close()
            contents.append(Path(folder, "data.mdb").read_bytes())
    return contents


SAMPLES: dict[str, Callable[[], list[bytes]]] = {
    "jpeg": lambda: _pictures("JPEG"),
    "png": lambda: _pictures("PNG"),
    "webp": lambda: _pictures("WEBP"),
    "avif": lambda: _pictures("AVIF"),
    "heic": lambda: _pictures("HEIF"),
    "jp2": lambda: _pictures("JPEG2000"),
    "jxl": lambda: _pictures("JXL"),
    **{kind: functools.partial(_animations, form) for kind, form in ANIMATIONS.items()},
    "tar": _tars,
    **{f"tar.{form}": functools.partial(_compressed_tars, form) for form in FORMS},
    "parquet": _parquets,
    "parquet_nested": _nested_parquets,
    "rec": _records,
    "mdb": _lmdbs,
}


def mutated(kind: str, samples: list[bytes], seed: int) -> bytes:
    """One of the samples, changed in one to four places. Half of the PNGs and tars get correct checksums, so
    that the code after the check is tested too."""
    rng = random.Random(f"{kind}{seed}")
    data = bytearray(rng.choice(samples))
    other = rng.choice(samples)
    for _ in range(rng.randint(1, 4)):
        _mutate(data, other, rng)
    if rng.random() < 0.5:
        data = {"png": _with_png_checksums, "tar": _with_tar_checksums}.get(kind, bytearray)(data)
    return bytes(data)


def _mutate(data: bytearray, other: bytes, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    length = rng.choice([1, 2, 4, 16, 100, 1000])
    match rng.randrange(7):
        case 0 | 1 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 2:
            data[at : at + length] = rng.randbytes(length)
        case 3:
            del data[at:]
        case 4:
            data[at:at] = rng.randbytes(length)
        case 5:
            start = rng.randrange(len(other))
            data[at : at + rng.choice([0, length])] = other[start : start + length]
        case _:
            number = rng.choice([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
            data[at : at + 4] = struct.pack(rng.choice("<>") + "I", number)


def _with_png_checksums(data: bytearray) -> bytearray:
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        data[end : end + 4] = (
            struct.pack(">I", zlib.crc32(data[at + 4 : end])) if end + 4 <= len(data) else b""
        )
        at = end + 4
    return data


def _with_tar_checksums(data: bytearray) -> bytearray:
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    return data


# --- the reading process ---


def outcomes(kind: str, data: bytes, folder: str) -> Iterator[str]:
    """Read one input. Raises AssertionError if the result breaks a guarantee of the readers."""
    if kind.startswith(("tar", "frames", "parquet")) or kind in ("rec", "mdb"):
        yield from _of_shard(kind, data, os.path.join(folder, f"input.{kind}"))
        return
    try:
        pixels = decode(data, MAX_PIXELS)
    except UnreadableError as error:
        assert 0 < len(str(error)) < 400 and "\n" not in str(error), error
        yield "unreadable"
    else:
        height, width, channels = pixels.shape
        assert pixels.dtype == np.uint8 and channels == 3 and 0 < height * width <= MAX_PIXELS, pixels.shape
        yield "readable"


def _of_shard(kind: str, data: bytes, path: str) -> Iterator[str]:
    Path(path).write_bytes(data)
    kinds: dict[str, Kind] = {
        **{"parquet": "parquet", "parquet_nested": "parquet"},
        **{"rec": "record", "mdb": "lmdb"},
    }
    shard_kind: Kind = kinds.get(kind, "picture" if kind in ANIMATIONS else "tar")
    shards = [Shard(path, path, shard_kind, len(data))]
    frames = list(
        read_shards(shards, S3Settings(), extra_bytes=EXTRA_BYTES, animated=True, encoding="base64")
    )
    assert len({frame.id for frame in frames}) == len(frames), "two frames of one id"
    breaks = [index for index, frame in enumerate(frames) if frame.frame_index == BREAK]
    assert breaks in ([], [len(frames) - 1]), f"breaks at {breaks} of {len(frames)}"
    for frame in frames:
        assert (frame.image is None) != (frame.error is None), frame
        assert not frame.refused, frame
        yield "readable" if frame.error is None else "broken" if frame.frame_index == BREAK else "unreadable"


def main(kind: str, first: int, count: int) -> None:
    """Read `count` inputs. Prints the seed before each one and the results at the end."""
    samples = SAMPLES[kind]()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, used + ADDRESS_SPACE))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            print(seed, flush=True)
            # Kills the process if Python or a decoder loops forever. The limit is CPU time, so that a busy
            # machine does not count as a hang. A process that waits forever hits the time limit of its
            # parent.
            signal.setitimer(signal.ITIMER_PROF, SECONDS_EACH)
            found.update(outcomes(kind, mutated(kind, samples, seed), folder))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({**found, "grown": grown * 1024}))


def read_mutated(kind: str, count: int) -> dict[str, int]:
    """Read `count` inputs in a process. Returns the number of readable, unreadable and truncated frames."""
    command = [sys.executable, "-W", "ignore", __file__, kind, "0", str(count)]
    # Arrow's plain malloc pool: its other allocators reserve gigabytes of address space.
    environment = {
        **os.environ,
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    child = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    *_, last = child.stdout.splitlines() or ["no input"]
    assert child.returncode == 0, (
        f"{kind} ended with {child.returncode} at seed {last}: {child.stderr[-3000:]}"
    )
    found: dict[str, int] = json.loads(last)
    assert found["grown"] < MEMORY
    return found


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
