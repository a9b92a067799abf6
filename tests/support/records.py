"""RecordIO files for tests, written from the published layout alone: dmlc-core's `recordio.h`, MXNet's
`recordio.py`, and insightface's `face2rec2.py`."""

import struct
from collections.abc import Sequence
from pathlib import Path

MAGIC = bytes([0x0A, 0x23, 0xD7, 0xCE])


def framed(data: bytes) -> bytes:
    """A record, split where it has the magic number at a multiple of four bytes."""
    pieces = [b""]
    for at in range(0, len(data), 4):
        word = data[at : at + 4]
        if word == MAGIC:
            pieces.append(b"")
        else:
            pieces[-1] += word
    out = b""
    for number, piece in enumerate(pieces):
        flag = 0 if len(pieces) == 1 else 1 if not number else 3 if number == len(pieces) - 1 else 2
        out += MAGIC + struct.pack("<I", flag << 29 | len(piece)) + piece + bytes(-len(piece) % 4)
    return out


def image_record(number: int, label: float | Sequence[float], image: bytes = b"") -> bytes:
    """The content of an image record, as `mxnet.recordio.pack` makes it."""
    if isinstance(label, int | float):
        return struct.pack("<IfQQ", 0, label, number, 0) + image
    header = struct.pack("<IfQQ", len(label), 0, number, 0)
    return header + struct.pack(f"<{len(label)}f", *label) + image


def identities(images: Sequence[tuple[float | Sequence[float], bytes]]) -> list[tuple[int, bytes]]:
    """Keys and contents of the records of a training set of insightface, in the order in which it writes
    them: the images, sorted by label; record 0, which says where the identities begin; and the identities.
    """
    records = [(number, image_record(number, *image)) for number, image in enumerate(images, 1)]
    labels = [label if isinstance(label, int | float) else label[0] for label, _ in images]
    starts = [1 + at for at in range(len(labels)) if not at or labels[at] != labels[at - 1]]
    first = len(images) + 1
    ranges = list(zip(starts, [*starts[1:], first], strict=True))
    records.append((0, image_record(0, [first, first + len(ranges)])))
    return records + [(first + n, image_record(first + n, ends)) for n, ends in enumerate(ranges)]


def write_records(path: Path, records: Sequence[tuple[int | str, bytes]], index: bool = True) -> Path:
    """Write records, by key and content, and their index."""
    lines = []
    with open(path, "wb") as file:
        for key, content in records:
            lines.append(f"{key}\t{file.tell()}\n")
            file.write(framed(content))
    if index:
        path.with_suffix(".idx").write_text("".join(lines))
    return path


def offsets_of(path: Path) -> dict[str, int]:
    """The index of a file, by key."""
    lines = path.with_suffix(".idx").read_text().splitlines()
    return {key: int(offset) for key, offset in (line.split("\t") for line in lines)}
