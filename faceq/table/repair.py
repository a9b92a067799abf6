"""Repair what interrupted runs left in a table, before and after a new run.

A killed run may leave: frames recorded as unreadable only because the storage was failing; files that its
last workers write after the run is gone; frames with two rows, if a later run scored the frames of such files
again; and, on local disks, unfinished files. Every step in this module deletes or replaces whole files, can
be interrupted, and can be repeated.
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
from faceq.table.store import WITH_FACES, Table, Tallies, is_of, status_of

_FRAMES = pa.schema([SCHEMA.field("frame_id"), SCHEMA.field("source")])


@dataclass(frozen=True)
class TableContents:
    """The contents of a table.

    ids: (N,) int64, sorted, the ids of all frames that have a row. files: the files that contain the rows.
    tallies: the tallies of the requested sources.
    """

    ids: np.ndarray
    files: set[str]
    tallies: Tallies


def prepare(table: Table, sources: Collection[str], counted: Collection[str] = ()) -> TableContents:
    """Repair a table before a new run, and return its contents.

    If a run did not finish, its `unreadable` rows of `sources` are deleted, because the cause may have been
    the storage. The new run then reads these frames again.

    Args:
        table: the table.
        sources: the sources of the new run.
        counted: the sources for which to return tallies.
    """
    unfinished = [run["run_id"] for run in table.runs() if not run["finished"]]
    for run_id in unfinished:
        suspect = [path for path in table.files_of(run_id) if status_of(path) == "unreadable"]
        _delete_rows(suspect, table, sources)
    _remove_unfinished_files(table)
    found = contents(table, counted)
    repeated = doubles(found.ids)
    if len(repeated):
        _drop_doubles(table, repeated)
        found = contents(table, counted)
    return found


def contents(table: Table, counted: Collection[str] = ()) -> TableContents:
    """The contents of the table, as `prepare` returns them. Changes nothing."""
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
    """The ids that occur more than once in a sorted array."""
    return ids[1:][ids[1:] == ids[:-1]]


def passing(table: Table, sources: Collection[str], threshold: float) -> pa.Table:
    """frame_id and source of the `below_fiq` rows of some sources that pass a lower threshold, and of rows
    with such a face among several.

    A run with that threshold scores these frames again. Their old rows stay until the new rows are written;
    then the old rows are deleted. If the run is interrupted, the next run deletes them.
    """
    highest = max(map(threshold_of, table.runs()), default=0.0)
    if highest <= threshold:
        return _FRAMES.empty_table()  # the usual case: no file has to be read
    wanted = pa.array(sorted(sources), pa.string())
    in_lists = any(run.get("faces") == "all" for run in table.runs())
    found = [
        rows.filter(pc.is_in(rows["source"], value_set=wanted))
        for rows in table.passing(table.row_files(), threshold, in_lists)
    ]
    rows = pa.concat_tables([_FRAMES.empty_table(), *found])
    return rows.group_by(_FRAMES.names).aggregate([]).cast(_FRAMES)


def threshold_of(run: Mapping[str, Any]) -> float:
    """The `fiq_threshold` of a run; 1 if its record does not contain it."""
    return float(run.get("config", {}).get("fiq_threshold", 1.0))


def drop_replaced(table: Table, run: Run, again: np.ndarray) -> None:
    """Delete the old rows of frames (`again`: ids, int64) that now have a row of this run."""
    if not len(again):
        return
    written = table.frame_ids(table.files_of(run.run_id))
    new = np.sort(again[isin_sorted(again, written)])
    statuses = WITH_FACES if run.record.get("faces") == "all" else ("below_fiq",)
    for path in table.row_files():
        if status_of(path) in statuses and not is_of(path, run.run_id):
            table.keep_rows(path, ~isin_sorted(table.column(path, "frame_id").to_numpy(), new))


def forget_unreadable(table: Table, sources: Collection[str]) -> int:
    """Delete the `unreadable` rows of some sources, so that these frames are read again. Returns the number
    of deleted rows."""
    unreadable = [path for path in table.row_files() if status_of(path) == "unreadable"]
    return _delete_rows(unreadable, table, sources)


def drop_stragglers(table: Table, run: Run, known: Collection[str]) -> None:
    """Delete row files that are neither from this run nor `known` to `prepare`. The last workers of a run
    that died or was removed wrote them later. This run has scored the same frames, or, if its input is
    different, a later run will."""
    with table.translate_errors():
        for path in table.row_files():
            if path not in known and not is_of(path, run.run_id):
                table.files.rm_file(path)


def _delete_rows(files: list[str], table: Table, sources: Collection[str]) -> int:
    """Delete the rows of some sources from some files. Returns the number of deleted rows."""
    count = 0
    for path in files:
        keep = np.array([source not in sources for source in table.column(path, "source").to_pylist()])
        table.keep_rows(path, keep)
        count += int((~keep).sum())
    return count


def _remove_unfinished_files(table: Table) -> None:
    """Delete the temporary files of `AtomicLocalFileSystem` that a killed process left on a local disk."""
    with table.translate_errors():
        for path in table.files.glob(f"{glob.escape(table.path)}/status=*/.*.parquet.*"):
            table.files.rm_file(path)


def _drop_doubles(table: Table, repeated: np.ndarray) -> None:
    """Keep only the row of the latest run, by `runs.in_order`, of frames with several rows (`repeated`: ids,
    int64, sorted). Files without such a frame are read but not rewritten."""
    found = list(table.places_of(repeated))
    owner: dict[int, str] = {}
    oldest_first = [run["run_id"] for run in table.runs()]

    def age(place: tuple[str, np.ndarray]) -> tuple[int, str]:
        path = place[0]
        positions = [position for position, run_id in enumerate(oldest_first) if is_of(path, run_id)]
        # A compacted file belongs to no run: it counts as older than all runs.
        return max(positions, default=-1), path.rsplit("/", 1)[1]

    for path, frame_ids in sorted(found, key=age):
        owner.update(dict.fromkeys(frame_ids.tolist(), path))
    for path, _ in found:
        ids = table.column(path, "frame_id").to_numpy()
        keep = ~isin_sorted(ids, repeated)
        last = {int(ids[row]): row for row in np.flatnonzero(~keep)}
        keep[[row for frame_id, row in last.items() if owner[frame_id] == path]] = True
        table.keep_rows(path, keep)
