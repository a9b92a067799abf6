"""The page of all settings, which is written from their descriptions."""

import argparse
import re

from faceq import config
from faceq.cli import score
from jobs import settings_page


def test_the_page_is_up_to_date():
    text = settings_page.PAGE.read_text(encoding="utf-8")
    assert text == settings_page.page(), "stale: run python -m jobs.settings_page"


def test_it_has_types_defaults_flags_and_descriptions():
    page = settings_page.page()
    for row in (
        "| `fiq_threshold` | number, ≥ 0, ≤ 1 | `0.5` | `--fiq-threshold` | Minimum `serfiq` of a face that ",
        "| `input` | list of strings | none | `INPUT` | ",
        "| `recogniser` | string | none | `--recogniser` | ",
        "| `fps` | number, > 0 | none | `--fps` | ",
        "| `device` | `auto`, `cpu`, `cuda` | `auto` |  | ",
        "| `calibration` | section | none; [keys](#calibration) |  | ",
        "| `slope` | number, > 0 | required |  | ",
        "| `mini_batch` | integer, ≥ 1 | `8` |  | Not for `find_face`. ",
        "| `det_threshold` | `0.6` | `0.5` | `0.5` |",
    ):
        assert f"\n{row}" in page


def test_no_column_of_a_table_is_broken_by_its_content():
    for line in settings_page.page().splitlines():
        if line.startswith("|"):
            assert line.count("|") in {5, 6} and line.endswith("|"), line


def test_it_has_each_flag_of_the_command_line_that_sets_a_setting():
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    others = {"help", "config", "set", "overwrite", "retry_unreadable"}
    wanted = [action for action in parser._actions if action.dest not in others]
    flags = re.findall(r"^\| `\w+` \| .* \| .* \| `(--[\w-]+|INPUT)` \|", settings_page.page(), re.MULTILINE)
    assert sorted(flags) == sorted(a.option_strings[0] if a.option_strings else a.metavar for a in wanted)


def test_find_face_has_the_keys_and_defaults_of_the_pools_but_for_mini_batches():
    """The page has one table for all three."""
    pool, tasks = config.Pool().model_dump(), config.FindFaces().model_dump()
    assert tasks == {key: value for key, value in pool.items() if key != "mini_batch"}
