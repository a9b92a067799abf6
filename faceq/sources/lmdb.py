"""Reader for LMDB files with encoded images as values."""

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, bytes_of_name, kind_of, printable
from faceq.sources.lmdb_file import MAGIC, MAGIC_AT, DamagedPageError, Entry, LmdbFile
from faceq.sources.magic import foreign
from faceq.sources.names import Names
from faceq.sources.reading import DamageError, Reading, UnsupportedError, break_of, open_shard, too_long
from faceq.sources.sniff import ENOUGH, kind_of_bytes
from faceq.storage.filesystem import is_remote
from faceq.table.schema import frame_id

_METADATA = re.compile(rb"__\w+__")
"""Keys such as `__keys__` and `__len__`."""

_MOST_TEXT = 64 << 10
"""Maximum size of a value that is checked for text."""

_PICKLE = re.compile(rb"\x80[\x02-\x05]")


def read_lmdb(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of one LMDB file, in the order of their keys."""
    wanted = reading.wanted_members(shard.source)
    try:
        if is_remote(shard.source):
            raise UnsupportedError(
                "LMDB files are read from local disks only, as their pages are scattered: copy the file to a "
                "disk, or convert it to tars"
            )
        with open_shard(shard, reading) as stream:
            start = stream.read(ENOUGH)
            if not start.startswith(MAGIC, MAGIC_AT):
                raise UnsupportedError(_other_format(start))
            file = LmdbFile(stream, stream.seek(0, os.SEEK_END))
            if file.has_duplicates:
                raise UnsupportedError(
                    "this LMDB file keeps several values for a key, which is not supported"
                )
            reader = _Reader(shard, reading, file)
            if wanted is not None:
                yield from reader.jump(wanted)
                return
            for entry in file.follow():
                yield from reader.frames(entry)
            reader.check()
    except Exception as error:
        yield break_of(shard, error, "in its pages", reading)


def _other_format(start: bytes) -> str:
    if not start:
        return "this file is empty"
    what = foreign(start, "an LMDB file")
    return f"this is {what or 'not an LMDB file of version 1 from a machine with 64 bits'}"


@dataclass
class _Reader:
    """Turns the entries of a file into frames."""

    shard: Shard
    reading: Reading
    file: LmdbFile

    def __post_init__(self) -> None:
        self._names = Names(self.shard.source)
        self._entries = 0

    def frames(self, entry: Entry) -> Iterator[Frame]:
        """The frame of an entry; none if its value is not meant to be an image."""
        self._entries += 1
        source = self.shard.source
        if entry.is_database:
            self.reading.findings.notes.append(
                f"{source}: its database {printable(entry.key)} is not read: only the main one is"
            )
            return
        name = self._names.unique(self._name(entry.key))
        if frame_id(source, name, 0) in self.reading.done:
            yield Frame(source, name, 0, None, done=True)
            return
        if entry.size > self.reading.limits.frame_bytes:
            yield Frame(source, name, 0, None, error=too_long(entry.size, self.reading))
            return
        try:
            value = self.file.value(entry)
        except DamagedPageError as error:
            yield Frame(source, name, 0, None, error=f"broken: {error}: copy the file again")
            return
        if kind_of(name) != "picture" and _is_other(entry.key, value):
            self.reading.findings.pass_over(name)
        elif _PICKLE.match(value):
            what = "a Python pickle, which faceq never loads: store the encoded image itself as the value"
            yield Frame(source, name, 0, None, error=what)
        else:
            yield Frame(source, name, 0, value)

    def jump(self, names: Collection[str]) -> Iterator[Frame]:
        """Only the frames of these names."""
        for name in sorted(names):
            if self.file.integer_keys and not name.isdecimal():
                continue
            entry = self.file.find(self._key(name))
            if entry is not None:
                yield from self.frames(entry)

    def check(self) -> None:
        """Raises DamageError if some entries could not be read."""
        faults = self.file.faults or ["it was changed while it was read, or a page is damaged"]
        if self.file.faults or self._entries != self.file.entries:
            more = f" (and {len(faults) - 1} more pages)" if len(faults) > 1 else ""
            raise DamageError(
                f"broken: {faults[0]}{more}: it has {self._entries} of {self.file.entries} entries: copy it "
                "again"
            )

    def _name(self, key: bytes) -> str:
        return str(int.from_bytes(key, "little")) if self.file.integer_keys else printable(key)

    def _key(self, name: str) -> bytes:
        if self.file.integer_keys:
            return int(name).to_bytes(8, "little")
        return bytes_of_name(name)


def _is_other(key: bytes, value: bytes) -> bool:
    """Whether an entry is not meant to be an image: metadata of a writer, or text such as a label."""
    if kind_of_bytes(value[:ENOUGH]) == "picture":
        return False
    if _METADATA.fullmatch(key):
        return True
    if not value or len(value) > _MOST_TEXT or b"\0" in value:
        return False
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
