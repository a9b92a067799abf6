"""What earlier runs left in a table, put right before and after a new one.

A run that was killed may leave three things: frames that it called unreadable while the storage was
failing; files that its last workers write when it is already gone; and, where those hold frames that a
later run has scored too, doubles. Every step here deletes or replaces whole files, so a reader never
meets half of one, and can be interrupted and done again.
"""

from collections.abc import Collection

import numpy as np
import pyarrow.parquet as pq

from faceq.runs import Run, Table


def prepare(table: Table, run: Run) -> np.ndarray:
    """Put right what is there; ids (int64, sorted) of the frames that are done.

    A frame that a run without an end called unreadable is not done: it may have been the storage.
    """
    ended = {other["run_id"] for other in table.runs() if other["finished"]}
    for path in table.row_files():
        if _is_unreadable(path) and _run_of(path) not in ended:
            table.files.rm_file(path)
    ids = table.frame_ids()
    if (ids[1:] == ids[:-1]).any():
        _drop_doubles(table, set(ids[1:][ids[1:] == ids[:-1]].tolist()))
        ids = table.frame_ids()
    return ids


def forget_unreadable(table: Table, sources: Collection[str]) -> int:
    """Take back the rows of unreadable frames of some sources, so that they are tried again; how many."""
    count = 0
    for path in table.row_files():
        if _is_unreadable(path):
            source = pq.read_table(path, columns=["source"], filesystem=table.arrow_files, partitioning=None)
            keep = np.array([name not in sources for name in source["source"].to_pylist()])
            table.keep_rows(path, keep)
            count += int((~keep).sum())
    return count


def drop_stragglers(table: Table, run: Run, before: Collection[str]) -> None:
    """Delete files that came since `before` and are not this run's: an earlier run's last workers wrote
    them after `prepare` had looked, and this run has scored the same frames."""
    for path in table.row_files():
        if path not in before and _run_of(path) != run.run_id:
            table.files.rm_file(path)


def _drop_doubles(table: Table, doubled: set[int]) -> None:
    """Of frames with several rows the row of the latest run stays; the run's id begins with its time."""
    owner: dict[int, str] = {}
    files = {}
    for path in table.row_files():
        ids = pq.read_table(path, columns=["frame_id"], filesystem=table.arrow_files, partitioning=None)
        files[path] = ids["frame_id"].to_pylist()
        for frame_id in doubled.intersection(files[path]):
            if frame_id not in owner or _run_of(path) >= _run_of(owner[frame_id]):
                owner[frame_id] = path
    for path, ids in files.items():
        last = {frame_id: row for row, frame_id in enumerate(ids)}
        keep = [
            owner.get(frame_id, path) == path and last[frame_id] == row for row, frame_id in enumerate(ids)
        ]
        table.keep_rows(path, np.array(keep))


def _is_unreadable(path: str) -> bool:
    return path.rsplit("/", 2)[1] == "status=unreadable"


def _run_of(path: str) -> str:
    """The run that wrote a file: its id, like 20261123T174501Z-1a2b3c4d, begins the file's name."""
    return "-".join(path.rsplit("/", 1)[1].split("-", 2)[:2])
