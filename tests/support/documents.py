"""What README and the pages of docs/ tell people to run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from here import score_here
from places import ROOT

from jobs import demo


def blocks(path: str, language: str, after: str = "") -> list[str]:
    """The fenced blocks of a language in a page, those after a heading."""
    text = (ROOT / path).read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text[text.index(after) :], re.DOTALL | re.MULTILINE)
    return [content for found, content in fenced if found == language]


def commands(block: str) -> list[str]:
    """The commands of a block, `make demo` and comments apart."""
    return [line for line in block.splitlines() if line.startswith("faceq ")]


def demo_folder(place: Path) -> Path:
    """A folder in which `make demo` has been, as far as the pages need it."""
    faces = demo.source_faces()
    demo.write_shards(place / "demo" / "shards", demo.frames(faces))
    (place / "demo" / "astronaut.jpg").write_bytes(demo._jpeg(faces["astronaut"]))
    score_here(str(place / "demo" / "shards"), str(place / "demo" / "table"), fiq_threshold=0)
    shutil.copytree(place / "demo" / "table", place / "scores")  # as a table of their own is called
    return place


def run(command: list[str] | str, place: Path) -> str:
    """Run it there, with this environment's `faceq`; returns what it printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command,
        cwd=place,
        env=environment,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    return done.stdout
