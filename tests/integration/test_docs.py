"""Fast checks of pages and docstrings. `tests/drills/test_pages.py` runs the pages."""

import doctest
import re
from pathlib import Path

import pytest
from documents import PAGES, problems
from here import score_here
from places import ROOT

from faceq.job import progress
from faceq.query import rows
from faceq.sources.decode import image
from faceq.stages import scorer
from jobs import demo

TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_is_run_by_the_drills_or_says_why_not(page):
    assert not problems(TEXTS[page]), "\n".join(f"{page}: {problem}" for problem in problems(TEXTS[page]))


def test_the_page_of_formats_lists_the_image_formats_that_are_read():
    section = TEXTS["docs/reference/formats.md"].split("\n## Images\n")[1].split("\n\n")[0]
    named = re.findall(r"^\| ([\w ]+) \| `\.", section, re.MULTILINE)
    by_themselves = ("AVIF", "JPEG 2000", "HEIC", "JPEG XL")  # not by one of Pillow's decoders without checks
    assert tuple(name if name in by_themselves else name.upper() for name in named) == (
        *image.FORMATS,
        *by_themselves,
    )


@pytest.mark.parametrize("module", [rows, scorer])
def test_examples_in_docstrings(tmp_path: Path, monkeypatch, module):
    monkeypatch.chdir(tmp_path)
    face = demo.source_faces()["astronaut"]
    demo.write_shards(tmp_path / "demo" / "shards", iter([("a.jpg", demo._jpeg(face))]))
    score_here(str(tmp_path / "demo" / "shards"), str(tmp_path / "demo" / "table"), fiq_threshold=0)
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


def test_a_page_shows_the_line_of_the_log_unchanged():
    counts = {"scored": 7500, "below_fiq": 900, "face_too_small": 117, "no_face": 600, "unreadable": 3}
    line = progress.Progress(120, 4000, 12_800, 3, 9120, 412.0, 48.0, 2.0, written=8000, statuses=counts)
    assert any(f"faceq: {line}" in " ".join(text.split()) for text in TEXTS.values())
