"""Stream tar archives with tarfile, adding limits and support for dialects that tarfile misreads."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from faceq.sources.reading import Reading

_GNU = b"ustar  \0"
_DIRECTORIES = (tarfile.DIRTYPE, b"D")
_CONTINUED = b"M"
_NO_FILES = (b"V", b"N")
_LONG_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
_LINKS = (tarfile.LNKTYPE, tarfile.SYMTYPE)
_DEVICES = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
_USED = (b"path", b"linkpath", b"size")
_SPARSE = b"GNU.sparse."

HEADERS_IN_MEMORY = 1024
"""Number of headers of the maximum size, such as long names, that fit into `limits.source_memory`. Parsing a
header takes up to 40 times its size, and its name is stored in each row of a batch."""

MAX_PADDING = 4 << 20
"""Maximum number of zero bytes after an archive. tar pads to 10 KiB, or to a few MiB with a large blocking
factor (-b). More zeros mean an unfinished copy, which would otherwise look like a shorter archive."""

_PIECE = 64 << 10


class Archive(tarfile.TarFile):
    """A tar archive that is read member by member. Only the current member is in memory.

    Members have the names under which GNU tar extracts them. Archives that were concatenated with `cat` are
    read to their end. Reading to the end also verifies the checksums of a compressed archive.

    fault: why there are no further members, if the archive did not end properly.

    Args:
        stream: the archive; it is only read, and only sought forward.
        reading: its limits apply to headers.

    Raises:
        tarfile.ReadError: the first bytes are not a member.
    """

    def __init__(self, stream: BinaryIO, reading: Reading):
        self.fault: str | None = None
        self.source_memory = reading.limits.source_memory
        super().__init__(fileobj=stream, tarinfo=Member, encoding="utf-8")

    def next_member(self) -> "Member | None":
        """The next file, link or device, or None; directories and labels are skipped."""
        while True:
            info = cast("Member | None", self.next())
            # tarfile keeps a list of all members, which would be a memory leak on large shards.
            self.members.clear()  # type: ignore[attr-defined]
            if info is None or info.type not in (*_DIRECTORIES, *_NO_FILES):
                return info

    def check_header(self, size: int) -> None:
        """Raises tarfile.HeaderError if a header is too large.

        tarfile loads a header as a whole, and compression can shrink a huge header to almost nothing.
        """
        if size * HEADERS_IN_MEMORY > self.source_memory:
            raise tarfile.HeaderError(
                f"a header of {size} bytes is larger than 1/{HEADERS_IN_MEMORY} of "
                f"limits.source_memory={self.source_memory}"
            )


class Member(tarfile.TarInfo):
    """One member. `size` is the size of the file, `stored` the number of bytes that the archive contains.

    stretches: (offset, bytes) of each stored stretch of a sparse file; between them are zeros. None for other
    files.
    """

    stored = 0
    stretches: list[tuple[int, int]] | None = None
    _start = b""

    @property
    def no_file(self) -> str | None:
        """What the member is, if it is not a file with content."""
        if self.type in _LINKS:
            return "a link"
        if self.type in _DEVICES:
            return "a device or pipe"
        return "the rest of a file from the previous volume (tar -M)" if self.type == _CONTINUED else None

    def start(self, archive: Archive, most: int) -> bytes:
        """The first bytes of the file, at most `most`; empty for a sparse file. Call it before `read`."""
        if self.stretches is None and not self._start:
            self._start = _exactly(archive, min(most, self.size))
        return self._start

    def read(self, archive: Archive) -> bytes:
        """The file's bytes. Call this only once, and before the next `next_member`.

        Raises:
            tarfile.ReadError: the archive ends early.
        """
        if self.stretches is None:
            return self._start + _exactly(archive, self.size - len(self._start))
        whole = bytearray(self.size)
        for offset, piece in self.pieces(archive):
            whole[offset : offset + len(piece)] = piece
        return bytes(whole)

    def keep(self, content: bytes) -> None:
        """Let `pieces` give what `read` has returned."""
        self._start = content

    def pieces(self, archive: Archive) -> Iterator[tuple[int, bytes]]:
        """The file's bytes, like `read`, in pieces of at most _PIECE bytes with their offsets. If the archive
        ends early, the last piece is what is there. Zeros at the end of a sparse file are a byte."""
        if self.stretches is None or len(self._start) == self.size:
            yield 0, self._start
            yield from _in_pieces(archive, len(self._start), self.size - len(self._start))
            return
        end, left = 0, self.stored
        for offset, count in self.stretches:
            left -= count
            if count < 0 or offset < end or offset + count > self.size or left < 0:
                raise tarfile.ReadError("a sparse map contradicts the size of its file")
            end = offset + count
            yield from _in_pieces(archive, offset, count)
        if end < self.size:
            yield self.size - 1, b"\0"

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "Member":
        """Read the next header from an archive.

        tarfile stops silently at a header that it cannot read and at the first end-of-archive marker. This
        method records the unreadable header in `archive.fault`, and continues after the marker.
        """
        archive = cast(Archive, tarfile_)
        stream = cast(BinaryIO, archive.fileobj)
        start, ended = stream.tell(), False
        while (block := stream.read(tarfile.BLOCKSIZE)) and not block.strip(b"\0"):
            ended = True
            if stream.tell() - start > MAX_PADDING:
                archive.fault = (
                    f"more than {MAX_PADDING >> 20} MiB of zero bytes instead of a member, probably an "
                    "unfinished copy: copy the file again"
                )
                raise tarfile.InvalidHeaderError(archive.fault)  # type: ignore[attr-defined]
        if not block and ended:
            raise tarfile.EOFHeaderError("end of file")  # type: ignore[attr-defined]
        try:
            member = cls.frombuf(block, archive.encoding or "", archive.errors or "")
            member.offset = stream.tell() - tarfile.BLOCKSIZE
            return member._proc_member(archive)
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            archive.fault = "no end-of-archive marker: the file is cut off, or its writer was stopped"
            raise
        except tarfile.HeaderError as error:
            archive.fault = "no tar follows the end-of-archive marker" if ended else str(error)
            raise

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "Member":
        """Parse a header of 512 bytes."""
        member = super().frombuf(buf, encoding, errors)
        if member.size < 0:
            raise tarfile.InvalidHeaderError("a negative size")  # type: ignore[attr-defined]
        if buf[257:265] == _GNU or not buf.startswith(b"ustar", 257):
            # Where ustar has the prefix of a long name, GNU tar's own layout has other fields.
            name = bytes(buf[:100]).split(b"\0", 1)[0].decode(encoding, errors)
            member.name = name.rstrip("/") if member.isdir() else name
        member.stored = member.size
        return member

    def _proc_member(self, archive: Archive) -> "Member":
        if self.type in _LONG_HEADERS:
            archive.check_header(self.size)
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_sparse(self, archive: Archive) -> "Member":
        """Read a sparse map in GNU tar's old layout. It starts in the header and continues in extra
        blocks."""
        stream = cast(BinaryIO, archive.fileobj)
        found, more, self.size = self._sparse_structs  # type: ignore[attr-defined]
        size = 0
        while more:
            size += tarfile.BLOCKSIZE
            archive.check_header(size)
            block = stream.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.TruncatedHeaderError("truncated header")  # type: ignore[attr-defined]
            found += [
                (tarfile.nti(block[i : i + 12]), tarfile.nti(block[i + 12 : i + 24]))  # type: ignore[attr-defined]
                for i in range(0, 21 * 24, 24)
                if block[i]
            ]
            more = block[504]
        self.stretches = [(offset, count) for offset, count in found if count]
        self.offset_data = stream.tell()
        archive.offset = self.offset_data + self._block(self.stored)  # type: ignore[attr-defined]
        return self

    def _proc_pax(self, archive: Archive) -> "Member":
        """Read an extended (pax) header, but only the records that determine a member's name and data.

        A global header has no such records. tarfile's own parser takes quadratic time (CVE-2024-6232).
        """
        stream = cast(BinaryIO, archive.fileobj)
        header = stream.read(self._block(self.size))[: self.size]  # type: ignore[attr-defined]
        try:
            member = self.fromtarfile(archive)
        except tarfile.HeaderError as error:
            raise tarfile.SubsequentHeaderError(str(error)) from None  # type: ignore[attr-defined]
        if self.type != tarfile.XGLTYPE:
            member.offset = self.offset
            member._apply(_pax_records(header), archive)
        return member

    def _apply(self, records: list[tuple[str, str]], archive: Archive) -> None:
        """Apply the records of an extended header to this member."""
        values = {name: value for name, value in records if value}
        self.name = values.get("GNU.sparse.name", values.get("path", self.name))
        self.linkname = values.get("linkpath", self.linkname)
        if "size" in values:
            self.stored = _number(values["size"])
            if self.stretches is None:
                self.size = self.stored
            if self.isreg() or self.type not in tarfile.SUPPORTED_TYPES:
                archive.offset = self.offset_data + self._block(self.stored)  # type: ignore[attr-defined]
        real = values.get("GNU.sparse.realsize", values.get("GNU.sparse.size"))
        if real is not None:
            self.size = _number(real)
            self.stretches = self._map_of(records, values, archive)

    def _map_of(
        self, records: list[tuple[str, str]], values: dict[str, str], archive: Archive
    ) -> list[tuple[int, int]]:
        """The sparse map in one of GNU tar's three layouts for extended headers: 0.0, 0.1, 1.0."""
        if values.get("GNU.sparse.major") == "1":
            numbers = self._map_before_data(archive)
        elif "GNU.sparse.map" in values:
            numbers = [_number(number) for number in values["GNU.sparse.map"].split(",")]
        else:
            stretches = ("GNU.sparse.offset", "GNU.sparse.numbytes")
            numbers = [_number(value) for name, value in records if name in stretches]
        return [(offset, count) for offset, count in zip(numbers[::2], numbers[1::2], strict=True) if count]

    def _map_before_data(self, archive: Archive) -> list[int]:
        """Read a sparse map that precedes the data: one number per line, first the number of pairs, padded to
        a full block."""
        stream = cast(BinaryIO, archive.fileobj)
        blocks: list[bytes] = []
        lines, wanted = 0, 1
        while lines < wanted:
            archive.check_header(tarfile.BLOCKSIZE * (len(blocks) + 1))
            block = stream.read(tarfile.BLOCKSIZE)
            if len(block) < tarfile.BLOCKSIZE:
                raise tarfile.TruncatedHeaderError("truncated header")  # type: ignore[attr-defined]
            blocks.append(block)
            if not lines and b"\n" in block:
                wanted += 2 * _number(b"".join(blocks).split(b"\n", 1)[0])
            lines += block.count(b"\n")
        self.stored -= tarfile.BLOCKSIZE * len(blocks)
        return [_number(line) for line in b"".join(blocks).split(b"\n")[1:wanted]]


def _exactly(archive: Archive, size: int) -> bytes:
    content = cast(BinaryIO, archive.fileobj).read(size)
    if len(content) < size:
        raise tarfile.ReadError("unexpected end of data")
    return content


def _in_pieces(archive: Archive, offset: int, size: int) -> Iterator[tuple[int, bytes]]:
    for at in range(0, size, _PIECE):
        count = min(_PIECE, size - at)
        content = cast(BinaryIO, archive.fileobj).read(count)
        yield offset + at, content
        if len(content) < count:
            raise tarfile.ReadError("unexpected end of data")


def _number(text: str | bytes) -> int:
    """Parse a number in a header. It cannot be negative."""
    if not text.isdigit() or len(text) > 20:
        raise tarfile.InvalidHeaderError("bad number in an extended header")  # type: ignore[attr-defined]
    return int(text)


def _pax_records(header: bytes) -> list[tuple[str, str]]:
    """Names and values of the records ("LENGTH NAME=VALUE\\n") that determine a member's name and data."""
    found = []
    at = 0
    while at < len(header) and header[at]:
        space = header.find(b" ", at, at + 20)
        length = _number(header[at:space])
        name, equals, value = header[space + 1 : at + length - 1].partition(b"=")
        if not length or not equals or at + length > len(header):
            raise tarfile.InvalidHeaderError("invalid header")  # type: ignore[attr-defined]
        if name in _USED or name.startswith(_SPARSE):
            found.append((name.decode("ascii", "replace"), value.decode("utf-8", "surrogateescape")))
        at += length
    return found
