"""MPEG transport streams: checks that FFmpeg does not make."""

import numpy as np

from faceq.sources.video.file import WatchedFile

_SIZES = (188, 192, 204)
"""Bytes of a packet: plain, with a timestamp in front (cameras, Blu-ray), or with check bytes at the end."""

_BLOCK = 5000
"""Number of packets that are checked in one step."""

_MANY = 25
"""This many frames of another video stream after the last frame of the chosen stream are too many for
interleaving: they belong to an appended recording."""


def packet_size(file: WatchedFile) -> int | None:
    """The packet size in bytes, from the positions of the sync bytes; None if no size fits."""
    head = file.peek(0, 8 * max(_SIZES))
    for size in _SIZES:
        signs = head[_offset(size) :: size]
        if signs and not signs.strip(b"\x47"):
            return size
    return None


def is_scrambled(file: WatchedFile) -> bool:
    """Whether most packets at the beginning are marked as scrambled."""
    size = packet_size(file)
    if size is None:
        return False
    packets = _packets(file.peek(0, size * _BLOCK), size)
    return bool(len(packets)) and float((packets[:, 3] >> 6 != 0).mean()) > 1 / 2


def other_video(file: WatchedFile, place: int) -> int | None:
    """The offset at which another recording's video begins after `place`, the last frame of the chosen
    stream; None if there is none."""
    size = packet_size(file)
    if size is None:
        return None
    first, frames = None, 0
    at = place // size * size + size
    while block := file.peek(at, size * _BLOCK):
        begins = np.flatnonzero(_begins_video(_packets(block, size)))
        if len(begins):
            first = at + int(begins[0]) * size if first is None else first
            frames += len(begins)
        if frames >= _MANY:
            return first
        at += size * _BLOCK
    return None


def _offset(size: int) -> int:
    return 4 if size == 192 else 0


def _packets(data: bytes, size: int) -> np.ndarray:
    """(N, 188) uint8: the complete packets."""
    whole = np.frombuffer(data, np.uint8, len(data) // size * size).reshape(-1, size)
    return whole[:, _offset(size) : _offset(size) + 188]


def _begins_video(packets: np.ndarray) -> np.ndarray:
    """(N,) bool: whether a coded video frame begins in the packet."""
    adapted = packets[:, 3] >> 5 & 1
    start = 4 + adapted * (1 + packets[:, 4].astype(np.int64))
    inside = np.minimum(start, 184)[:, None] + np.arange(4)
    head = np.take_along_axis(packets, inside, 1)
    is_pes = (head[:, :3] == (0, 0, 1)).all(1) & (head[:, 3] >> 4 == 0xE)
    return (packets[:, 0] == 0x47) & (packets[:, 1] >> 6 & 1 == 1) & is_pes & (start <= 184)
