"""What a table records about its runs."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from here import write_as_before
from ray.data.datasource.path_util import _resolve_paths_and_filesystem

from faceq import config
from faceq.errors import UsageError
from faceq.stages.chosen_models import choose, comparison_record
from faceq.storage.filesystem import filesystem
from faceq.storage.settings import S3Settings
from faceq.table.runs import Run
from faceq.table.schema import record_of, schema_with
from faceq.table.store import QUANTILES, Table, status_of
from jobs.training import synthetic

_READ_WITH_SLOW_FILES = """
import sys, time
import s3fs
import faceq
from faceq.storage.local_files import AtomicLocalFileSystem
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

class Slow:
    def __init__(self, file): self._file = file
    def __getattr__(self, name): return getattr(self._file, name)
    def __enter__(self): return self
    def __exit__(self, *error): self._file.close()
    def __del__(self): time.sleep(0.5)

for kind in (AtomicLocalFileSystem, s3fs.S3FileSystem):
    kind._open = lambda *given, _open=kind._open, **options: Slow(_open(*given, **options))
print(len(faceq.read_table(sys.argv[1], columns=["dbcnn"])))
print(len(Table(sys.argv[1], S3Settings()).rows(["dbcnn"])))
"""
"""A program that reads a table and whose files are closed late."""


RUN = {"run_id": "1", "version": "0", "input": [], "config": {}, "finished": "now"}
"""The keys of each record besides the settings."""


class _Watched:
    """A file that records which threads use it."""

    threads: ClassVar[set[threading.Thread]] = set()

    def __init__(self, file: Any):
        self._file = file

    def __getattr__(self, name: str) -> Any:
        self.threads.add(threading.current_thread())
        return getattr(self._file, name)

    def __enter__(self) -> "_Watched":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __del__(self) -> None:
        self.threads.add(threading.current_thread())


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Table:
    folder = Path(tmp_path_factory.mktemp("runs")) / "table"
    synthetic.write(folder, 20_000, rows_per_group=1_000)  # one thread reads a single row group
    return Table(str(folder), S3Settings())


@pytest.fixture(params=["disk", "s3"])
def copied(table, request, tmp_path) -> Table:
    """Copies of the table on both kinds of storage."""
    where = str(tmp_path) if request.param == "disk" else f"{request.getfixturevalue('s3')}/runs"
    filesystem(where, S3Settings()).put(f"{table.uri}/", f"{where}/", recursive=True)
    return Table(where, S3Settings())


def test_counts_and_quantiles_are_those_of_the_rows(table):
    run_id = table.record()["run_id"]
    counts, quantiles = table.counts_and_quantiles(run_id)
    rows = table.rows(["status", "serfiq", "dbcnn"]).to_pydict()
    assert counts == {status: rows["status"].count(status) for status in counts}
    assert sum(counts.values()) == 20_000
    for name, width in (("serfiq", 1e-4), ("dbcnn", 1e-2)):
        exact = np.quantile([value for value in rows[name] if value is not None], QUANTILES)
        assert quantiles[name] == pytest.approx(exact, abs=2 * width)


def test_a_program_that_has_read_a_table_exits_cleanly(copied):
    command = [sys.executable, "-c", _READ_WITH_SLOW_FILES, copied.uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "20000\n20000\n"), done.stderr


def test_only_threads_of_python_use_a_tables_files(copied, monkeypatch):
    """Arrow's threads keep files beyond the end of the call, and of Python."""
    files = type(copied.files)
    opened = files._open
    monkeypatch.setattr(files, "_open", lambda *given, **options: _Watched(opened(*given, **options)))
    monkeypatch.setattr(_Watched, "threads", set())
    ids = copied.frame_ids()
    assert len(copied.rows(["landmarks", "status"])) == len(ids) == 20_000
    assert sum(len(found) for _, found in copied.places_of(ids[:500])) == 500
    assert sum(copied.counts_and_quantiles("synthetic")[0].values()) == 20_000
    (path,) = (path for path in copied.row_files() if status_of(path) == "no_face")
    copied.keep_rows(path, np.arange(len(copied.column(path, "frame_id"))) > 0)
    assert len(copied.frame_ids()) == 19_999
    kinds = {type(thread).__name__ for thread in _Watched.threads}
    assert kinds and "_DummyThread" not in kinds  # Python's name for a thread that it did not start


def test_a_file_of_an_older_version_is_rewritten_with_current_types(table, tmp_path):
    filesystem(str(tmp_path), S3Settings()).put(f"{table.uri}/", f"{tmp_path}/", recursive=True)
    old = Table(str(tmp_path), S3Settings())
    for path in old.row_files():
        write_as_before(path)
        before = pq.read_table(path, partitioning=None)
        old.keep_rows(path, np.arange(len(before)) > 0)
        after = pq.ParquetFile(path)
        assert after.schema_arrow.field("landmarks").type == pa.list_(pa.float32())
        assert after.read().to_pylist() == before[1:].to_pylist()
        assert after.schema_arrow.metadata == before.schema.metadata


@pytest.mark.parametrize(
    "name", ["a?", "a;", "a\nb", "a\tb", "a;/b?", "a?b", "a;b", "a b%20#:=&ü", "a#", "a:b"]
)
def test_a_place_is_refused_if_ray_would_write_to_another_one(tmp_path, name):
    table = Table(str(tmp_path / name), S3Settings())
    (place,), _ = _resolve_paths_and_filesystem(table.path, table.arrow_files)
    if place == table.path:
        table.check(None)
    else:
        with pytest.raises(UsageError, match=f"rows would go to {re.escape(repr(place))}") as refused:
            table.check(None)
        assert "\n" not in str(refused.value)


def test_the_footer_holds_the_settings_but_not_the_list_of_inputs():
    inputs = [f"/in/{number}.jpg" for number in range(20_000)]
    settings = config.build({"input": inputs, "manifest": inputs, "out": "/out", "min_face": 64})
    run = Run("1", "0", inputs, comparison_record(settings, choose(settings)), settings.model_dump(), "")
    footer = record_of(schema_with(run.footer()))
    assert footer["config"]["min_face"] == 64 and footer["models"] == run.record["models"]
    assert len(json.dumps(footer)) < 10_000
    assert run.as_json()["config"] == settings.model_dump() and run.as_json()["input"] == inputs


def test_a_run_without_rows_has_none_and_no_quantiles(table):
    counts, quantiles = table.counts_and_quantiles("of-nobody")
    assert set(counts.values()) == {0} and quantiles == {}


def test_the_refusal_names_the_models_that_differ(tmp_path):
    table = Table(str(tmp_path), S3Settings())
    settings = config.build({"input": "in", "out": "out"})
    mine = comparison_record(settings, choose(settings))
    other = {**mine["models"], "sface": {**mine["models"]["sface"], "sha256": "0" * 64}}
    table.put_record({**mine, "models": other, **RUN})
    with pytest.raises(UsageError, match=r"\(models\.sface\.sha256 was \"0+") as refused:
        table.check(mine)
    assert "licence" not in str(refused.value) and "yunet" not in str(refused.value)


def test_a_table_of_an_older_faceq_is_refused_because_face_finding_changed(tmp_path):
    """Its record does not have `face_finding`, and its settings are the same."""
    table = Table(str(tmp_path), S3Settings())
    settings = config.build({"input": "in", "out": "out"})
    mine = comparison_record(settings, choose(settings))
    old = {key: value for key, value in mine.items() if key != "face_finding"}
    table.put_record({**old, **RUN})
    with pytest.raises(
        UsageError, match=r"of an older faceq, .*differently .face_finding was 1, is now 3"
    ) as no:
        table.check(mine)
    assert "--overwrite" in str(no.value) and "\n" not in str(no.value)
    table.check(None)
    table.put_record({**mine, **RUN})
    table.check(mine)
    table.put_record({**mine, "face_finding": 4, **RUN})
    with pytest.raises(UsageError, match="of a newer faceq"):
        table.check(mine)
