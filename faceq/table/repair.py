"""What earlier runs left in a table, put right before and after a new one.

A run that was killed may leave frames that it called unreadable while the storage was failing; files that
its last workers write when it is already gone; frames with two rows, where those hold what a later run
has scored too; and, on local disks, files that were not finished. Every step here deletes or replaces whole
files, can be interrupted, and can be done again.
"""

import glob
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faceq.table.runs import Run
from faceq.table.schema import SCHEMA, isin_sorted
from faceq.table.store import Table, Tallies, is_of, status_of

_FRAMES = pa.schema([SCHEMA.field("frame_id"), SCHEMA.field("source")])


@dataclass(frozen=True)
class TableContents:
    """What a table holds.

    ids: (N,) int64, sorted, of the frames that have a row. files: with these rows. tallies: of some sources.
    """

    ids: np.ndarray
    files: set[str]
    tallies: Tallies


def prepare(table: Table, sources: Collection[str], counted: Collection[str] = ()) -> TableContents:
    """Put right what is there, and say what is there then, with tallies of those `counted`.

    A frame of `sources`, those of the new run, which a run without an end called unreadable has no row any
    more: it may have been the storage.
    """
    unended = [run["run_id"] for run in table.runs() if not run["finished"]]
    for run_id in unended:
        _forget([path for path in table.files_of(run_id) if status_of(path) == "unreadable"], table, sources)
    _remove_unfinished_files(table)
    held = contents(table, counted)
    doubled = doubles(held.ids)
    if len(doubled):
        _drop_doubles(table, doubled)
        held = contents(table, counted)
    return held


def contents(table: Table, counted: Collection[str] = ()) -> TableContents:
    """What the table holds, as `prepare` returns it; nothing is changed."""
    files = table.row_files()
    ids, tallies = table.frames_of(files, counted)
    return TableContents(ids, set(files), tallies)


def unsure(table: Table, sources: Collection[str], retry_unreadable: bool) -> pa.Table:
    """frame_id and source of the unreadable rows that `prepare` would remove, or, with `retry_unreadable`,
    `forget_unreadable`; nothing is changed."""
    stopped = [run["run_id"] for run in table.runs() if not run["finished"]]
    wanted = pa.array(sorted(sources), pa.string())
    found = [_FRAMES.empty_table()]
    for path in table.row_files():
        tried_again = retry_unreadable or any(is_of(path, run_id) for run_id in stopped)
        if status_of(path) == "unreadable" and tried_again:
            ids, names = (table.column(path, name) for name in _FRAMES.names)
            rows = pa.table([ids, names], schema=_FRAMES)
            found.append(rows.filter(pc.is_in(rows["source"], value_set=wanted)))
    return pa.concat_tables(found)


def doubles(ids: np.ndarray) -> np.ndarray:
    """Those of some sorted ids that are there more than once."""
    return ids[1:][ids[1:] == ids[:-1]]


def passing(table: Table, sources: Collection[str], threshold: float) -> pa.Table:
    """frame_id and source of the rows `below_fiq` of some sources that a lower threshold lets through.

    A run with that threshold scores these frames again. Until it has, their rows stay; then, or when the next
    run finds a frame with two rows, the new row takes the old one's place.
    """
    highest = max(map(threshold_of, table.runs()), default=0.0)
    if highest <= threshold:
        return _FRAMES.empty_table()  # most tables: nothing need be read
    wanted = pa.array(sorted(sources), pa.string())
    found = [
        rows.filter(pc.is_in(rows["source"], value_set=wanted))
        for rows in table.passing(table.row_files(), threshold)
    ]
    return pa.concat_tables([_FRAMES.empty_table(), *found])


def threshold_of(run: Mapping[str, Any]) -> float:
    """The least `serfiq` that a run scored further; 1 where its record does not say."""
    return float(run.get("config", {}).get("fiq_threshold", 1.0))


def drop_replaced(table: Table, run: Run, again: np.ndarray) -> None:
    """Delete the old rows of frames (ids: int64) that have a row of this run now."""
    if not len(again):
        return
    there = table.frame_ids(table.files_of(run.run_id))
    new = np.sort(again[isin_sorted(again, there)])
    for path in table.row_files():
        if status_of(path) == "below_fiq" and not is_of(path, run.run_id):
            table.keep_rows(path, ~isin_sorted(table.column(path, "frame_id").to_numpy(), new))


def forget_unreadable(table: Table, sources: Collection[str]) -> int:
    """Take back the rows of unreadable frames of some sources, so that they are tried again; how many."""
    return _forget([path for path in table.row_files() if status_of(path) == "unreadable"], table, sources)


def drop_stragglers(table: Table, run: Run, known: Collection[str]) -> None:
    """Delete the files that are neither this run's nor `known` to `prepare`: last workers of a run that died,
    or was removed, wrote them later. This run has scored the same frames, or, where its input is another, a
    later one will."""
    with table.translate_errors():
        for path in table.row_files():
            if path not in known and not is_of(path, run.run_id):
                table.files.rm_file(path)


def _forget(files: list[str], table: Table, sources: Collection[str]) -> int:
    count = 0
    for path in files:
        keep = np.array([source not in sources for source in table.column(path, "source").to_pylist()])
        table.keep_rows(path, keep)
        count += int((~keep).sum())
    return count


def _remove_unfinished_files(table: Table) -> None:
    """Those that a killed process was writing on a local disk, as `AtomicLocalFileSystem` names them."""
    with table.translate_errors():
        for path in table.files.glob(f"{glob.escape(table.path)}/status=*/.*.parquet.*"):
            table.files.rm_file(path)


def _drop_doubles(table: Table, doubled: np.ndarray) -> None:
    """Of frames with several rows (ids: int64, sorted) the row of the latest run stays, by `runs.in_order`.
    Files without such a frame are only looked through."""
    found = list(table.places_of(doubled))
    owner: dict[int, str] = {}
    latest_last = [run["run_id"] for run in table.runs()]

    def age(place: tuple[str, np.ndarray]) -> tuple[int, str]:
        path = place[0]
        of = [position for position, run_id in enumerate(latest_last) if is_of(path, run_id)]
        return max(of, default=-1), path.rsplit("/", 1)[1]  # a compacted file is of no run: older than all

    for path, there in sorted(found, key=age):
        owner.update(dict.fromkeys(there.tolist(), path))
    for path, _ in found:
        ids = table.column(path, "frame_id").to_numpy()
        keep = ~isin_sorted(ids, doubled)
        last = {int(ids[row]): row for row in np.flatnonzero(~keep)}
        keep[[row for frame_id, row in last.items() if owner[frame_id] == path]] = True
        table.keep_rows(path, keep)
