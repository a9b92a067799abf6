"""What of a job's input has its rows already: shards and pictures that need not be opened, and jobs with
nothing left to do."""

import contextlib
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from faceq.sources.listing import Shard
from faceq.sources.read import ReadSettings
from faceq.sources.reading import read_as, tag_of, version_of
from faceq.storage.filesystem import filesystem, is_remote, storage_errors
from faceq.storage.settings import S3Settings
from faceq.table import finished_shards, repair
from faceq.table.finished_shards import Finished, Shards
from faceq.table.runs import unfinished
from faceq.table.schema import frame_id, isin_sorted
from faceq.table.store import Table, Tallies, is_of, status_of

_ASKED_AT_ONCE = 10
"""As many connections as s3fs opens."""


@dataclass(frozen=True)
class Rest:
    """What is left of an input, and what its table holds.

    shards: with frames that have no row, as far as can be told without opening them. already_done: frames of
    the other shards. done: (N,) int64, sorted, ids of the frames that need no reading. again: (M,) int64,
    sorted, ids of those that have a row and are scored again. files: with rows. known: shards on record as
    finished; shard_files: the files that say so.
    """

    shards: list[Shard]
    already_done: int
    done: np.ndarray
    again: np.ndarray
    files: set[str]
    known: Shards
    shard_files: list[str]


def rest_of(
    table: Table, shards: list[Shard], settings: ReadSettings, fiq_threshold: float, limited: bool
) -> Rest:
    """What a run has to do over its input. What earlier runs left in the table is put right before.

    Args:
        settings: how the shards are read.
        fiq_threshold: least `serfiq` of a face that is scored further.
        limited: only the first frames of the input are taken.
    """
    sources = _sources(shards)
    known, shard_files = finished_shards.load(table)
    # The first N frames of --limit are counted by reading them all.
    finished = {} if limited else unchanged(known, shards, settings)
    held = repair.prepare(table, sources, finished)
    passing = repair.passing(table, sources, fiq_threshold)
    again = np.sort(passing["frame_id"].to_numpy())
    done = held.ids[~isin_sorted(held.ids, again)]
    for source in passing["source"].unique().to_pylist():
        finished.pop(source, None)
    shards = with_known_videos(table, shards)
    rest, already = (shards, 0) if limited else remaining_shards(shards, finished, done, held.tallies)
    return Rest(rest, already, done, again, held.files, known, shard_files)


def unchanged(known: Shards, shards: Iterable[Shard], settings: ReadSettings) -> Shards:
    """Those of the `known` finished shards that would give the same frames now."""
    how = read_as(settings.limits, settings.any_name)
    some = [shard for shard in shards if shard.source in known and known[shard.source].read_as == how]
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        versions = pool.map(lambda shard: _version(shard, settings.s3), some)
        pairs = list(zip(some, versions, strict=True))
    return {s.source: known[s.source] for s, version in pairs if version == known[s.source].version}


def _version(shard: Shard, s3: S3Settings) -> str | None:
    """Which version of a shard is there, as its reader would tell; None if that cannot be told."""
    if not is_remote(shard.source):
        with contextlib.suppress(OSError):
            return version_of(os.stat(shard.path))
        return None
    if shard.tag is not None:
        return shard.tag.strip('"')
    with contextlib.suppress(OSError, *storage_errors()):
        return tag_of(filesystem(shard.source, s3).info(shard.path))
    return None


def remaining_shards(
    shards: Sequence[Shard], finished: Shards, done: np.ndarray, tallies: Tallies
) -> tuple[list[Shard], int]:
    """The shards that are to be read, and how many frames the others have.

    Args:
        shards: the input.
        finished: those that are `unchanged`.
        done: ids (int64, sorted) of frames that have a row.
        tallies: of the finished shards, by these rows.
    """
    whole = {source: each.frames for source, each in finished.items() if _is_whole(each, tallies)}

    def may_be_done(shard: Shard) -> bool:
        return shard.kind == "picture" and shard.source not in whole

    ids = np.fromiter((frame_id(s.source, None, 0) for s in shards if may_be_done(s)), np.int64)
    is_done = isin_sorted(ids, done)
    each = iter(is_done)
    rest = [s for s in shards if not (next(each) if may_be_done(s) else s.source in whole)]
    return rest, sum(whole.values()) + int(np.count_nonzero(is_done))


def _is_whole(shard: Finished, tallies: Tallies) -> bool:
    return tallies.get(shard.source) == (shard.frames, shard.ids)


def with_known_videos(table: Table, shards: list[Shard]) -> list[Shard]:
    """The shards; those as videos that a run which did not come to its end has read as such.

    A video may be called like a picture. For a picture, a row of its first frame means that it is done.
    """
    partial = [run for run in table.runs() if not run["finished"] or run["config"].get("limit")]
    if not partial or all(shard.kind != "picture" for shard in shards):
        return shards
    videos = table.videos_in([path for run in partial for path in table.files_of(run["run_id"])])
    return [
        replace(shard, kind="video") if shard.kind == "picture" and shard.source in videos else shard
        for shard in shards
    ]


def nothing_to_do(
    table: Table, shards: Sequence[Shard], settings: ReadSettings, fiq_threshold: float
) -> int | None:
    """How many frames the input has, if each of them has its row; None where a run may find something to do,
    or to put right.

    Only reads, and no more than it must: neither Ray nor a model is needed to find out.
    """
    runs = [run for run in table.runs() if run.get("state") != "claiming"]
    if not runs or unfinished(runs):
        return None
    known, _ = finished_shards.load(table)
    finished = unchanged(known, shards, settings)
    if any(shard.kind != "picture" and shard.source not in finished for shard in shards):
        return None
    needed = sum(finished[s.source].frames if s.source in finished else 1 for s in shards)
    if _most_rows(runs) < needed:
        return None
    files = table.row_files()
    ids, tallies = table.frames_of(files, finished)
    if _needs_repair(runs, files, ids) or len(repair.passing(table, _sources(shards), fiq_threshold)):
        return None
    rest, already = remaining_shards(with_known_videos(table, list(shards)), finished, ids, tallies)
    return None if rest else already


def _sources(shards: Iterable[Shard]) -> set[str]:
    return {shard.source for shard in shards}


def _most_rows(runs: Sequence[dict[str, Any]]) -> float:
    """Rows that a table has at most, by the records of its runs: they say so however large it is."""
    rows: list[int | None] = [run.get("rows") for run in runs]
    return math.inf if None in rows else sum(count or 0 for count in rows)


def _needs_repair(runs: Sequence[dict[str, Any]], files: Sequence[str], ids: np.ndarray) -> bool:
    """Whether `repair.prepare` would change something."""
    unended = [run["run_id"] for run in runs if not run["finished"]]
    unsure = any(
        status_of(path) == "unreadable" and is_of(path, run_id) for path in files for run_id in unended
    )
    return unsure or len(repair.doubles(ids)) > 0
