"""The wheel contains everything that a job needs outside the clone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import insightface
import pytest

import faceq

ROOT = Path(__file__).parents[2]
PICTURES = Path(insightface.__file__).parent / "data" / "images"


def _run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(600)
def test_the_wheel_scores_images_outside_the_clone(tmp_path):
    python, dist, there = sys.executable, tmp_path / "dist", tmp_path / "installed"
    _run(python, "-m", "build", "--outdir", dist, ROOT)
    (wheel,) = dist.glob("*.whl")
    _run(python, "-m", "twine", "check", "--strict", *dist.iterdir())
    # It uses the dependencies of this Python. deptry checks that pyproject.toml declares them.
    _run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", there, wheel)
    assert {path.name for path in there.iterdir()} == {"faceq", "bin", f"faceq-{faceq.__version__}.dist-info"}
    away = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(there)}}
    found = _run(python, "-c", "import faceq; print(faceq.__file__)", **away)
    assert Path(found.strip()).is_relative_to(there)
    _run(python, "-m", "faceq", "score", PICTURES, "--out", "table", **away)
    rows = faceq.read_table(str(tmp_path / "table"))
    assert rows.num_rows == len(list(PICTURES.iterdir()))
    assert sum(status == "scored" for status in rows["status"].to_pylist()) >= 2
