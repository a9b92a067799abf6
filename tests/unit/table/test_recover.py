"""Repair of the files that earlier runs left: no row is lost or duplicated."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faceq.errors import StorageError
from faceq.storage.settings import S3Settings
from faceq.table import lock, repair, store
from faceq.table.runs import Run
from faceq.table.schema import SCHEMA
from faceq.table.store import Table
from jobs.training import synthetic

OLD, NEW = "20261123T170000Z-aaaaaaaa", "20261123T180000Z-bbbbbbbb"


def save_run(table: Table, run_id: str, finished: bool) -> Run:
    end = {"finished": "2026-11-23", "state": "ended"} if finished else {"state": "running"}
    run = Run(run_id, "0", [], {}, {}, "", owner=lock.owner(), **end)
    table.save(run)
    return run


def write(table: Table, run_id: str, status: str, ids: list[int], name: str = "u-000000-0") -> str:
    rows = [
        {"frame_id": i, "source": f"/in/{i}.jpg", "frame_index": 0, "run_id": run_id, "status": status}
        for i in ids
    ]
    path = f"{table.path}/status={status}/{run_id}-{name}.parquet"
    stored = pa.Table.from_pylist(rows, schema=SCHEMA).drop_columns(["status"])
    table.files.makedirs(f"{table.path}/status={status}", exist_ok=True)
    pq.write_table(stored, path, filesystem=table.arrow_files)
    return path


def rows_of(table: Table) -> list[tuple]:
    rows = table.rows(["frame_id", "status", "run_id"]).to_pylist()
    return sorted((row["frame_id"], row["status"], row["run_id"]) for row in rows)


@pytest.fixture
def table(tmp_path) -> Table:
    return Table(str(tmp_path / "table"), S3Settings())


def test_unreadable_frames_of_a_run_without_an_end_are_not_done(table):
    save_run(table, OLD, finished=True)
    save_run(table, NEW, finished=False)
    for run in (OLD, NEW):
        base = 0 if run == OLD else 10
        write(table, run, "unreadable", [base + 1, base + 2])
        write(table, run, "scored", [base + 3])
    # This applies only to frames in the input of the new run.
    assert repair.prepare(table, {"/in/2.jpg", "/in/12.jpg"}).ids.tolist() == [1, 2, 3, 11, 13]
    assert repair.prepare(table, {f"/in/{i}.jpg" for i in range(20)}).ids.tolist() == [1, 2, 3, 13]


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_the_row_of_the_latest_run_stays(table, place, request):
    if place == "s3":
        table = Table(f"{request.getfixturevalue('s3')}/doubles", S3Settings())
    for run in (OLD, NEW):
        save_run(table, run, finished=True)
    write(table, OLD, "scored", [1, 2, 3])
    write(table, OLD, "no_face", [4])
    write(table, NEW, "scored", [2, 3, 5])
    write(table, NEW, "below_fiq", [4])
    ids = repair.prepare(table, {"/in/1.jpg"}).ids
    assert ids.tolist() == [1, 2, 3, 4, 5]
    assert rows_of(table) == [
        (1, "scored", OLD),
        (2, "scored", NEW),
        (3, "scored", NEW),
        (4, "below_fiq", NEW),
        (5, "scored", NEW),
    ]


def test_the_latest_run_is_the_one_that_held_the_table_last_whatever_its_clock(table):
    """The clock of the first run's machine was ahead, so that its id and the names of its files sort last."""
    for run_id, sequence in ((NEW, 1), (OLD, 2)):
        run = save_run(table, run_id, finished=True)
        run.sequence = sequence
        table.save(run)
        write(table, run_id, "scored", [1, sequence + 10])
    write(table, "0-compacted", "scored", [1, 20])
    assert repair.prepare(table, set()).ids.tolist() == [1, 11, 12, 20]
    assert (1, "scored", OLD) in rows_of(table)


def test_a_frame_that_is_twice_in_one_file_keeps_its_last_row(table):
    save_run(table, OLD, finished=True)
    write(table, OLD, "scored", [1, 2, 1, 3])
    write(table, OLD, "no_face", [4])
    assert repair.prepare(table, set()).ids.tolist() == [1, 2, 3, 4]
    (path,) = (path for path in table.row_files() if "scored" in path)
    assert pq.read_table(path)["frame_id"].to_pylist() == [2, 1, 3]


def test_one_duplicate_loads_no_more_than_the_ids_as_numbers(tmp_path):
    synthetic.write(tmp_path / "table", 300_000)
    table = Table(str(tmp_path / "table"), S3Settings())
    first = int(table.frame_ids()[0])
    write(table, NEW, "scored", [first])
    tracemalloc.start()
    ids = repair.prepare(table, set()).ids
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(ids) == 300_000 and ids[0] == first
    assert peak < 3 * ids.nbytes


def test_late_files_of_a_dead_run_are_deleted(table):
    save_run(table, OLD, finished=False)
    mine = save_run(table, NEW, finished=False)
    write(table, OLD, "scored", [1])
    known = repair.prepare(table, set()).files
    write(table, OLD, "scored", [2], name="late-000001-0")
    write(table, NEW, "scored", [2])
    repair.drop_stragglers(table, mine, known)
    assert rows_of(table) == [(1, "scored", OLD), (2, "scored", NEW)]


def test_late_files_of_a_removed_run_are_deleted(table):
    save_run(table, OLD, finished=False)
    write(table, OLD, "scored", [1])
    mine = save_run(table, NEW, finished=False)
    table.remove_others(mine)
    known = repair.prepare(table, set()).files
    write(table, OLD, "scored", [2], name="late-000001-0")
    write(table, NEW, "scored", [1, 2])
    repair.drop_stragglers(table, mine, known)
    assert rows_of(table) == [(1, "scored", NEW), (2, "scored", NEW)]


def test_a_file_that_appears_while_the_ids_are_read_counts_as_late(table, monkeypatch):
    save_run(table, OLD, finished=False)
    write(table, OLD, "scored", [1])
    mine = save_run(table, NEW, finished=False)
    read = Table.frames_of

    def slow(self, files, sources):
        write(table, OLD, "scored", [2], name="late-000001-0")
        return read(self, files, sources)

    monkeypatch.setattr(Table, "frames_of", slow)
    held = repair.prepare(table, set())
    assert held.ids.tolist() == [1]
    write(table, NEW, "scored", [2])
    repair.drop_stragglers(table, mine, held.files)
    assert rows_of(table) == [(1, "scored", OLD), (2, "scored", NEW)]


def test_partial_files_of_a_killed_writer_are_deleted(table):
    save_run(table, OLD, finished=True)
    path = write(table, OLD, "scored", [1])
    folder, name = path.rsplit("/", 1)
    left = Path(folder) / f".{name}.x1y2"
    left.write_bytes(b"PAR1")
    repair.prepare(table, set())
    assert not left.exists() and Path(path).exists()


def test_a_failing_rewrite_leaves_the_old_file(table, monkeypatch):
    save_run(table, OLD, finished=True)
    path = write(table, OLD, "unreadable", [1, 2, 3])

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store.pq, "write_table", full)
        with pytest.raises(StorageError, match="No space left"):
            repair.forget_unreadable(table, {"/in/2.jpg"})
    assert pq.read_table(path).num_rows == 3


def test_files_of_others_in_the_folder_do_no_harm(table):
    save_run(table, OLD, finished=True)
    write(table, OLD, "scored", [1])
    (Path(table.path) / "edc.json").write_text("[]")
    mine = save_run(table, NEW, finished=False)
    assert table.frame_ids().tolist() == [1]
    assert table.remove_others(mine) == 2
    assert (Path(table.path) / "edc.json").exists() and table.row_files() == []
    assert [run["run_id"] for run in table.runs()] == [NEW]


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path):
    table = Table(str(tmp_path / "scores[1]"), S3Settings())
    save_run(table, OLD, finished=True)
    write(table, OLD, "scored", [7])
    assert table.frame_ids().tolist() == [7] and len(table.runs()) == 1


def test_forgetting_touches_the_named_sources_only(table):
    save_run(table, OLD, finished=True)
    path = write(table, OLD, "unreadable", [1, 2, 3])
    write(table, OLD, "unreadable", [4], name="v-000000-0")
    metadata = pq.read_schema(path).metadata
    assert repair.forget_unreadable(table, {"/in/2.jpg", "/in/4.jpg"}) == 2
    assert rows_of(table) == [(1, "unreadable", OLD), (3, "unreadable", OLD)]
    assert pq.read_schema(path).metadata == metadata
    assert len(table.row_files()) == 1


def below_fiq(table: Table, run_id: str, scores: dict[int, float]) -> str:
    path = write(table, run_id, "below_fiq", list(scores))
    rows = pq.read_table(path, partitioning=None)
    index = rows.schema.get_field_index("serfiq")
    values = pa.array(list(scores.values()), pa.float32())
    pq.write_table(rows.set_column(index, rows.schema.field(index), values), path)
    return path


def with_threshold(table: Table, run_id: str, threshold: float | None) -> None:
    (record,) = (run for run in table.runs() if run["run_id"] == run_id)
    chosen = {} if threshold is None else {"fiq_threshold": threshold}
    table.put_record({**record, "config": chosen})


def test_rows_that_pass_a_lower_threshold_are_scored_again(table):
    save_run(table, OLD, finished=True)
    below_fiq(table, OLD, {1: 0.2, 2: 0.5, 3: 0.6, 4: 0.3})
    with_threshold(table, OLD, 0.7)
    every = {f"/in/{i}.jpg" for i in range(9)}

    def passing(threshold: float, sources: set[str] = every) -> list[int]:
        return sorted(repair.passing(table, sources, threshold)["frame_id"].to_pylist())

    assert passing(0.5) == [2, 3] and passing(0) == [1, 2, 3, 4]
    # Compared as in a stage: 0.3 as float32 is greater than 0.3.
    assert passing(0.3) == [2, 3, 4] and passing(0.7) == passing(0.9) == []
    assert passing(0.5, {"/in/3.jpg"}) == [3]
    with_threshold(table, OLD, None)  # the record has no threshold
    assert passing(0.5) == [2, 3]


def test_old_rows_stay_until_there_are_new_ones(table):
    """A frame has a row at any moment at which a job is killed, and exactly one after the start of the next
    run."""
    save_run(table, OLD, finished=True)
    below_fiq(table, OLD, {1: 0.5, 2: 0.6, 3: 0.1})
    with_threshold(table, OLD, 0.7)
    mine = save_run(table, NEW, finished=False)
    write(table, NEW, "scored", [1])
    write(table, NEW, "unreadable", [2])
    repair.drop_replaced(table, mine, np.array([1, 2]))
    expected = [(1, "scored", NEW), (2, "unreadable", NEW), (3, "below_fiq", OLD)]
    assert rows_of(table) == expected
    repair.drop_replaced(table, mine, np.array([1, 2]))
    assert rows_of(table) == expected


def test_after_a_kill_the_new_row_stays_unless_storage_may_be_at_fault(table):
    save_run(table, OLD, finished=True)
    below_fiq(table, OLD, {1: 0.5, 2: 0.6, 3: 0.1})
    with_threshold(table, OLD, 0.7)
    save_run(table, NEW, finished=False)
    write(table, NEW, "scored", [1])
    write(table, NEW, "unreadable", [2])
    held = repair.prepare(table, {f"/in/{i}.jpg" for i in range(4)})
    assert held.ids.tolist() == [1, 2, 3]
    assert rows_of(table) == [(1, "scored", NEW), (2, "below_fiq", OLD), (3, "below_fiq", OLD)]
    assert repair.passing(table, {"/in/1.jpg", "/in/2.jpg"}, 0.5)["frame_id"].to_pylist() == [2]
