"""README's tour, command by command, and the pages' example of Ray Data, each in a process of its own."""

import sys
from pathlib import Path

import pytest
from documents import blocks, commands, demo_folder, run


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return demo_folder(tmp_path_factory.mktemp("pages"))


@pytest.mark.timeout(900)
def test_the_readmes_tour(place):
    (tour,) = blocks("README.md", "", after="## A tour")[:1]
    lines = commands(tour)
    assert [line.split()[1] for line in lines] == ["score", "query", "report", "query", "query", "inspect"]
    for line in lines:
        assert run(line, place)
    assert (place / "demo" / "report.html").stat().st_size > 100_000
    assert (place / "demo" / "good.parquet").exists()
    assert list((place / "demo" / "good-frames").glob("*.tar"))
    assert (place / "demo" / "look.png").exists()


def test_the_example_of_ray_data(place, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    (script,) = [script for script in blocks("docs/how-to/training.md", "python") if "import ray" in script]
    assert run([sys.executable, "-c", script], place).strip()
