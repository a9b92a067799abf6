"""README's tour, command by command, each in a process of its own."""

import pytest
from documents import blocks, commands, demo_folder, run


@pytest.mark.timeout(900)
def test_the_readmes_tour(tmp_path):
    place = demo_folder(tmp_path)
    (tour,) = blocks("README.md", "", after="## A tour")[:1]
    lines = commands(tour)
    assert [line.split()[1] for line in lines] == ["score", "query", "report", "query", "query", "inspect"]
    for line in lines:
        assert run(line, place)
    assert (place / "demo" / "report.html").stat().st_size > 100_000
    assert (place / "demo" / "good.parquet").exists()
    assert list((place / "demo" / "good-frames").glob("*.tar"))
    assert (place / "demo" / "look.png").exists()
