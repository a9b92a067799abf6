"""Check that old and new versions of other programs read the same values from a result table and its export.

    python -m jobs.benchmarks.check_readers TABLE [WORD…]

For each line of CASES (that contains a WORD, if you give any), this creates a virtual environment and
installs the reader there. It prints a table. It takes a few minutes, and a few gigabytes in a temporary
folder that is deleted at the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import faceq
from faceq.query.export import export
from faceq.query.rows import Rows
from faceq.storage.settings import S3Settings
from jobs.benchmarks import readers

CASES = (
    ("pyarrow", "pyarrow==17.0.0", "numpy<2"),
    ("pyarrow", "pyarrow==20.0.0"),
    ("pyarrow", "pyarrow==25.0.0"),
    ("pyarrow", "pyarrow"),
    ("pandas", "pandas==2.2.3", "pyarrow==17.0.0", "numpy<2"),
    ("pandas", "pandas", "pyarrow"),
    ("polars", "polars==1.10.0"),
    ("polars", "polars"),
    ("duckdb", "duckdb==1.1.0"),
    ("duckdb", "duckdb==1.5.0"),
    ("duckdb", "duckdb"),
    ("fastparquet", "fastparquet==2024.2.0", "pandas<3", "numpy<2"),
    ("fastparquet", "fastparquet"),
    ("datasets", "datasets==2.20.0", "pyarrow==17.0.0", "numpy<2"),
    ("datasets", "datasets==3.0.0", "pyarrow==17.0.0", "numpy<2"),
    ("datasets", "datasets"),
)
"""Readers and the packages to install: the oldest supported or common versions, and the newest."""


def main() -> int:
    """Check and print; 1 if a reader fails or finds another value."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="a local result table, ideally with rows of every status")
    parser.add_argument("words", nargs="*", help="run only the cases that contain one of these")
    options = parser.parse_args()
    expected = by_id(faceq.read_table(options.table).to_pylist())
    failed = False
    print("| reader | installed | table | export |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        exported = os.path.join(folder, "export.parquet")
        with Rows(options.table, S3Settings()) as rows:
            export(rows, rows.chosen(), exported, S3Settings())
        for number, (reader, *wanted) in enumerate(CASES):
            case = f"{reader} {' '.join(wanted)}"
            if options.words and not any(word in case for word in options.words):
                continue
            python = _environment(Path(folder, str(number)), wanted)
            found = [_outcome(python, reader, path, expected) for path in (options.table, exported)]
            failed = failed or found != ["equal", "equal"]
            print(f"| {reader} | {_versions(python, wanted)} | {' | '.join(found)} |", flush=True)
    return int(failed)


def by_id(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Rows of a reader by `frame_id`, with values that can be compared."""
    plain = [{name: readers.plain(value) for name, value in row.items()} for row in rows]
    return {row["frame_id"]: row for row in plain}


def _environment(folder: Path, wanted: list[str]) -> str:
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *wanted], check=True, stderr=subprocess.DEVNULL
    )
    return python


def _versions(python: str, wanted: list[str]) -> str:
    names = [requirement.split("=")[0].split("<")[0] for requirement in wanted]
    script = (
        "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    )
    done = subprocess.run([python, "-c", script, *names], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _outcome(python: str, reader: str, path: str, expected: dict[int, dict[str, Any]]) -> str:
    command = [python, readers.__file__, reader, path]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return f"fails: {said[-1][:100]}"
    found = by_id([json.loads(line) for line in done.stdout.splitlines()])
    if found.keys() != expected.keys():
        return f"{len(found)} of {len(expected)} frames"
    differ = {name for key, row in expected.items() for name in row if found[key].get(name) != row[name]}
    return f"differs in {', '.join(sorted(differ))}" if differ else "equal"


if __name__ == "__main__":
    sys.exit(main())
