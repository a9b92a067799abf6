"""What README and the pages tell people to run, run as it is written, on the demo's shards; and what they
list is what there is."""

import contextlib
import doctest
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from documents import blocks, commands, demo_folder, run
from here import score_here
from PIL import Image
from places import ROOT

import faceq
from faceq.cli import main
from faceq.job import progress
from faceq.query import rows
from faceq.sources.decode import image
from faceq.stages import scorer
from jobs import demo

PYTHON = [script for script in blocks("docs/how-to/training.md", "python") if "import ray" not in script]
"""Ray Data reads in its own processes: `tests/drills/test_pages_programs.py`."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder in which `make demo` has been, as far as these pages need it."""
    return demo_folder(tmp_path_factory.mktemp("docs"))


@pytest.fixture
def faceq_here(place, monkeypatch, capsys):
    """Runs a `faceq` command of a page in that folder, in this process; gives what it prints."""
    monkeypatch.chdir(place)

    def run_here(line: str) -> str:
        capsys.readouterr()
        name, *arguments = shlex.split(line, comments=True)
        assert name == "faceq" and main.main(arguments) == 0, line
        return capsys.readouterr().out

    return run_here


def python_here(place: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run lines of Python in that folder, in this process, as a program; gives what it prints."""
    (place / "example.py").write_text(script, encoding="utf-8")
    monkeypatch.chdir(place)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path("example.py", run_name="__main__")
    return printed.getvalue()


QUICK = ("compact", "plan", "evaluate calibrate", "models list", "models pull", "models verify")
"""README's commands besides the tour that take seconds, on a table called `scores/`."""


@pytest.mark.parametrize("command", QUICK)
def test_the_readmes_other_commands(faceq_here, command):
    lines = [line for block in blocks("README.md", "") for line in commands(block) if "--preset" not in line]
    (line,) = [line for line in lines if f"{line} ".startswith(f"faceq {command} ")]
    assert faceq_here(line)


def test_the_readmes_lines_of_python(place, astronaut, monkeypatch):
    (script,) = blocks("README.md", "python")
    for name in ("a.jpg", "b.png"):
        Image.fromarray(astronaut).save(place / name)
    printed = python_here(place, f"{script}\nprint(table['status'].to_pylist())", monkeypatch)
    assert printed.splitlines()[-1] == "['scored', 'scored']"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (read,) = re.findall(r"`(faceq\.read_table\(.*?\))`", text, re.DOTALL)
    script = f"import faceq; print({' '.join(read.split())}.num_rows)"
    assert int(python_here(place, script, monkeypatch)) > 0


def test_the_readme_names_the_picture_formats_that_are_read():
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (named,) = re.findall(r"pictures \((JPEG.*?)\)", text)
    assert tuple(named.upper().split(", ")) == image.FORMATS


def test_the_share_that_a_filter_discards_of_each_source(place, faceq_here):
    (command,) = blocks("docs/explanation/serfiq.md", "shell", after="## Bias")
    printed = faceq_here(command)
    rows = [line.split() for line in printed.splitlines() if ".tar" in line]
    shards = sorted((place / "demo" / "shards").glob("*.tar"))
    assert sorted(row[0] for row in rows) == [str(shard) for shard in shards]
    scores = faceq.read_table(str(place / "scores"), "serfiq is not null", ["serfiq"])["serfiq"].to_numpy()
    assert sum(int(row[1]) for row in rows) == len(scores)
    below = sum(int(row[1]) * float(row[2]) for row in rows)
    assert below == pytest.approx((scores < 0.6).sum(), abs=1) and 0 < below < len(scores)


def test_the_pages_commands(faceq_here):
    lines = [line for block in blocks("docs/how-to/training.md", "") for line in commands(block)]
    assert len(lines) >= 8
    for line in lines:
        assert faceq_here(line)


@pytest.mark.parametrize("number", range(len(PYTHON)), ids=lambda number: PYTHON[number].split("\n", 1)[0])
def test_the_pages_lines_of_python(place, number, faceq_here, monkeypatch):
    """Each prints some frames; what reads `demo/good` comes after the command that makes it."""
    if "demo/good" in PYTHON[number]:
        (export,) = [
            c for b in blocks("docs/how-to/training.md", "") for c in commands(b) if "demo/good" in c
        ]
        faceq_here(export)
    assert python_here(place, PYTHON[number], monkeypatch).strip()


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory) -> tuple[Path, list[str]]:
    """A folder with a table of two shards, whose members have other endings than `.jpg` and dots inside; the
    members' names."""
    place = tmp_path_factory.mktemp("odd")
    picture = demo.source_faces()["astronaut"]
    jpeg, png = demo._jpeg(picture), io.BytesIO()
    Image.fromarray(picture).save(png, format="PNG")
    members = {"a.0001.jpg": jpeg, "a.0002.jpg": jpeg, "b.png": png.getvalue(), "C.JPG": jpeg}
    demo.write_shards(place / "demo" / "shards", iter(members.items()), each=2)
    score_here(str(place / "demo" / "shards"), str(place / "demo" / "table"), fiq_threshold=0)
    return place, sorted(members)


def example(title: str) -> str:
    """The first lines of Python under a heading of the page."""
    return blocks("docs/how-to/training.md", "python", after=f"## {title}\n")[0]


def test_the_webdataset_example_finds_members_by_their_whole_names(odd_names, monkeypatch):
    place, members = odd_names
    lines = python_here(place, example("webdataset"), monkeypatch).splitlines()
    assert sorted(line.split()[0].lower() for line in lines) == sorted(name.lower() for name in members)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_pytorch_example_gives_each_frame_once_whatever_the_workers(odd_names, workers):
    place, members = odd_names
    lines = example("PyTorch").replace("DataLoader(frames, ", f"DataLoader(frames, num_workers={workers}, ")
    assert f"num_workers={workers}" in lines
    (place / "torch_example.py").write_text(lines, encoding="utf-8")
    printed = run([sys.executable, "torch_example.py"], place)
    assert sorted(re.findall(r"'([^']+)'", printed)) == members


@pytest.mark.parametrize("module", [rows, scorer])
def test_examples_in_docstrings(place, monkeypatch, module):
    monkeypatch.chdir(place)
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


def test_the_line_in_the_log_is_as_the_page_shows_it():
    line = progress.Progress(120, 4000, 12_800, 3, 9120, 412.0, 48.0, 2.0)
    assert f"faceq: {line}" in " ".join(
        (ROOT / "docs" / "how-to" / "cluster.md").read_text(encoding="utf-8").split()
    )
    assert str(progress.Progress(0, 1, 0, 0, 0, 0.0, 2.0)).endswith("on 2 CPUs")
