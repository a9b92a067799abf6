"""What `make demo` leaves, made once for the pages, the examples and the notebook."""

import sys
from pathlib import Path

import pytest
from documents import Outcome, copy_of, run
from places import ROOT


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Outcome]:
    """A folder in which `make demo` has been, a copy of it that nobody changes, and what was printed.

    `jobs/` and `examples/` are there as well, as in a clone.
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
    """A folder as `make demo` leaves it, always the same one, since the table names its sources by their
    absolute paths; and what `make demo` printed."""
    folder, kept, outcome = made
    copy_of(kept, folder)
    return folder, outcome
