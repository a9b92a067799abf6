"""The frames as Ray Data reads them: tasks that stream out of the shards what has no row yet."""

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from faceq.census import MOST_NOTES, OutageError
from faceq.config import Config
from faceq.frames import READ_SCHEMA, in_batches, to_table
from faceq.listing import Shard
from faceq.sources import Findings, read_shards


class FrameSource(Datasource):
    """Ray's view of the shards: one read task for each group, listed once on the driver."""

    def __init__(self, groups: list[list[Shard]], config: Config, done: Any, census: Any):
        """`done`: reference to the sorted ids (int64) of frames that need no reading."""
        super().__init__()
        self._groups = groups
        self._config = config
        self._done = done
        self._census = census

    def estimate_inmemory_data_size(self) -> int | None:
        return _bytes_of(itertools.chain.from_iterable(self._groups))

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            ReadTask(
                functools.partial(_read, index, shards, self._config, self._done, self._census),
                BlockMetadata(
                    num_rows=len(shards) if all(s.kind == "picture" and s.known for s in shards) else None,
                    size_bytes=_bytes_of(shards),
                    input_files=None,  # nobody asks for them, and there may be millions
                    exec_stats=None,
                ),
                schema=READ_SCHEMA,
                per_task_row_limit=per_task_row_limit,
            )
            for index, shards in enumerate(self._groups)
        ]


def _bytes_of(shards: Iterable[Shard]) -> int | None:
    """Bytes of all of them; None where a manifest does not say."""
    sizes = [shard.size for shard in shards]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _read(task: int, shards: list[Shard], config: Config, done: Any, census: Any) -> Iterator[pa.Table]:
    new = skipped = 0
    yield READ_SCHEMA.empty_table()
    findings = Findings()
    ids = _SortedIds(ray.get(done))
    for frames in in_batches(read_shards(shards, config.s3, ids, config.video, config.limits, findings)):
        old = sum(frame.done for frame in frames)
        new, skipped = new + len(frames) - old, skipped + old
        refused = [frame.error for frame in frames if frame.refused]
        given, unseen = len(frames) - old - len(refused), sum(frame.unseen for frame in frames)
        # Totals, not increments: a read task that runs again counts its frames once.
        outage = ray.get(census.read.remote(task, new, skipped, given, refused, unseen))
        if outage:
            raise OutageError(outage)
        yield to_table(frames)
    ray.get(census.ended.remote(task, dict(findings.passed_over), findings.notes[:MOST_NOTES]))


class _SortedIds:
    """Membership in a sorted int64 array: 8 bytes an id, shared between the tasks of a node."""

    def __init__(self, ids: np.ndarray):
        self._ids = ids

    def __contains__(self, frame_id: object) -> bool:
        index = int(np.searchsorted(self._ids, cast(int, frame_id)))
        return index < len(self._ids) and self._ids[index] == frame_id
