"""The files of `make demo`, created once for the pages, the examples and the notebook."""

import sys
from pathlib import Path

import pytest
from documents import Outcome, copy_of, run
from places import ROOT


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Outcome]:
    """A folder with the files of `make demo`, an unchanged copy of it, and the output of `make demo`.

    The folder also has `jobs/` and `examples/`, as in a clone.
    """
    folder, kept = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("kept") / "clone"
    outcome = run([sys.executable, "-m", "jobs.demo", "demo"], folder)
    assert outcome.status == 0, outcome.printed[-3000:]
    for name in ("examples", "jobs"):
        (folder / name).symlink_to(ROOT / name)
    copy_of(folder, kept)
    return folder, kept, outcome


@pytest.fixture
def after_make_demo(made: tuple[Path, Path, Outcome]) -> tuple[Path, Outcome]:
    """A folder with the files of `make demo`, and its output. It is always the same folder, because the table
    has the absolute paths of its sources."""
    folder, kept, outcome = made
    copy_of(kept, folder)
    return folder, outcome
