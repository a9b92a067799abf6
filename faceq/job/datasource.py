"""The frames as Ray Data reads them: tasks that stream the frames without a row out of the shards."""

import functools
import itertools
import time
from collections.abc import Container, Iterable, Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from faceq.job.census import BEFORE_ALL, DEATHS_OF_A_KILLER, MOST_NOTES, OutageError, Place
from faceq.job.cluster import MAX_RETRIES
from faceq.job.counts import Work
from faceq.sources import Findings, read_shards
from faceq.sources.frame import BATCH_FRAMES, READ_SCHEMA, Frame, in_batches, to_table
from faceq.sources.listing import Shard
from faceq.sources.parts import Part
from faceq.sources.pictures import AT_ONCE
from faceq.sources.read import ReadSettings
from faceq.table.schema import BREAK, frame_id

KILLER = (
    "reading it ended the worker process, twice: its bytes crash a reader or need more memory than there is: "
    "repair the file, or leave it out"
)
"""The error of a frame that ends the process which reads it."""

_ANNOUNCED = BATCH_FRAMES + AT_ONCE
"""Maximum number of frames after the last reported one among which is the frame that was being read when a
process died: the rest of a batch, and images that are fetched by one call."""


class FrameSource(Datasource):
    """Ray's view of the shards: one read task for each group, listed once on the driver."""

    def __init__(self, groups: list[list[Shard]], settings: ReadSettings, done: Any, census: Any):
        """`done`: reference to the sorted ids (int64) of frames that are not read again."""
        super().__init__()
        self._groups = groups
        self._settings = settings
        self._done = done
        self._census = census

    def estimate_inmemory_data_size(self) -> int | None:
        return _bytes_of(itertools.chain.from_iterable(self._groups))

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        # An animation may have any number of frames.
        one_each = not self._settings.animated
        return [
            ReadTask(
                functools.partial(_read, index, shards, self._settings, self._done, self._census),
                BlockMetadata(
                    num_rows=len(shards)
                    if one_each and all(s.kind == "picture" and s.known for s in shards)
                    else None,
                    size_bytes=_bytes_of(shards),
                    input_files=None,  # not used, and there may be millions
                    exec_stats=None,
                ),
                schema=READ_SCHEMA,
                per_task_row_limit=per_task_row_limit,
            )
            for index, shards in enumerate(self._groups)
        ]


def _bytes_of(shards: Iterable[Shard]) -> int | None:
    """Total size in bytes; None if a manifest does not state it."""
    sizes = [shard.size for shard in shards]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def most_starts(shards: list[Shard]) -> int:
    """Maximum number of starts of a read task of these shards: each shard may end some processes before faceq
    gives it up."""
    return MAX_RETRIES + DEATHS_OF_A_KILLER * len(shards)


def _read(
    task: int, shards: list[Shard], settings: ReadSettings, done: Any, census: Any
) -> Iterator[pa.Table]:
    new = skipped = 0
    yield READ_SCHEMA.empty_table()
    reader = _Reader(task, settings, _SortedIds(ray.get(done)), census)
    for frames, seconds in _timed(in_batches(reader.frames(shards))):
        old = sum(frame.done for frame in frames)
        new, skipped = new + len(frames) - old, skipped + old
        refused = [frame.error for frame in frames if frame.refused]
        given, unseen = len(frames) - old - len(refused), sum(frame.unseen for frame in frames)
        work = Work(len(frames) - old, seconds)
        size = sum(len(frame.image or b"") for frame in frames)
        # Totals, not increments: a read task that runs again counts its frames once.
        totals = (task, new, skipped, given, refused, unseen, reader.place, work, size)
        outage = ray.get(census.read.remote(*totals))
        if outage:
            raise OutageError(outage)
        _tell_finished(reader.findings, census)
        yield to_table(frames)
    findings = reader.findings
    _tell_finished(findings, census)
    ray.get(census.ended.remote(task, dict(findings.passed_over), findings.notes[:MOST_NOTES]))


def _timed(batches: Iterator[list[Frame]]) -> Iterator[tuple[list[Frame], float]]:
    """Each batch with the seconds that it took to read it, without those until the next one is asked for."""
    while True:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - started


def _tell_finished(findings: Findings, census: Any) -> None:
    """Report each shard when it has been read, not only at the end of the task, which may have many."""
    if findings.finished:
        census.shards_finished.remote(findings.finished[:])
        findings.finished.clear()


class _Reader:
    """Reads the shards of a task, also after processes have died over them.

    A task that Ray retries must return the same frames in the same order: Ray skips those that came before
    the process died.

    findings: what was found besides frames. place: of the last frame that was returned.
    """

    def __init__(self, task: int, settings: ReadSettings, done: Container[int], census: Any):
        self.findings = Findings()
        self.place: Place = BEFORE_ALL
        self._task = task
        self._settings = settings
        self._done = done
        self._census = census
        self._last: Place | None = None
        self._killers: list[Place] = []
        self._beyond = 0

    def frames(self, shards: list[Shard]) -> Iterator[Frame]:
        """The frames of all shards. After a process has died, the next frames are announced before they are
        read. A frame over which several processes have died becomes a row with that error."""
        begun = self._census.begin_reading.remote(self._task, most_starts(shards))
        self._last, self._killers, outage = ray.get(begun)
        if outage:
            raise OutageError(outage)
        for first, some in _fetched_at_once(shards):
            frames = self._together if self._is_safe(first, len(some)) else self._one_by_one
            for index, frame in frames(first, some):
                if isinstance(shards[index], Part) and not self._is_given(index, frame):
                    continue
                self.place = (index, self.place[1] + 1 if self.place[0] == index else 0)
                self._beyond += self._last is not None and self.place > self._last
                yield frame

    def _is_given(self, index: int, frame: Frame) -> bool:
        """Whether this part of a shard gives the frame. A file that is damaged has one row for the damage,
        even if several of its parts meet it."""
        if frame.frame_index != BREAK:
            return True
        return bool(ray.get(self._census.gives_break.remote(frame.id, (self._task, index))))

    def _is_safe(self, first: int, count: int) -> bool:
        """Whether these shards can be read without announcing each frame."""
        if any(first <= index < first + count for index, _ in self._killers):
            return False
        return self._last is None or first + count <= self._last[0] or self._beyond >= _ANNOUNCED

    def _together(self, first: int, shards: list[Shard]) -> Iterator[tuple[int, Frame]]:
        indices = {shard.source: first + index for index, shard in enumerate(shards)}
        return ((indices[frame.source], frame) for frame in self._read(shards))

    def _one_by_one(self, first: int, shards: list[Shard]) -> Iterator[tuple[int, Frame]]:
        for index, shard in enumerate(shards, first):
            frames = self._read([shard])
            for number in itertools.count():
                if (index, number) in self._killers:
                    yield index, self._killer(shard)
                    break
                frame = self._announced((index, number), frames)
                if frame is None:
                    break
                yield index, frame

    def _announced(self, place: Place, frames: Iterator[Frame]) -> Frame | None:
        if self._last is None or place <= self._last or self._beyond >= _ANNOUNCED:
            return next(frames, None)
        ray.get(self._census.about_to_read.remote(self._task, place))
        frame = next(frames, None)
        # If this process ends while other stages work on the frame, reading is not the cause.
        ray.get(self._census.about_to_read.remote(self._task, None))
        return frame

    def _read(self, shards: list[Shard]) -> Iterator[Frame]:
        how = self._settings
        return read_shards(shards, done=self._done, findings=self.findings, **vars(how))

    def _killer(self, shard: Shard) -> Frame:
        index = 0 if shard.kind == "picture" else BREAK
        if frame_id(shard.source, None, index) in self._done:
            return Frame(shard.source, None, index, None, done=True)
        rest = "" if shard.kind == "picture" else ": the rest is not read"
        if isinstance(shard, Part):
            rest = f": the rest of part {shard.number + 1} of {shard.parts} is not read"
        return Frame(shard.source, None, index, None, error=f"{KILLER}{rest}")


def _fetched_at_once(shards: list[Shard]) -> Iterator[tuple[int, list[Shard]]]:
    """The shards with the index of the first: images in groups that one call fetches, others one by one."""
    first = 0
    for picture, same in itertools.groupby(shards, lambda shard: shard.kind == "picture"):
        group = list(same)
        most = AT_ONCE if picture else 1
        for i in range(0, len(group), most):
            yield first + i, group[i : i + most]
        first += len(group)


class _SortedIds:
    """Membership in a sorted int64 array: 8 bytes for each id, shared between the tasks of a node."""

    def __init__(self, ids: np.ndarray):
        self._ids = ids

    def __contains__(self, frame_id: object) -> bool:
        index = int(np.searchsorted(self._ids, cast(int, frame_id)))
        return index < len(self._ids) and self._ids[index] == frame_id
