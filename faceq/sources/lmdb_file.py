"""Read LMDB files, page by page.

The LMDB library trusts the file: of 150 files with a few wrong bytes, 78 ended the process that read them.
This module checks every number in the file before it uses it, reads and never writes, and needs no lock file.

Source of the layout: `struct MDB_meta`, `MDB_db`, `MDB_page` and `MDB_node` in LMDB's `mdb.c`, data version
1, on machines with 64 bits and the low byte first. A file is a B+tree of pages; values that do not fit into a
page have pages of their own.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from faceq.errors import FaceqError

MAGIC = struct.pack("<II", 0xBEEFC0DE, 1)
"""Magic number and version, at byte MAGIC_AT."""

MAGIC_AT = 16
_PAGE = struct.Struct("<QHHHH")
"""Number of the page, unused, flags, and where its free space begins and ends."""

_META = struct.Struct("<8s16x")
_DB = struct.Struct("<IHH24xQQ")
"""Page size (only in the first one), flags, depth, number of entries, root page."""

_META_END = struct.Struct("<QQ")
"""Last page, number of the transaction."""

_NODE = struct.Struct("<HHHH")
"""Size of the value in two halves, flags, size of the key. In a branch, the first three are a page number."""

_NUMBER = struct.Struct("<Q")
"""Number of the page where a value begins."""

_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_KINDS = 0x6F  # all flags that say what a page is; others are used in memory only
_ON_PAGES, _DATABASE = 1, 2
_SORTED_DUPLICATES, _INTEGER_KEYS = 4, 8
_NO_PAGE = (1 << 64) - 1

MOST_FAULTS = 1000

_MOST_DEPTH = 32
"""Maximum depth of a tree, as in LMDB."""


class DamagedPageError(FaceqError):
    """A page that contradicts itself or the file; the message names it."""


class Entry(NamedTuple):
    """An entry of the main database.

    key: its bytes. size: of the value. value: it, if it is in the page of the key. page: the first page of
    the value otherwise. is_database: the value describes another database of that name.
    """

    key: bytes
    size: int
    value: bytes | None
    page: int
    is_database: bool


@dataclass(frozen=True)
class _Meta:
    page_size: int
    flags: int
    entries: int
    root: int
    transaction: int


class LmdbFile:
    """The main database of an LMDB file.

    entries: number of entries, as the file says. faults: what is wrong with pages that `follow` has skipped,
    at most MOST_FAULTS. has_duplicates: a key may have several values. integer_keys: keys are native
    integers.

    Args:
        stream: the file.
        size: of the file, bytes.

    Raises:
        DamagedPageError: the file has no valid first page.
    """

    def __init__(self, stream: BinaryIO, size: int):
        self._stream = stream
        self._size = size
        first = self._meta(0)
        if first is None:
            raise DamagedPageError("page 0 is damaged, so the size of pages is unknown")
        second = self._meta(first.page_size)
        # Each transaction writes one of them, in turns.
        if second is not None and abs(second.transaction - first.transaction) > 1:
            raise DamagedPageError("pages 0 and 1 contradict each other")
        meta = first if second is None or second.transaction < first.transaction else second
        self._page_size = first.page_size
        self._root = meta.root
        self._left = size // self._page_size
        self.entries = meta.entries
        self.has_duplicates = bool(meta.flags & _SORTED_DUPLICATES)
        self.integer_keys = bool(meta.flags & _INTEGER_KEYS)
        self.faults = [] if second else ["page 1 is damaged, so the newest entries may be missing"]

    def _meta(self, at: int) -> _Meta | None:
        data = self._read(at + MAGIC_AT, _META.size + 2 * _DB.size + _META_END.size)
        if data is None or not data.startswith(MAGIC):
            return None
        page_size, *_ = _DB.unpack_from(data, _META.size)
        _, flags, _, entries, root = _DB.unpack_from(data, _META.size + _DB.size)
        _, transaction = _META_END.unpack_from(data, _META.size + 2 * _DB.size)
        if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
            return None
        return _Meta(page_size, flags, entries, root, transaction)

    def follow(self) -> Iterator[Entry]:
        """All entries, in the order of their keys. What cannot be read is skipped, and added to `faults`.
        After MOST_FAULTS, nothing more is read."""
        stack = [] if self._root == _NO_PAGE else [(self._root, 1)]
        while stack and len(self.faults) < MOST_FAULTS:
            number, depth = stack.pop()
            children, entries = [], []
            try:
                page, is_branch = self._page(number, depth)
                if is_branch:
                    children = _children(page, number)
                else:
                    entries = _entries(page, number)
            except DamagedPageError as error:
                self.faults.append(str(error))
            stack += [(child, depth + 1) for _, child in reversed(children)]
            yield from entries

    def value(self, entry: Entry) -> bytes:
        """The value of an entry. Raises DamagedPageError."""
        if entry.value is not None:
            return entry.value
        head = self._read(entry.page * self._page_size, _PAGE.size)
        number, _, flags, low, high = _PAGE.unpack(head or bytes(_PAGE.size))
        pages = low | high << 16
        needed = -(-(_PAGE.size + entry.size) // self._page_size)
        if head is None or number != entry.page or flags & _KINDS != _OVERFLOW or pages < needed:
            raise DamagedPageError(f"page {entry.page}, where its value begins, is damaged")
        self._take(needed, entry.page)
        value = self._read(entry.page * self._page_size + _PAGE.size, entry.size)
        if value is None:
            raise DamagedPageError(f"the file ends before page {entry.page + needed}: it is cut off")
        return value

    def find(self, key: bytes) -> Entry | None:
        """The entry of a key; None if there is none. Raises DamagedPageError."""
        self._left = self._size // self._page_size
        number = self._root
        for depth in range(1, _MOST_DEPTH + 2):
            if number == _NO_PAGE:
                return None
            page, is_branch = self._page(number, depth)
            if not is_branch:
                same = (each for each in _entries(page, number) if self._order(each.key) == self._order(key))
                return next(same, None)
            first, *others = _children(page, number)  # the first key of a branch is empty
            number = [first, *(each for each in others if self._order(each[0]) <= self._order(key))][-1][1]
        return None

    def _order(self, key: bytes) -> Any:
        return int.from_bytes(key, "little") if self.integer_keys else key

    def _page(self, number: int, depth: int) -> tuple[bytes, bool]:
        """A page of the tree, and whether it is a branch."""
        page = self._read(number * self._page_size, self._page_size)
        if page is None:
            raise DamagedPageError(f"page {number} is beyond the end of the file: it is cut off")
        found, _, flags, low, high = _PAGE.unpack_from(page)
        kind = flags & _KINDS
        is_valid = found == number and kind in (_BRANCH, _LEAF) and _PAGE.size < low <= high <= len(page)
        if not is_valid or depth > _MOST_DEPTH:
            raise DamagedPageError(f"page {number} is damaged")
        self._take(1, number)
        return page, kind == _BRANCH

    def _take(self, pages: int, number: int) -> None:
        """Count pages that are read: damaged files can lead to the same pages again and again."""
        self._left -= pages
        if self._left < 0:
            raise DamagedPageError(f"page {number} is used several times")

    def _read(self, offset: int, size: int) -> bytes | None:
        if offset + size > self._size:
            return None
        self._stream.seek(offset)
        data = self._stream.read(size)
        return data if len(data) == size else None


def _children(page: bytes, number: int) -> list[tuple[bytes, int]]:
    """The first key and the number of each page below a branch."""
    return [(key, low | high << 16 | flags << 32) for low, high, flags, key, _ in _nodes(page, number)]


def _entries(page: bytes, number: int) -> list[Entry]:
    """The entries of a leaf."""
    found = []
    for low, high, flags, key, begin in _nodes(page, number):
        size = low | high << 16
        end = begin + (_NUMBER.size if flags & _ON_PAGES else size)
        if end > len(page):
            raise DamagedPageError(f"page {number} is damaged")
        value = None if flags & _ON_PAGES else page[begin:end]
        (first,) = _NUMBER.unpack_from(page, begin) if flags & _ON_PAGES else (0,)
        found.append(Entry(key, size, value, first, bool(flags & _DATABASE)))
    return found


def _nodes(page: bytes, number: int) -> Iterator[tuple[int, int, int, bytes, int]]:
    """The first three numbers of each node of a page, its key, and where its value begins."""
    *_, low, _ = _PAGE.unpack_from(page)
    for (at,) in struct.iter_unpack("<H", page[_PAGE.size : low - low % 2]):
        begin = at + _NODE.size
        if at < low or begin > len(page):
            raise DamagedPageError(f"page {number} is damaged")
        *numbers, key_size = _NODE.unpack_from(page, at)
        if begin + key_size > len(page):
            raise DamagedPageError(f"page {number} is damaged")
        first, second, third = numbers
        yield first, second, third, page[begin : begin + key_size], begin + key_size
