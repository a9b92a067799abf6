"""Which part of a job's input already has its rows: shards and images that need not be opened, and jobs that
have nothing left to do."""

import contextlib
import math
import os
from collections.abc import Collection, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from faceq.config import Config
from faceq.job import next_commands
from faceq.sources.listing import Shard
from faceq.sources.read import ReadSettings
from faceq.sources.reading import read_as, tag_of, version_of
from faceq.stages.chosen_models import fetch_options
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
    """The part of an input that is left to do, and what its table holds.

    shards: that may hold frames without a row, as far as can be told without opening them. already_done:
    number of frames in the other shards. partly: rows of `shards` other than images, by source, where there
    are some. done: (N,) int64, sorted, ids of the frames that need no reading. again: (M,) int64, sorted, ids
    of the frames that have a row and are scored again. files: that hold rows. known: shards on record as
    finished; shard_files: the files that hold this record.
    """

    shards: list[Shard]
    already_done: int
    partly: dict[str, int]
    done: np.ndarray
    again: np.ndarray
    files: set[str]
    known: Shards
    shard_files: list[str]

    @property
    def frames_done(self) -> int:
        """Frames of the input that already have their row."""
        return self.already_done + sum(self.partly.values())

    @property
    def frames_left(self) -> int | None:
        """Frames of the input without a row, if this is known without reading: all are images."""
        images = all(shard.kind == "picture" and shard.known for shard in self.shards)
        return len(self.shards) if images else None


def read_settings(config: Config) -> ReadSettings:
    """How a job reads its input."""
    return ReadSettings(
        *(config.s3, config.video, config.limits, config.any_name, config.extra_bytes),
        animated=config.read.animated == "frames",
        encoding=config.read.encoding,
        fetching=fetch_options(config),
    )


def rest_of(
    table: Table, shards: list[Shard], settings: ReadSettings, fiq_threshold: float, limited: bool
) -> Rest:
    """The part of the input that a run has to do. First repairs what stopped runs left in the table.

    Args:
        table: the result table.
        shards: the input.
        settings: how the shards are read.
        fiq_threshold: minimum `serfiq` of a face that gets a `dbcnn`.
        limited: the run takes only the first frames of the input.
    """
    known = finished_shards.load(table)
    shards = _as_videos(shards, known[0])
    held = repair.prepare(table, _sources(shards), () if limited else _large(shards))
    passing = repair.passing(table, _sources(shards), fiq_threshold)
    return _rest(table, shards, settings, held, passing, limited, known)


def preview(
    table: Table,
    shards: list[Shard],
    settings: ReadSettings,
    fiq_threshold: float,
    retry_unreadable: bool = False,
) -> Rest:
    """As `rest_of`, but nothing is changed: the part of the input that a run would have to do."""
    known = finished_shards.load(table)
    shards = _as_videos(shards, known[0])
    held = repair.contents(table, _large(shards))
    passing = repair.passing(table, _sources(shards), fiq_threshold)
    unsure = repair.unsure(table, _sources(shards), retry_unreadable)
    return _rest(table, shards, settings, held, pa.concat_tables([passing, unsure]), False, known)


def _rest(
    table: Table,
    shards: list[Shard],
    settings: ReadSettings,
    held: repair.TableContents,
    scored_again: pa.Table,
    limited: bool,
    recorded: tuple[Shards, list[str]],
) -> Rest:
    """The part of an input that is left to do.

    Args:
        held: the contents of the table.
        scored_again: frame_id and source of the rows whose frames are scored again.
        limited: all shards are read, since the first N frames of `--limit` are counted by reading.
        recorded: what `finished_shards.load` returns.
    """
    known, shard_files = recorded
    again = np.unique(scored_again["frame_id"].to_numpy())
    done = held.ids[~isin_sorted(held.ids, again)]
    shards = with_known_videos(table, shards)
    rest, already = shards, 0
    if not limited:
        finished = unchanged(known, shards, settings)
        rest, already = _remaining(shards, finished, done, held.tallies, scored_again)
    partly = _partly(rest, held.tallies, scored_again)
    return Rest(rest, already, partly, done, again, held.files, known, shard_files)


def _remaining(
    shards: Sequence[Shard], finished: Shards, done: np.ndarray, tallies: Tallies, again: pa.Table
) -> tuple[list[Shard], int]:
    """`remaining_shards`, where sources of frames that are scored again are not finished."""
    kept = dict(finished)
    for source in again["source"].unique().to_pylist():
        kept.pop(source, None)
    return remaining_shards(shards, kept, done, tallies)


def _partly(rest: Iterable[Shard], tallies: Tallies, again: pa.Table) -> dict[str, int]:
    """Rows of the shards that are read, other than images and without those of frames that are scored again;
    only shards that have some."""
    counts = again["source"].value_counts().to_pylist()
    lost = {count["values"]: count["counts"] for count in counts}
    large = [shard.source for shard in rest if shard.kind != "picture"]
    rows = {source: tallies.get(source, (0, 0))[0] - lost.get(source, 0) for source in large}
    return {source: count for source, count in rows.items() if count > 0}


def unchanged(known: Shards, shards: Iterable[Shard], settings: ReadSettings) -> Shards:
    """Those of the `known` finished shards that would give the same frames now."""
    how = read_as(settings.limits, settings.any_name, settings.animated, settings.encoding)
    some = [shard for shard in shards if shard.source in known and known[shard.source].read_as == how]
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        versions = pool.map(lambda shard: _version(shard, settings.s3), some)
        pairs = list(zip(some, versions, strict=True))
    return {s.source: known[s.source] for s, version in pairs if version == known[s.source].version}


def _version(shard: Shard, s3: S3Settings) -> str | None:
    """The current version of a shard, as its reader would record it; None if it cannot be determined."""
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
    """The shards that have to be read, and the number of frames in the others.

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


def _as_videos(shards: Iterable[Shard], sources: Container[str]) -> list[Shard]:
    """The shards; those of the sources with the name of an image are of the kind `video`: they are videos or
    animations. For an image, a row of its first frame means that it is done."""
    return [
        replace(shard, kind="video") if shard.kind == "picture" and shard.source in sources else shard
        for shard in shards
    ]


def with_known_videos(table: Table, shards: list[Shard]) -> list[Shard]:
    """The shards; those that a stopped run has read as videos are of the kind `video`, whatever their
    names."""
    partial = [run for run in table.runs() if not run["finished"] or run["config"].get("limit")]
    if not partial or all(shard.kind != "picture" for shard in shards):
        return shards
    videos = table.videos_in([path for run in partial for path in table.files_of(run["run_id"])])
    return _as_videos(shards, videos)


def nothing_to_do(
    table: Table, shards: Sequence[Shard], settings: ReadSettings, fiq_threshold: float
) -> int | None:
    """The number of frames of the input, if each of them has its row; None if a run may find something to do
    or to repair.

    Only reads, and no more than necessary. Neither Ray nor a model is needed.
    """
    runs = [run for run in table.runs() if run.get("state") != "claiming"]
    if not runs or unfinished(runs):
        return None
    known, _ = finished_shards.load(table)
    shards = _as_videos(shards, known)
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
    rest, already = remaining_shards(with_known_videos(table, shards), finished, ids, tallies)
    return None if rest else already


def higher_threshold(table: Table, threshold: float) -> str | None:
    """What to tell a user whose threshold is higher than that of the table's rows; None if it is not."""
    runs = [run for run in table.runs() if run.get("state") != "claiming"]
    lowest = min(map(repair.threshold_of, runs), default=threshold)
    if lowest >= threshold:
        return None
    return (
        f"--fiq-threshold {threshold:g} is higher than the {lowest:g} of an earlier run: only new frames "
        "are compared with it, existing rows keep their status; to apply it to the whole table, query it: "
        f"{next_commands.query(table.uri, f'serfiq >= {threshold:g}')}"
    )


def _sources(shards: Iterable[Shard]) -> set[str]:
    return {shard.source for shard in shards}


def _large(shards: Iterable[Shard]) -> Collection[str]:
    """Sources that may hold many frames."""
    return {shard.source for shard in shards if shard.kind != "picture"}


def _most_rows(runs: Sequence[dict[str, Any]]) -> float:
    """Maximum number of rows of a table by the records of its runs: the records are small however large the
    table is."""
    rows: list[int | None] = [run.get("rows") for run in runs]
    return math.inf if None in rows else sum(count or 0 for count in rows)


def _needs_repair(runs: Sequence[dict[str, Any]], files: Sequence[str], ids: np.ndarray) -> bool:
    """Whether `repair.prepare` would change something."""
    unended = [run["run_id"] for run in runs if not run["finished"]]
    unsure = any(
        status_of(path) == "unreadable" and is_of(path, run_id) for path in files for run_id in unended
    )
    return unsure or len(repair.doubles(ids)) > 0
