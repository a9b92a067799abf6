"""The header of an image record of MXNet: its labels, and whether it holds an image.

Sources: MXNet's `recordio.py` for the layout; insightface's `face2rec2.py` and `arcface_torch/dataset.py` for
the records without an image.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faceq.sources.extra import Extra

_HEADER = struct.Struct("<IfQQ")
"""flag, label, id, and the upper half of the id. If flag is not 0, it is the number of labels that follow as
float32, and `label` does not count."""

HEADER_BYTES = _HEADER.size


@dataclass(frozen=True, slots=True)
class Header:
    """labels: the first ones. count: number of all labels. number: the id that the writer gave the record.
    begin: the byte of the record's content at which the encoded image begins."""

    labels: Sequence[float]
    count: int
    number: int
    begin: int


def parsed(data: bytes, most_labels: int) -> Header | None:
    """The header with at most `most_labels` labels, from the first bytes of a record's content; None if these
    are too few."""
    if len(data) < HEADER_BYTES:
        return None
    flag, label, number, _ = _HEADER.unpack_from(data)
    if not flag:
        return Header((label,), 1, number, HEADER_BYTES)
    held = min(flag, most_labels, (len(data) - HEADER_BYTES) // 4)
    labels = np.frombuffer(data, "<f4", held, HEADER_BYTES).tolist()
    return Header(labels, flag, number, HEADER_BYTES + 4 * flag)


def holds_no_image(header: Header, size: int, number: int | None, first: float | None) -> bool:
    """Whether a record is one of those of insightface that hold no image. Record 0 has two labels: the first
    record of an identity, and the one after the last. The record of an identity has its first image, and the
    one after its last.

    Args:
        header: of the record, with two labels or more if it has them.
        size: bytes of the record's content.
        number: the key of the record; None if it is not a number.
        first: the first label of record 0; None if that is unknown.
    """
    if header.begin != size or size == HEADER_BYTES:
        return False
    if number == 0:
        return True
    if number is not None and first is not None:
        # Labels are float32, which cannot hold all numbers from 2^24 on.
        return bool(np.float32(number) >= np.float32(first))
    labels = header.labels
    return header.count == 2 and all(map(float.is_integer, labels)) and 0 <= labels[0] < labels[1]


def extra_of(header: Header, most: int) -> str | None:
    """The labels as a frame's `extra`: `identity` is the first one, `label` has all if there are several.

    Args:
        header: of the record.
        most: maximum size in bytes; 0: no extra.
    """
    if not most or not header.labels:
        return None
    extra = Extra(most)
    extra.add("identity", _number(header.labels[0]))
    if header.count > len(header.labels):
        extra.leave_out("label")
    elif header.count > 1:
        extra.add("label", [_number(label) for label in header.labels])
    return extra.text()


def _number(label: float) -> float | int:
    return int(label) if label.is_integer() else label
