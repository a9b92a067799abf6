"""Reader for image record files of MXNet (`.rec`, RecordIO), such as insightface's training sets."""

import math
import re
from collections.abc import Collection, Iterator
from typing import BinaryIO

from faceq.sources.frame import Frame
from faceq.sources.listing import Shard
from faceq.sources.local import ChangedError
from faceq.sources.magic import foreign
from faceq.sources.names import Names
from faceq.sources.parts import RecordPart
from faceq.sources.reading import DamageError, Reading, UnsupportedError, break_of, open_shard, too_long
from faceq.sources.record_file import KEPT, MAGIC, Record, Records
from faceq.sources.record_header import Header, extra_of, holds_no_image, parsed
from faceq.sources.record_index import Index, has_index, load_index
from faceq.sources.sniff import ENOUGH
from faceq.table.schema import frame_id

AT = "@"
"""Begins the name of a record that the index does not list; the byte at which the record begins follows."""

_UNLISTED = re.compile(AT + "[0-9]{1,18}")

_JUMP_AHEAD = 64 << 10
"""Number of extra bytes to request from S3 when single records are read."""


def read_record_file(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of one RecordIO file, or of a part of it, in its order."""
    wanted = reading.wanted_members(shard.source)
    at = 0
    try:
        is_jumping = wanted is not None and has_index(shard, reading)
        with open_shard(shard, reading, _JUMP_AHEAD if is_jumping else None) as stream:
            file = records_of(stream, reading)
            index = _index_of(shard, reading)
            reader = _Reader(shard, reading, index)
            if wanted is not None and index is not None:
                yield from reader.jump(file, index, wanted)
                return
            if isinstance(shard, RecordPart):
                reader.first = shard.first
            elif index is not None:
                reader.first = first_identity(file, index)
            begin, end = (shard.begin, shard.end) if isinstance(shard, RecordPart) else (0, None)
            for record in file.follow(begin, end):
                at = record.offset
                yield from reader.frames(record)
            reader.check_rest(file.size)
            reader.note_unlisted()
            if reader.damage:
                raise DamageError("; ".join(reader.damage))
    except Exception as error:
        yield break_of(shard, error, f"at byte {at}", reading)


def records_of(stream: BinaryIO, reading: Reading) -> Records:
    """The records of a file that is at its start. Raises UnsupportedError if it is not a RecordIO file."""
    start = stream.read(ENOUGH)
    if not start:
        raise UnsupportedError("this file is empty")
    if not start.startswith(MAGIC):
        what = foreign(start, "a RecordIO file")
        raise UnsupportedError(
            f"this is {what or 'not a RecordIO file: its first bytes are not the magic number of a record'}"
        )
    return Records(stream, reading.limits.frame_bytes + KEPT)


def first_identity(file: Records, index: Index) -> float | None:
    """The first label of insightface's record 0; None if there is no such record."""
    entry = index.entry_of(0)
    if entry is None or index.offsets[entry] >= file.size:
        return None
    record = file.at(int(index.offsets[entry]))
    header = parsed(record.data, 2)
    if header is None or record.fault or not holds_no_image(header, record.size, 0, None):
        return None
    label = header.labels[0]
    return label if math.isfinite(label) and label >= 1 else None


class _Reader:
    """Turns the records of a file into frames.

    first: the first label of insightface's record 0; None if unknown. damage: what the row for the damage of
    the file says; empty if there is none.
    """

    def __init__(self, shard: Shard, reading: Reading, index: Index | None):
        self.first: float | None = None
        self.damage: list[str] = []
        self._shard = shard
        self._reading = reading
        self._index = index
        self._names = Names(shard.source)
        self._entry = 0
        self._unlisted = 0

    def frames(self, record: Record) -> Iterator[Frame]:
        """The frames of a record, and of entries of the index that point into it. Without an index, a record
        has the id that its writer gave it, which is also what writers use as the key."""
        if record.is_rest:
            self._note_damage(record)
            return
        header = self._header(record)
        if self._index is None:
            if record.fault is not None:
                self._note_damage(record)
            elif header is None or not holds_no_image(header, record.size, header.number, None):
                name = self._names.unique(f"{header.number if header else AT + str(record.offset)}")
                yield self._frame(record, header, name)
            return
        listed = False
        while self._entry < len(self._index.offsets) and self._index.offsets[self._entry] < record.end:
            if self._index.offsets[self._entry] == record.offset:
                listed = True
                yield from self._listed(record, header, self._index, self._entry)
            else:
                yield self._misplaced(self._index, self._entry)
            self._entry += 1
        if listed:
            return
        if record.fault is not None:
            self._note_damage(record)
        elif header is None or not holds_no_image(header, record.size, None, None):
            self._unlisted += 1
            yield self._frame(record, header, f"{AT}{record.offset}")

    def jump(self, file: Records, index: Index, names: Collection[str]) -> Iterator[Frame]:
        """Only the frames of these names."""
        entries = [(int(index.offsets[entry]), index.name(entry)) for entry in index.entries_of(names)]
        unlisted = [(int(name[len(AT) :]), name) for name in names if _UNLISTED.fullmatch(name)]
        for offset, name in sorted(entries + unlisted):
            record = file.at(offset)
            yield self._frame(record, self._header(record), name)

    def _header(self, record: Record) -> Header | None:
        return parsed(record.data, max(2, self._reading.extra_bytes))

    def check_rest(self, size: int) -> None:
        """Note entries of the index that are left after the last record of a file of `size` bytes."""
        left = 0 if self._index is None else len(self._index.offsets) - self._entry
        if left:
            self.damage.append(
                f"its index lists {_counted(left, 'more record')}: the file, of {size} bytes, is cut off, or "
                "the index is that of another file: copy both again"
            )

    def note_unlisted(self) -> None:
        """Report what was read although the index does not list it, and bad lines of the index."""
        if self._index is None:
            return
        if self._unlisted:
            self._note(
                f"its index does not list {_counted(self._unlisted, 'image')}, named by the byte of the "
                f"record, such as {AT}1234"
            )
        if self._index.bad_lines:
            bad = _counted(self._index.bad_lines, "line")
            self._note(f"skipped {bad} of its index: not a key and a byte")

    def _note(self, text: str) -> None:
        self._reading.findings.notes.append(f"{self._shard.source}: {text}")

    def _note_damage(self, record: Record) -> None:
        if not self.damage:
            rest = "the rest is not read" if record.is_rest else f"read again from byte {record.end}"
            self.damage.append(f"broken at byte {record.offset}: {record.fault}: {rest}")
        elif len(self.damage) == 1 or record.is_rest:
            self.damage[1:] = [f"more is broken, the last at byte {record.offset}"]

    def _listed(self, record: Record, header: Header | None, index: Index, entry: int) -> Iterator[Frame]:
        """The frame of a record that the index lists."""
        if header is None or not holds_no_image(header, record.size, index.number(entry), self.first):
            yield self._frame(record, header, index.name(entry))

    def _misplaced(self, index: Index, entry: int) -> Frame:
        name = index.name(entry)
        if frame_id(self._shard.source, name, 0) in self._reading.done:
            return Frame(self._shard.source, name, 0, None, done=True)
        error = (
            f"its index places it at byte {index.offsets[entry]}, where no record begins: make the index "
            "again with MXNet's rec2idx.py"
        )
        return Frame(self._shard.source, name, 0, None, error=error)

    def _frame(self, record: Record, header: Header | None, name: str) -> Frame:
        if frame_id(self._shard.source, name, 0) in self._reading.done:
            return Frame(self._shard.source, name, 0, None, done=True)
        extra = extra_of(header, self._reading.extra_bytes) if header else None
        error = self._fault(record, header)
        image = record.data[header.begin :] if header and error is None else None
        return Frame(self._shard.source, name, 0, image, error=error, extra=extra)

    def _fault(self, record: Record, header: Header | None) -> str | None:
        """Why the image of a record cannot be read."""
        if record.fault is not None:
            return f"broken at byte {record.offset}: {record.fault}"
        if header is None:
            return f"a record of {record.size} bytes, which is less than the header of an image record"
        size = record.size - header.begin
        if size < 0:
            return f"a record of {record.size} bytes that claims {header.count} labels: its header is damaged"
        if len(record.data) < record.size or size > self._reading.limits.frame_bytes:
            return too_long(size, self._reading)
        return None if size else "the record holds no image"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _index_of(shard: Shard, reading: Reading) -> Index | None:
    if not isinstance(shard, RecordPart):
        return load_index(shard, reading)
    if shard.index is None:
        return None
    index = load_index(shard, reading, *shard.index)
    if index is None or index.version != shard.index_version:
        raise ChangedError
    return index
