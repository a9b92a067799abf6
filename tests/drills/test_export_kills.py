"""Exports that are killed at every call that changes a file system, and concurrent exports to one place.

`strace` kills the process at the N-th call of one kind, for every N, or for every fourth N without `--full`.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from here import write_rows
from PIL import Image

from faceq import __version__
from faceq.config import build
from faceq.stages.chosen_models import choose, comparison_record
from faceq.storage.settings import S3Settings
from faceq.table.runs import Run
from faceq.table.schema import SCHEMA, frame_id
from faceq.table.store import Table

FRAMES = 30
CALLS = ("mkdir", "rename", "unlink", "chmod", "fsync", "rmdir")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """A table of images that were not scored: exports only need the source that a row names."""
    root = tmp_path_factory.mktemp("exports")
    (root / "in").mkdir()
    rows = []
    for number in range(FRAMES):
        path = root / "in" / f"{number:05d}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        known = {"source": str(path), "frame_index": 0, "status": "no_face", "run_id": "r", "n_faces": 0}
        rows.append({**dict.fromkeys(SCHEMA.names), **known, "frame_id": frame_id(str(path), None, 0)})
    config = build({"input": ["x"], "out": str(root / "table")})
    place = Table(str(root / "table"), S3Settings())
    record = comparison_record(config, choose(config))
    place.save(Run("r", __version__, ["x"], record, config.model_dump(), "", "", state="ended"))
    write_rows(pa.Table.from_pylist(rows, SCHEMA), place, "r")
    return place.uri


def command(table: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "faceq", "query", table, *arguments]


def frames_in(folder: Path) -> Counter:
    """How often each frame occurs in the tars of an export."""
    found: Counter[int] = Counter()
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            members = {each.name: tar.extractfile(each).read() for each in tar}
        rows = [json.loads(content) for name, content in members.items() if name.endswith(".json")]
        listed = (folder / "_faceq" / f"{path.name}.ids").read_text().split()
        assert sorted(map(int, listed)) == sorted(row["frame_id"] for row in rows)
        for row in rows:
            key = f"{row['frame_id'] % 2**64:016x}"
            assert Image.open(io.BytesIO(members[f"{key}.png"])).size == (40, 40)
            found[row["frame_id"]] += 1
    return found


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("call", CALLS)
def test_an_export_killed_at_any_call_resumes(table, tmp_path, call, full):
    whole = Counter(Table(table, S3Settings()).frame_ids().tolist())
    for point in range(1, 100, 1 if full else 4):
        out = tmp_path / str(point)
        to_folder = command(table, "--export-shards", str(out))
        trace = ["strace", "-f", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={point}"]
        done = subprocess.run([*trace, *to_folder], capture_output=True, check=False)
        if not done.returncode:
            break
        assert done.returncode in (-9, 137), done.stderr
        again = subprocess.run(to_folder, capture_output=True, text=True, check=False)
        assert again.returncode == 0, (point, again.stderr)
        assert frames_in(out) == whole, point
        assert not [path.name for path in out.iterdir() if path.name.startswith(".")], point
    assert point > 1


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_three_exports_to_one_file_at_once(table, tmp_path, ending):
    out = tmp_path / f"x.{ending}"
    for _ in range(3):
        # Each export has different rows, and enough of them that the exports overlap.
        statements = [
            f"select {n} as n, i, md5(i::text) as t from range({300_000 + n}) t(i)" for n in (1, 2, 3)
        ]
        running = [
            subprocess.Popen(command(table, "--sql", each, "--export", str(out))) for each in statements
        ]
        assert [each.wait() for each in running] == [0, 0, 0]
        if ending == "parquet":
            rows = pq.read_table(out).select(["n", "i"]).to_pylist()
            found = [(row["n"], row["i"]) for row in rows]
        elif ending == "jsonl":
            found = [(row["n"], row["i"]) for row in map(json.loads, out.read_text().splitlines())]
        else:
            lines = out.read_text().splitlines()[1:]
            found = [tuple(map(int, line.split(",")[:2])) for line in lines]
        (which,) = {n for n, _ in found}
        assert sorted(i for _, i in found) == list(range(300_000 + which))
        assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_three_exports_into_one_folder_at_once(table, tmp_path):
    whole = Counter(Table(table, S3Settings()).frame_ids().tolist())
    for attempt in range(3):
        out = tmp_path / str(attempt)
        given = command(table, "--export-shards", str(out))
        running = [subprocess.Popen(given, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        said = [each.communicate()[1] for each in running]
        statuses = [each.returncode for each in running]
        assert 0 in statuses and set(statuses) <= {0, 2}, said
        assert all("another job is writing here" in text for text, s in zip(said, statuses, strict=True) if s)
        assert frames_in(out) == whole
