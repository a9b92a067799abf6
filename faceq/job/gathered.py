"""The finished shards of a run, for the census. Its process starts faster without pyarrow."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faceq.table.finished_shards import Finished, FinishedPart


class Gathered:
    """The finished shards of a run, in the order in which they were finished. Parts of a shard are joined,
    and give one row for the damage of the shard."""

    def __init__(self) -> None:
        self._shards: list[Finished] = []
        self._parts: dict[str, dict[int, Finished]] = {}
        self._breaks: dict[int, tuple[int, int]] = {}

    def add(self, shards: "Iterable[Finished | FinishedPart]") -> None:
        # Whoever has shards has imported these modules.
        from faceq.table.finished_shards import FinishedPart  # noqa: PLC0415

        for shard in shards:
            whole = self._join(shard) if isinstance(shard, FinishedPart) else shard
            if whole is not None:
                self._shards.append(whole)

    def since(self, count: int) -> "list[Finished]":
        """The shards after the first `count`; all of them if there are fewer."""
        return self._shards[count if count <= len(self._shards) else 0 :]

    def gives_break(self, frame: int, part: tuple[int, int]) -> bool:
        """Whether a part of a shard returns the row for the damage of the shard: the first part that asks.
        `frame`: id of the row."""
        return self._breaks.setdefault(frame, part) == part

    def _join(self, part: "FinishedPart") -> "Finished | None":
        """The shard, when all its parts are known and were read from the same version of it. A part that was
        read twice counts once."""
        from faceq.table.schema import wrap_int64  # noqa: PLC0415

        found = self._parts.setdefault(part.read.source, {})
        found[part.number] = part.read
        if len(found) < part.parts:
            return None
        first, *others = found.values()
        if any((each.version, each.read_as) != (first.version, first.read_as) for each in others):
            return None
        frames, ids = (sum(getattr(each, name) for each in found.values()) for name in ("frames", "ids"))
        return replace(first, frames=frames, ids=wrap_int64(ids))
