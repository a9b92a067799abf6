"""Where a large tar can be divided: the members of a tar, found by several tasks at the same time.

A header of a tar does not say where the next but one begins: each member leads to the next only. So every
task searches its stretch of the file for something that looks like a header, and follows the members from
there. `join` accepts only those members to which the members before them lead, from the first one on. A tar
inside the tar, or a stretch that begins inside a header, is therefore never taken for a member.
"""

import tarfile
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np

from faceq.sources.listing import Shard, printable
from faceq.sources.parts import UnsplitError
from faceq.sources.reading import Reading, open_shard
from faceq.sources.samples import key_of, subkey_of
from faceq.sources.tar import compression_in
from faceq.sources.tar_archive import Archive, Member
from faceq.sources.tar_members import is_hidden, kind_of_member
from faceq.storage.filesystem import is_storage_error
from faceq.table.schema import frame_id

SEARCHED = 64 << 20
"""Maximum number of bytes of a stretch that are searched for a header. A stretch without one is inside a
larger member, or the tar is of the old kind without `ustar` in its headers."""

_ARRAYS = ("offsets", "ids", "keys", "subkeys")
"""The arrays of a `Stretch`."""

_CHUNK = 1 << 20
_MAGIC = np.frombuffer(b"ustar", np.uint8)


@dataclass(frozen=True)
class Stretch:
    """The members that begin in the bytes from `begin` to `end`, as far as they were found.

    offsets: (N,) int64, increasing, where they begin. ids: (N,) int64, the `frame_id` of an image, as if its
    name were not repeated; 0 for other members. keys, subkeys: (N,) int64, checksums of the keys and
    subkeys (`sources.samples`); 0 for hidden members. following: where the first member after the stretch
    begins; None if the tar ends or is damaged before. sparse: an image has holes. version: of the file.
    """

    begin: int
    end: int
    offsets: np.ndarray
    ids: np.ndarray
    keys: np.ndarray
    subkeys: np.ndarray
    following: int | None
    sparse: bool
    version: str | None


def scan(shard: Shard, begin: int, end: int, reading: Reading, is_member: bool = False) -> Stretch:
    """Follow the members of a stretch.

    Args:
        shard: a tar.
        begin: a multiple of 512. is_member: a member begins there; otherwise the first header is searched.
        end: a member that begins here or later is not part of the stretch.
        reading: how the tar is read; its `done` does not matter.

    Raises:
        UnsplitError: the tar is compressed.
        Exception: the storage failed, or the content is not a tar.
    """
    offsets, ids, keys, subkeys = (array("q") for _ in _ARRAYS)
    following, sparse = None, False
    with open_shard(shard, reading) as stream:
        if compression_in(stream):
            raise UnsplitError("it is compressed")
        start = begin if is_member or not begin else _first_header(stream, begin, end)
        try:
            for member, archive in _members(stream, start, reading):
                if member.offset >= end:
                    following = member.offset
                    break
                hidden = is_hidden(member)
                is_frame = not hidden and kind_of_member(archive, member, reading) is not None
                offsets.append(member.offset)
                ids.append(frame_id(shard.source, printable(member.name), 0) if is_frame else 0)
                keys.append(0 if hidden else _checksum(key_of(member.name)))
                subkeys.append(0 if hidden else _checksum(subkey_of(member.name)))
                sparse = sparse or (is_frame and member.size > member.stored)
        except Exception as error:
            if is_storage_error(error) or isinstance(error, MemoryError):
                raise
            # Damaged, or not a header at all. The read task that gets there reports it.
    arrays = dict(
        zip(_ARRAYS, (np.array(each, np.int64) for each in (offsets, ids, keys, subkeys)), strict=True)
    )
    return Stretch(
        begin=begin, end=end, following=following, sparse=sparse, version=reading.version, **arrays
    )


def _members(stream: BinaryIO, start: int | None, reading: Reading) -> Iterator[tuple[Member, Archive]]:
    """Each member from byte `start` on, and its archive."""
    if start is None:
        return
    stream.seek(start)
    with Archive(stream, reading) as archive:
        while (member := archive.next_member()) is not None:
            yield member, archive


def _first_header(stream: BinaryIO, begin: int, end: int) -> int | None:
    """The offset of the first block in a stretch that looks like a header, or None."""
    for at in range(begin, min(end, begin + SEARCHED), _CHUNK):
        stream.seek(at)
        data = stream.read(_CHUNK)
        blocks = np.frombuffer(data, np.uint8, len(data) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE)
        blocks = blocks.reshape(-1, tarfile.BLOCKSIZE)
        for number in np.flatnonzero((blocks[:, 257:262] == _MAGIC).all(1)):
            if _is_header(blocks[number].tobytes()):
                return at + int(number) * tarfile.BLOCKSIZE
    return None


def _is_header(block: bytes) -> bool:
    """Whether a block has the checksum of a header."""
    try:
        Member.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def cuts(shard: Shard, stretches: Sequence[Stretch], reading: Reading) -> tuple[list[int], str]:
    """Where the parts of a tar begin, after the first one: at a sample with an image in each stretch. And its
    version.

    Args:
        shard: the tar.
        stretches: all of it, in order, each from `scan`.
        reading: as in `scan`.

    Raises:
        UnsplitError: one task must read the tar, as its rows would otherwise differ.
        Exception: the storage failed.
    """
    used = _joined(shard, stretches, reading)
    version = used[0].version
    if version is None or any(stretch.version != version for stretch in used):
        raise UnsplitError("it was changed while it was indexed")
    if any(stretch.sparse for stretch in used):
        raise UnsplitError("it holds sparse images, whose total size is limited")
    offsets, ids, keys, subkeys = (np.concatenate([getattr(each, name) for each in used]) for name in _ARRAYS)
    images = np.flatnonzero(ids)
    if len(np.unique(ids[images])) < len(images):
        raise UnsplitError("it holds several images of the same name, which are numbered in their order")
    by_key, inside = _begins(keys, subkeys, ids != 0)
    found = []
    for stretch in stretches[1:]:
        for begins in (offsets[by_key], offsets[inside]):
            at = np.searchsorted(begins, stretch.begin)
            if at < len(begins) and begins[at] < stretch.end:
                found.append(int(begins[at]))
                break
    return found, version


def _begins(keys: np.ndarray, subkeys: np.ndarray, is_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the members at which a part may begin, so that no sidecar is separated from its image.

    Names such as `clip.0001.jpg` give a whole tar the same key. Such a sample can be divided between its
    images if none of its sidecars belongs to all of them.

    Args:
        keys, subkeys: (N,) checksums; 0 for hidden members.
        is_image: (N,) bool.

    Returns:
        The first members of samples with an image, and those of images inside a sample. The first image is in
        neither: otherwise the part before it would have no frame.
    """
    if not is_image.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    seen = np.maximum.accumulate(np.where(keys != 0, np.arange(len(keys)), 0))
    keys, subkeys = keys[seen], subkeys[seen]
    opens = np.diff(keys, prepend=keys[:1]) != 0
    runs = np.cumsum(opens | (np.diff(subkeys, prepend=subkeys[:1]) != 0))
    samples = np.cumsum(opens)
    first_of_run = np.searchsorted(runs, np.arange(runs[-1] + 1))
    with_image = np.bincount(runs, is_image) > 0
    of_sample = samples[first_of_run]
    has_image = np.bincount(of_sample, with_image) > 0
    is_whole = np.bincount(of_sample, ~with_image) > 0
    starts_sample = opens[first_of_run]
    later = first_of_run > np.flatnonzero(is_image)[0]
    by_key = first_of_run[later & starts_sample & has_image[of_sample]]
    return by_key, first_of_run[later & ~starts_sample & ~is_whole[of_sample]]


def _checksum(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogateescape"))


def _joined(shard: Shard, stretches: Sequence[Stretch], reading: Reading) -> list[Stretch]:
    """The stretches, only with the members to which the members before them lead."""
    used = [stretches[0]]
    for stretch in stretches[1:]:
        at = used[-1].following
        if at is None:
            break
        if at >= stretch.end:
            continue  # it is inside one member
        used.append(_from(stretch, at) or scan(shard, at, stretch.end, reading, is_member=True))
    return used


def _from(stretch: Stretch, at: int) -> Stretch | None:
    """The stretch from the member at offset `at` on; None if no member was found there."""
    index = int(np.searchsorted(stretch.offsets, at))
    if index == len(stretch.offsets) or stretch.offsets[index] != at:
        return None
    return replace(stretch, **{name: getattr(stretch, name)[index:] for name in _ARRAYS})
