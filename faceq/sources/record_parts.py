"""Where a large RecordIO file can be divided.

Its index says where the records begin. Without an index, several tasks read a stretch of the file each:
unlike the headers of a tar, the beginning of a record is found wherever a task begins to read.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from faceq.sources.listing import Shard
from faceq.sources.parts import UnsplitError, record_parts
from faceq.sources.reading import Reading, open_shard
from faceq.sources.record import first_identity, records_of
from faceq.sources.record_file import MAGIC
from faceq.sources.record_header import holds_no_image, parsed
from faceq.sources.record_index import Index, has_index, has_repeats, load_index
from faceq.storage.filesystem import filesystem
from faceq.table.schema import wrap_int64


@dataclass(frozen=True)
class Stretch:
    """The records that begin in a stretch of a file without an index.

    first: where the first one begins; None if none does. following: where the record after the last one
    begins. numbers: (N,) int64, the ids of those that are frames, wrapped. version: of the file. is_damaged:
    there are bytes that belong to no record.
    """

    first: int | None
    following: int
    numbers: np.ndarray
    version: str | None
    is_damaged: bool


def scan(shard: Shard, begin: int, end: int, reading: Reading) -> Stretch | None:
    """The records that begin in the bytes from `begin` to `end`; None if the file has an index.

    Raises:
        Exception: the storage failed, or the content is not a RecordIO file.
    """
    if has_index(shard, reading):
        return None
    numbers, is_damaged = array("q"), False
    with open_shard(shard, reading) as stream:
        file = records_of(stream, reading)
        first = file.next_record(begin, end) if begin else 0
        following = end if first is None else first
        if first is not None:
            for record in file.follow(first, end):
                header = parsed(record.data, 2)
                is_damaged = is_damaged or record.fault is not None
                if header and not holds_no_image(header, record.size, header.number, None):
                    numbers.append(wrap_int64(header.number))
                following = record.end
    return Stretch(first, following, np.array(numbers, np.int64), reading.version, is_damaged)


def divide(shard: Shard, stretches: Sequence[Stretch | None], size: int, reading: Reading) -> list[Shard]:
    """The parts of a RecordIO file.

    Args:
        shard: the file.
        stretches: all of it, in order, each from `scan`.
        size: of a part, in bytes.
        reading: as in `scan`.

    Raises:
        UnsplitError: one task must read the file, as its rows would otherwise differ.
        Exception: the storage failed.
    """
    index = load_index(shard, reading, with_lines=True)
    if index is not None:
        return _by_index(shard, index, size, reading)
    found = [stretch for stretch in stretches if stretch is not None]
    version = found[0].version if found else None
    if version is None or len(found) < len(stretches) or any(each.version != version for each in found):
        raise UnsplitError("it was changed while it was indexed")
    following = 0
    for stretch in found:
        if stretch.is_damaged or stretch.first not in (None, following):
            raise UnsplitError("it is damaged")
        following = following if stretch.first is None else stretch.following
    numbers = np.concatenate([stretch.numbers for stretch in found])
    if has_repeats(numbers):
        raise UnsplitError("it has no index, and several of its images have the same id")
    begins = [stretch.first for stretch in found[1:] if stretch.first is not None]
    return record_parts(shard, begins, version)


def _by_index(shard: Shard, index: Index, size: int, reading: Reading) -> list[Shard]:
    if index.lines is None:
        raise UnsplitError("its index is not in the order of the file, or has lines that are no entries")
    if index.repeats or isinstance(index.keys, list):
        raise UnsplitError("its index has several entries of the same key, or keys that are not numbers")
    with open_shard(shard, reading) as stream:
        file = records_of(stream, reading)
        first = first_identity(file, index)
    version = reading.version
    if version is None or index.version is None:
        raise UnsplitError("the storage does not say which version of the file this is")
    wanted = np.searchsorted(index.offsets, np.arange(size, file.size, size))
    entries = np.unique(wanted[wanted < len(index.offsets)])
    begins = index.offsets[entries]
    entries = entries[(begins > 0) & (begins < file.size)]
    entries = entries[_are_records(shard, index.offsets[entries].tolist(), reading)]
    begins, lines = index.offsets[entries].tolist(), index.lines[entries].tolist()
    return record_parts(shard, begins, version, lines, index.version, first)


def _are_records(shard: Shard, begins: list[int], reading: Reading) -> list[bool]:
    """Whether a record begins at these bytes."""
    files = filesystem(shard.source, reading.s3)
    ends = [begin + len(MAGIC) for begin in begins]
    found = files.cat_ranges([shard.path] * len(begins), begins, ends, on_error="raise")
    return [bytes(each) == MAGIC for each in found]
