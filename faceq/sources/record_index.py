"""The index of a RecordIO file: a text file beside it with the key of each record and where it begins.

Source of the layout: MXNet's `recordio.py`. Each line has a key, a tab, and a byte of the `.rec`.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
from pyarrow import csv

from faceq.sources.listing import Shard, index_path, printable
from faceq.sources.local import LocalFile
from faceq.sources.names import Names
from faceq.sources.reading import Reading, UnsupportedError, tag_of, version_of
from faceq.storage.faults import detailed_error, fault_of
from faceq.storage.filesystem import filesystem, is_remote, open_remote

_CHUNK = 16 << 20
_ENTRY_BYTES = 16
"""Memory that an entry takes in the arrays of an index; about three times as much while it is loaded."""

_NAMED_ENTRY_BYTES = 120
"""Memory that an entry takes whose key is no number, roughly."""

_NUMBER = re.compile("-?[0-9]{1,18}")
_PLACE = re.compile(rb"[0-9]{1,18}")

_READ = csv.ReadOptions(use_threads=False, column_names=["key", "offset"])
_LINES = csv.ParseOptions(delimiter="\t", quote_char=False, escape_char=False)
_NUMBERS = csv.ConvertOptions(column_types={"key": pa.int64(), "offset": pa.int64()}, check_utf8=False)


@dataclass(frozen=True)
class Index:
    """The entries of an index, in the order of the records in the `.rec`.

    path: of the index. version: see `Finished`. offsets: (N,) int64, where the records begin, not decreasing.
    keys: (N,) int64; N texts if they are not all numbers. lines: (N,) int64, the bytes of the index at which
    the entries begin; None if it has other lines, is in another order, or nobody asked. repeats: for entries
    whose key occurred before, how often it has occurred now. bad_lines: number of lines that are no entries.
    """

    path: str
    version: str | None
    offsets: np.ndarray
    keys: np.ndarray | list[str]
    lines: np.ndarray | None
    repeats: dict[int, int]
    bad_lines: int

    def name(self, entry: int) -> str:
        """The key of an entry as a text; a repeated key gets `#2`, `#3`, …."""
        count = self.repeats.get(entry)
        return f"{self.keys[entry]}" if count is None else f"{self.keys[entry]}#{count}"

    def number(self, entry: int) -> int | None:
        """The key of an entry; None if it is not a number."""
        return None if isinstance(self.keys, list) else int(self.keys[entry])

    def entry_of(self, key: int) -> int | None:
        """The first entry of a key."""
        if isinstance(self.keys, list):
            return None
        found = np.flatnonzero(self.keys == key)
        return int(found[0]) if len(found) else None

    def entries_of(self, names: Collection[str]) -> list[int]:
        """The entries that have these names, in their order."""
        if isinstance(self.keys, list):
            some: Any = range(len(self.keys))
        else:
            numbers = [name.split("#")[0] for name in names]
            wanted = [int(number) for number in numbers if _NUMBER.fullmatch(number)]
            some = np.flatnonzero(np.isin(self.keys, np.array(wanted, np.int64)))
        return [int(entry) for entry in some if self.name(entry) in names]


def has_index(shard: Shard, reading: Reading) -> bool:
    """Whether a RecordIO file has an index.

    Raises:
        Exception: the storage failed.
    """
    stream = _opened(shard, reading)
    if stream is not None:
        stream.close()
    return stream is not None


def load_index(
    shard: Shard, reading: Reading, begin: int = 0, end: int | None = None, with_lines: bool = False
) -> Index | None:
    """The index of a RecordIO file; None if it has none.

    Args:
        shard: the RecordIO file.
        reading: how it is read.
        begin, end: the bytes of the index that are read; both begin a line.
        with_lines: whether `lines` is wanted.

    Raises:
        UnsupportedError: the index has no entry.
        ValueError: it is too large.
        Exception: the storage failed.
    """
    stream = _opened(shard, reading)
    if stream is None:
        return None
    parser = _Parser(reading.limits.source_memory, with_lines)
    with stream:
        version = _version(stream, shard)
        stream.seek(begin)
        for block in _blocks(stream, None if end is None else end - begin):
            parser.add(block)
    path = index_path(shard.source)
    if not parser.entries:
        raise UnsupportedError(
            f"its index {path} has no line with a key and a byte, so it is damaged or something else: make "
            "it again with MXNet's rec2idx.py, or move it away to read the file without it"
        )
    return parser.index(path, version, shard.source)


def _opened(shard: Shard, reading: Reading) -> BinaryIO | None:
    path = index_path(shard.path)
    try:
        if not is_remote(shard.source):
            return LocalFile(path)
        files = filesystem(shard.source, reading.s3)
        return cast(BinaryIO, open_remote(shard.source, path, reading.s3, reading.limits.temporary_bytes))
    except OSError as error:
        said = detailed_error(error, files, path) if is_remote(shard.source) else error
        fault = fault_of(said)
        if fault is not None and fault.kind == "missing":
            return None
        raise said from said.__cause__


def _version(stream: Any, shard: Shard) -> str | None:
    return tag_of(stream.details) if is_remote(shard.source) else version_of(os.fstat(stream.fileno()))


def _blocks(stream: BinaryIO, size: int | None) -> Iterator[bytes]:
    """The content of an index in pieces that end with a line."""
    rest, left = b"", size
    while data := stream.read(_CHUNK if left is None else min(_CHUNK, left)):
        left = None if left is None else left - len(data)
        cut = data.rfind(b"\n") + 1
        if not cut and len(rest) > _CHUNK:
            raise ValueError(f"its index has a line of more than {_CHUNK >> 20} MiB")
        if cut:
            yield rest + data[:cut]
            rest = data[cut:]
        else:
            rest += data
    if rest:
        yield rest


@dataclass
class _Parser:
    """Parses an index block by block.

    entries: number of entries so far.
    """

    memory: int
    with_lines: bool
    entries: int = 0
    _bytes: int = 0
    _used: int = 0
    _bad: int = 0
    _keys: list[np.ndarray | list[str]] = field(default_factory=list)
    _offsets: list[np.ndarray] = field(default_factory=list)
    _lines: list[np.ndarray] = field(default_factory=list)

    def add(self, block: bytes) -> None:
        keys, offsets = _parsed(block) or self._parsed_by_line(block)
        if self.with_lines:
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
            starts = np.concatenate([[0], ends[ends < len(block)]]).astype(np.int64)
            self.with_lines = len(starts) == len(offsets)
            self._lines.append(starts + self._bytes)
        self._keys.append(keys)
        self._offsets.append(offsets)
        self._bytes += len(block)
        self.entries += len(offsets)
        self._used += len(offsets) * (_NAMED_ENTRY_BYTES if isinstance(keys, list) else _ENTRY_BYTES)
        if self._used > self.memory:
            raise ValueError(
                f"its index needs more memory than limits.source_memory={self.memory} bytes: raise the limit"
            )

    def _parsed_by_line(self, block: bytes) -> tuple[np.ndarray | list[str], np.ndarray]:
        keys: list[str] = []
        offsets: list[int] = []
        for line in block.splitlines():
            key, _, offset = line.partition(b"\t")
            if key and _PLACE.fullmatch(offset.strip()):
                keys.append(printable(key))
                offsets.append(int(offset))
            else:
                self._bad += 1
        places = np.array(offsets, np.int64)
        if all(map(_NUMBER.fullmatch, keys)):
            return np.array([int(key) for key in keys], np.int64), places
        return keys, places

    def index(self, path: str, version: str | None, source: str) -> Index:
        offsets = _joined(self._offsets)
        texts = any(isinstance(some, list) for some in self._keys)
        if texts:
            keys = np.array([str(key) for some in self._keys for key in some], object)
        else:
            keys = _joined(self._keys)
        lines = _joined(self._lines) if self.with_lines else None
        if (np.diff(offsets) <= 0).any():
            order = np.argsort(offsets, kind="stable")
            offsets, keys, lines = offsets[order], keys[order], None
            # The same entry twice is one.
            new = np.concatenate([[True], (np.diff(offsets) != 0) | (keys[1:] != keys[:-1])])
            offsets, keys = offsets[new], keys[new]
        named: np.ndarray | list[str] = keys
        repeats = {}
        if texts:
            names = Names(source)
            named = [names.unique(key) for key in keys]
        elif has_repeats(keys):
            repeats = _repeats(keys)
        return Index(path, version, offsets, named, lines, repeats, self._bad)


def _joined(parts: list[Any]) -> np.ndarray:
    """The arrays as one. Empties the list, to save memory."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def _parsed(block: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Keys and offsets of the lines of a block; None if a line is something else than two numbers."""
    try:
        table = csv.read_csv(pa.BufferReader(block), _READ, _LINES, _NUMBERS)
    except pa.ArrowInvalid:
        return None
    if table["key"].null_count or table["offset"].null_count:
        return None
    offsets = table["offset"].to_numpy()
    return None if (offsets < 0).any() else (table["key"].to_numpy(), offsets)


def has_repeats(numbers: np.ndarray) -> bool:
    """Whether a number occurs twice. `np.unique` takes ten times as long, and more memory."""
    ordered = np.sort(numbers)
    return bool((ordered[1:] == ordered[:-1]).any())


def _repeats(keys: np.ndarray) -> dict[int, int]:
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(np.diff(keys[order]) == 0) + 1
    counts: Counter[int] = Counter()
    found: dict[int, int] = {}
    for entry in order[again]:
        counts[keys[entry]] += 1
        found[int(entry)] = counts[keys[entry]] + 1
    return found
