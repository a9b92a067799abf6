"""The pages of docs/reference/ that are generated from the code."""

import argparse
import re
import shutil

import pytest

from faceq.cli import main, score
from faceq.query.faces import FACE_COLUMNS
from faceq.stage_resources import FindFaces, Pool
from faceq.table.schema import COLUMNS, EMBEDDING_COLUMN, FACES_COLUMN, SCHEMA, STATUSES
from jobs import reference_pages
from jobs.reference_pages import columns, commands, settings


def test_the_committed_pages_are_up_to_date():
    assert list(reference_pages.stale()) == []


def test_a_stale_page_is_named_with_its_first_wrong_line(tmp_path):
    for name in reference_pages.PAGES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(reference_pages.ROOT / name, tmp_path / name)
    edited, missing, *_ = (tmp_path / name for name in reference_pages.PAGES)
    lines = edited.read_text(encoding="utf-8").split("\n")
    lines[6] = f"{lines[6]} edited by hand"
    edited.write_text("\n".join(lines), encoding="utf-8")
    missing.unlink()
    what = "stale page: run `python -m jobs.reference_pages` and commit the result"
    first, second, *_ = reference_pages.PAGES
    expected = [f"{first}:7: {what}", f"{second}:1: {what}"]
    assert list(reference_pages.stale(tmp_path)) == expected
    reference_pages.write(tmp_path)
    assert list(reference_pages.stale(tmp_path)) == []


@pytest.mark.parametrize("page", reference_pages.PAGES)
def test_no_row_of_a_table_is_broken_by_its_content(page):
    """Each row of a table has as many cells as its header."""
    cells = 0
    for line in reference_pages.PAGES[page]().splitlines():
        bars = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not cells or bars in (0, cells), line
        cells = bars


def test_columns_has_a_row_with_type_meaning_and_nulls_for_each_column():
    page, of_faces = columns.page().split("## Rows of faces")
    assert re.findall(r"^\| `(\w+)` \|", of_faces, re.MULTILINE) == [column.name for column in FACE_COLUMNS]
    rows = re.findall(r"^\| `(\w+)` \| (\w[\w ]*) \|.*\| (.{15,}) \| (\S.*) \|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == [*SCHEMA.names, FACES_COLUMN.name, EMBEDDING_COLUMN.name]
    assert [name for name, *_, null in rows if null == "never"] == [
        field.name for field in SCHEMA if not field.nullable
    ]
    assert ("| `dbcnn` | float32 | 0 to 100, clipped | DB-CNN: ") in page
    assert "| `timestamp_s` | float64 | seconds, ≥ 0 | " in page


def test_the_column_status_names_each_status():
    (status,) = (column for column in COLUMNS if column.name == "status")
    assert tuple(re.findall(r"`(\w+)`:", status.meaning)) == STATUSES


def _parsers(parser: argparse.ArgumentParser, name: str = "faceq"):
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner, command in action.choices.items():
                yield from _parsers(command, f"{name} {inner}")


def test_commands_has_each_command_with_its_arguments_options_and_examples():
    sections = dict(re.findall(r"^#+ (faceq .+)\n((?:(?!^#).*\n)*)", commands.page(), re.MULTILINE))
    parsers = dict(list(_parsers(main._parser(list(main.COMMANDS))))[1:])
    assert list(sections) == list(parsers)
    shared = {"help", "version", "verbose", "quiet", "log_format"}
    for name, parser in parsers.items():
        for action in parser._actions:
            if action.dest in shared or isinstance(action, argparse._SubParsersAction):
                continue
            shown = action.option_strings or [str(action.metavar)]
            assert all(f"`{each}" in sections[name] for each in shown), (name, action)
        for example in re.findall(r"^ +(faceq .*?)(?:   .*)?$", parser.epilog or "", re.MULTILINE):
            assert example in sections[name]


def test_commands_shows_usage_and_defaults():
    page = commands.page()
    for line in (
        "faceq score [INPUT...] [OPTIONS]",
        "faceq compact TABLE --out TABLE2 [OPTIONS]",
        "faceq evaluate ACTION",
        "| `--fiq-threshold X` | `0.5` | ",
        "| `--discard SHARE` | `0.05` | ",
        "| `--out TABLE2` | required | ",
        "At most one of `--count`, `--export` and `--export-shards`.",
    ):
        assert f"\n{line}" in page


def test_settings_has_types_defaults_flags_and_descriptions():
    page = settings.page()
    for row in (
        "| `fiq_threshold` | number, ≥ 0, ≤ 1 | `0.5` | `--fiq-threshold` | Minimum `serfiq` ",
        "| `input` | list of strings | none | `INPUT` | ",
        "| `recogniser` | string | none | `--recogniser` | ",
        "| `fps` | number, > 0 | none | `--fps` | ",
        "| `device` | `auto`, `cpu`, `cuda` | `auto` | ",
        "| `calibration` | section | none; [keys](#calibration) |  | ",
        "| `slope` | number, > 0 | required | ",
        "| `mini_batch` | integer, ≥ 1 | `4` | Of `serfiq` and `dbcnn`. ",
        "| `mini_batch` | integer, ≥ 1 | `32` | Of `find_face`. ",
        "| `det_threshold` | `0.6` | `0.5` | `0.5` |",
    ):
        assert f"\n{row}" in page


def test_settings_has_each_flag_of_the_command_line_that_sets_a_setting():
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    others = {"help", "config", "set", "overwrite", "retry_unreadable", "dry_run", "summary"}
    wanted = [action for action in parser._actions if action.dest not in others]
    flags = re.findall(r"^\| `\w+` \| .* \| .* \| `(--[\w-]+|INPUT)` \|", settings.page(), re.MULTILINE)
    assert sorted(flags) == sorted(a.option_strings[0] if a.option_strings else a.metavar for a in wanted)


def test_find_face_has_the_keys_and_defaults_of_the_pools_but_for_mini_batches():
    """The page has one table for all three."""
    pool, tasks = Pool().model_dump(), FindFaces().model_dump()
    assert tasks | {"mini_batch": pool["mini_batch"]} == pool
