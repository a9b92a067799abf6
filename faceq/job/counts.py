"""Counts of a job: how far it is, and what each stage has done."""

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

READ, FIND_FACE, SERFIQ, DBCNN, WRITE = STAGES = ("read", "find_face", "serfiq", "dbcnn", "write")
"""The stages that a frame passes, in this order."""


class Work(NamedTuple):
    """What a stage has done with a batch.

    frames: number of frames of the batch. seconds: wall time that the process of the stage spent on them.
    """

    frames: int
    seconds: float


NO_WORK = Work(0, 0.0)


@dataclass(frozen=True)
class Counts:
    """How far a job is. The figures are approximate: frames of a task that ran twice may count twice, but not
    in `read`, `refused`, `size` and `rows`.

    tasks_ended: read tasks that have ended. read: frames that were read. refused: frames that the storage did
    not deliver. size: bytes of the frames that were read, as they enter the stages. unreadable: frames that
    could not be decoded. statuses: finished frames by status; a frame is finished after the last stage. rows:
    rows in files of the table, by status. frames: frames that this run scores in all; None while that is not
    known. passed, seconds: frames that have passed a stage, and wall time that its processes spent on them,
    in seconds. restarts: batches that a stage began again because their process had died.
    """

    tasks_ended: int = 0
    read: int = 0
    refused: int = 0
    size: int = 0
    unreadable: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    rows: Mapping[str, int] = field(default_factory=dict)
    frames: int | None = None
    passed: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        return sum(self.statuses.values())

    @property
    def written(self) -> int:
        return sum(self.rows.values())

    def waiting(self) -> dict[str, int]:
        """By stage after the first: frames that have passed the stage before it, and not yet this one. These
        are the frames in its queue and those that it works on."""
        passed = [self.passed.get(stage, 0) for stage in STAGES]
        # A batch that ran twice counts twice in one of the stages.
        ahead = [max(0, before - after) for before, after in itertools.pairwise(passed)]
        return dict(zip(STAGES[1:], ahead, strict=True))


class StageCounts:
    """Adds up the work of the stages."""

    def __init__(self) -> None:
        self._passed: Counter[str] = Counter()
        self._seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._restarts: Counter[str] = Counter()
        self._written: dict[int, Mapping[str, int]] = {}
        self._rows: Counter[str] = Counter()
        self._size = 0

    def add(self, stage: str, work: Work, size: int = 0) -> None:
        """A stage has finished a batch. `size`: bytes of its frames, if the stage is the first one."""
        self._passed[stage] += work.frames
        self._seconds[stage] += work.seconds
        self._size += size

    def restart(self, stage: str) -> None:
        """A stage begins a batch again because its process has died."""
        self._restarts[stage] += 1

    def write(self, task: int, rows: Mapping[str, int], seconds: float) -> None:
        """A write task has written rows, by status. A task that runs again writes the same files."""
        before = self._written.get(task, {})
        self.add(WRITE, Work(sum(rows.values()) - sum(before.values()), seconds))
        self._rows.subtract(before)
        self._rows.update(rows)
        self._written[task] = rows

    def figures(self) -> dict[str, Any]:
        """Fields of `Counts`."""
        return {
            "size": self._size,
            "rows": dict(self._rows),
            "passed": dict(self._passed),
            "seconds": dict(self._seconds),
            "restarts": dict(self._restarts),
        }
