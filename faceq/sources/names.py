"""Unique names for the frames of one source, also for sources with millions of frames."""

from array import array

from faceq.table.schema import frame_id

_SLOTS = 1 << 10
"""Initial size of the hash table; a power of two."""


class Names:
    """The names used so far in one source. A repeated name gets the suffix #2, #3, …

    A hash table stores the frame id (eight bytes) and the number of occurrences (four bytes) of each name.
    Ten million names take 200 MB, and 300 MB while the table grows. If two different names have the same
    frame id, the second one counts as a repetition, so that it gets its own id and its own row.
    """

    def __init__(self, source: str):
        self._source = source
        self._used = 0
        self._allocate(_SLOTS)

    def unique(self, name: str) -> str:
        """The name itself, or, if it was used before, the name with #2, #3, … appended."""
        while (count := self._count(name)) > 1:
            name = f"{name}#{count}"
        return name

    def _count(self, name: str) -> int:
        """How often the name has occurred, including this time."""
        key = frame_id(self._source, name, 0) or 1  # 0 marks a free slot
        slot = self._slot(key)
        if not self._keys[slot]:
            if 3 * self._used >= 2 * len(self._keys):
                self._grow()
                slot = self._slot(key)
            self._keys[slot] = key
            self._used += 1
        self._counts[slot] += 1
        return self._counts[slot]

    def _slot(self, key: int) -> int:
        keys, last = self._keys, len(self._keys) - 1
        slot = key & last
        while keys[slot] and keys[slot] != key:
            slot = (slot + 1) & last
        return slot

    def _allocate(self, slots: int) -> None:
        self._keys, self._counts = array("q", [0]) * slots, array("I", [0]) * slots

    def _grow(self) -> None:
        keys, counts = self._keys, self._counts
        self._allocate(2 * len(keys))
        for key, count in zip(keys, counts, strict=True):
            if key:
                slot = self._slot(key)
                self._keys[slot], self._counts[slot] = key, count
