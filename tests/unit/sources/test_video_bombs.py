"""Small videos that claim much memory: their memory is bounded, and the error names the setting."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from videos import numbered, numbers, read, write_numbered

from faceq.config import Limits
from faceq.sources import read_shards
from faceq.sources.listing import list_shards
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

SAMPLES = 80_000_000
TABLES = ("moov", "trak", "mdia", "minf", "stbl")


def box(kind: str, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind.encode()) + content


def place_of(data: bytes, path: tuple[str, ...]) -> tuple[int, int]:
    """Offset and size of a nested box."""
    start, size = 0, 0
    for kind in path:
        while data[start + 4 : start + 8] != kind.encode():
            start += int.from_bytes(data[start : start + 4], "big")
        size = int.from_bytes(data[start : start + 4], "big")
        start += 8
    return start - 8, size


def replaced(data: bytes, path: tuple[str, ...], new: bytes) -> bytes:
    """Replace one box of the file with one or several other boxes."""
    place, size = place_of(data, path)
    out = bytearray(data[:place] + new + data[place + size :])
    for depth in range(1, len(path)):
        outer, old = place_of(data, path[:depth])
        out[outer : outer + 4] = struct.pack(">I", old + len(new) - size)
    return bytes(out)


def with_samples(data: bytes, count: int) -> bytes:
    data = replaced(data, (*TABLES, "stsz"), box("stsz", struct.pack(">III", 0, 100, count)))
    data = replaced(data, (*TABLES, "stts"), box("stts", struct.pack(">IIII", 0, 1, count, 512)))
    return replaced(data, (*TABLES, "stsc"), box("stsc", struct.pack(">IIIII", 0, 1, 1, count, 1)))


def plain(path: Path) -> bytes:
    return write_numbered(path, 10, bf="0").read_bytes()


def fragmented(path: Path) -> bytes:
    return write_numbered(path, 10, bf="0", muxer={"movflags": "frag_keyframe+empty_moov"}).read_bytes()


def many_samples(path: Path) -> bytes:
    return with_samples(plain(path), SAMPLES)


def many_offsets(path: Path) -> bytes:
    """Few samples, but times for many samples."""
    data = plain(path)
    table = box("ctts", struct.pack(">IIII", 0, 1, SAMPLES, 0))
    start, size = place_of(data, (*TABLES, "stts"))
    return replaced(data, (*TABLES, "stts"), data[start : start + size] + table)


def many_edits(path: Path) -> bytes:
    """A hundred thousand samples that are shown repeatedly."""
    edits = struct.pack(">IiI", 100_000 * 40, 0, 1 << 16) * 800
    data = with_samples(plain(path), 100_000)
    return replaced(data, ("moov", "trak", "edts", "elst"), box("elst", struct.pack(">II", 0, 800) + edits))


def many_in_a_fragment(path: Path) -> bytes:
    run = box("trun", struct.pack(">IIi", 1, SAMPLES, 0x200))
    return replaced(fragmented(path), ("moof", "traf", "trun"), run)


def many_fragments(path: Path) -> bytes:
    """65,535 fragments in the index of each of 500 tracks."""
    data = fragmented(path)
    start, size = place_of(data, ("moov", "trak"))
    data = replaced(data, ("moov", "trak"), data[start : start + size] * 500)
    index = struct.pack(">IIIIIHH", 0, 1, 25, 0, 0, 0, 65535) + struct.pack(">III", 1000, 25, 1 << 31) * 65535
    start, _ = place_of(data, ("moof",))
    return data[:start] + box("sidx", index) + data[start:]


def many_streams(path: Path) -> bytes:
    """FFmpeg decodes a frame of each stream to detect its properties."""
    data = plain(path)
    start, size = place_of(data, ("moov", "trak"))
    track = bytearray(data[start : start + size])
    sizes = track.index(b"avc1") + 28
    track[sizes : sizes + 4] = struct.pack(">HH", 16000, 8000)
    return replaced(data, ("moov", "trak"), bytes(track) * 20)


def packed(path: Path, index: bytes) -> bytes:
    """A file with a compressed index."""
    coded = box("cmvd", struct.pack(">I", len(index)) + zlib.compress(index, 1))
    return replaced(plain(path), ("moov",), box("moov", box("cmov", box("dcom", b"zlib") + coded)))


def many_packed_samples(path: Path) -> bytes:
    data = many_samples(path)
    start, size = place_of(data, ("moov",))
    return packed(path, data[start : start + size])


def much_packed(path: Path) -> bytes:
    return packed(path, box("free", bytes(210 << 20)))


def renamed(path: Path) -> bytes:
    """FFmpeg also finds the index in this box."""
    return many_samples(path).replace(b"moov", b"free")


def first_of_its_kind(path: Path) -> bytes:
    """The large claim comes after a box with a 64-bit size."""
    data = many_samples(path)
    return struct.pack(">I4sQ", 1, b"free", 16 + 100_000) + bytes(100_000) + data


BOMBS = [
    many_samples,
    many_offsets,
    many_edits,
    many_in_a_fragment,
    many_fragments,
    many_streams,
    many_packed_samples,
    much_packed,
    renamed,
    first_of_its_kind,
]


@pytest.mark.parametrize("make", BOMBS)
def test_an_index_beyond_the_limit_is_a_break_that_names_it(tmp_path, make: Callable[[Path], bytes]):
    (tmp_path / "v.mp4").write_bytes(make(tmp_path / "made.mp4"))
    shards = list_shards([str(tmp_path / "v.mp4")], S3Settings())
    (frame,) = read_shards(shards, S3Settings(), limits=Limits(source_memory=200 << 20))
    assert frame.frame_index == BREAK and not frame.refused
    assert "more than limits.source_memory=209715200: " in frame.error


@pytest.mark.parametrize("make", [many_samples, many_edits, many_in_a_fragment])
def test_the_memory_is_never_taken(tmp_path, make):
    (tmp_path / "v.mp4").write_bytes(make(tmp_path / "made.mp4"))
    code = (
        "import resource, sys\nfrom faceq.sources import video\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    list(video.read(open(sys.argv[1], 'rb')))\n"
        "except video.DamagedError as error:\n    assert 'source_memory' in str(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "v.mp4")]
    kilobytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kilobytes < 30_000


def test_an_index_within_the_limit_is_read(tmp_path):
    path = write_numbered(tmp_path / "v.mp4")
    shards = list_shards([str(path)], S3Settings())
    assert numbers(list(read_shards(shards, S3Settings(), limits=Limits(source_memory=50_000)))) == list(
        range(50)
    )


def test_a_real_files_many_edits_are_no_bomb(tmp_path):
    """More than an hour of video, edited from 4,000 cuts, each from one key frame to the next."""
    data = with_samples(plain(tmp_path / "a.mp4"), 100_000)
    edits = b"".join(struct.pack(">IiI", 1000, 512 * number, 1 << 16) for number in range(0, 100_000, 25))
    keys = struct.pack(">II", 0, 4000) + b"".join(struct.pack(">I", key) for key in range(1, 100_001, 25))
    data = replaced(data, (*TABLES, "stss"), box("stss", keys))
    table = box("elst", struct.pack(">II", 0, 4000) + edits)
    (tmp_path / "v.mp4").write_bytes(replaced(data, ("moov", "trak", "edts", "elst"), table))
    *_, end = read(tmp_path / "v.mp4")
    assert "limits.source_memory" not in end.error


def test_sound_that_is_not_coded_is_no_bomb(tmp_path):
    """Three hours of sound. In the index of the file, each sample is an entry. FFmpeg's index has one entry
    per 1024 samples."""
    path = tmp_path / "v.mov"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", 48000)
        video = container.add_stream("mpeg4", 25)
        video.width, video.height = 64, 32
        for index in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(numbered(index))))
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1920), np.int16), "s16", "mono")
            silence.sample_rate, silence.pts = 48000, 1920 * index
            container.mux(sound.encode(silence))
        container.mux([*video.encode(), *sound.encode()])
    hours = 3 * 3600 * 48000
    data = replaced(path.read_bytes(), (*TABLES, "stsz"), box("stsz", struct.pack(">III", 0, 2, hours)))
    path.write_bytes(replaced(data, (*TABLES, "stts"), box("stts", struct.pack(">IIII", 0, 1, hours, 1))))
    assert numbers(read(path)) == list(range(10))
