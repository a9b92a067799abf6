"""The demo does not delete other files in its folder."""

import subprocess
import sys

import pytest

from jobs import demo


@pytest.mark.parametrize("name", demo.OUTPUTS)
def test_files_of_others_are_not_deleted(tmp_path, name):
    (tmp_path / name).write_text("mine")
    command = [sys.executable, "-m", "jobs.demo", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"{tmp_path / name}: already exists" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_files_of_an_earlier_demo_are_replaced(tmp_path):
    folder = tmp_path / "demo"
    demo.prepare_folder(folder)
    demo.write_shards(folder / "shards", iter([("a.jpg", b"a")]))
    (folder / "astronaut.jpg").write_bytes(b"a")
    (folder / "notes.txt").write_text("mine")
    demo.prepare_folder(folder)
    assert not (folder / "shards").exists() and not (folder / "astronaut.jpg").exists()
    assert (folder / "notes.txt").read_text() == "mine"
