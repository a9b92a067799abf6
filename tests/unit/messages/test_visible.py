"""Printing of foreign text: nothing in it moves the cursor, reverses a line or starts a new line."""

import io
import json
import re
import unicodedata
from pathlib import Path

import pytest
from bad_endpoints import PAGE
from here import score_here
from places import PHOTOS

from faceq.cli import main
from faceq.job import summary
from faceq.messages.visible import ENCODING_ERRORS, visible
from faceq.table.runs import Run

EVIL = "a\x1b]0;owned\x07\x1b[31m\u202egpj\u2066\n\rfaceq: done\t\u200b\x9b2J"
HARMLESS = "é 人脸 🙂 ö-a_b #%&"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä.jpg", "plain ä.jpg"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\x85\u2028\u2029", "\\x85\\u2028\\u2029"),
        ("\udcff\ud800", "\\xff\\ud800"),
        ("\U000e0041\ue000\U0010ffff", "\\U000e0041\\ue000\\U0010ffff"),
        (HARMLESS, HARMLESS),
    ],
)
def test_invisible_characters_are_escaped(text, shown):
    assert visible(text) == shown


def test_no_control_character_is_printed():
    for code in (*range(0x3000), *range(0xD800, 0xE100), *range(0xFE00, 0x10000), *range(0xE0000, 0xE0200)):
        shown = visible(chr(code))
        assert shown == chr(code) or shown.isascii()
        assert unicodedata.category(shown[0])[0] != "C" and len(f"x{shown}x".splitlines()) == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_text_can_be_written_to_any_terminal(encoding):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=ENCODING_ERRORS)
    out.write(f"0…1 – {HARMLESS} \ud800")
    out.flush()
    shown = out.buffer.getvalue().decode(encoding)
    assert shown.startswith("0…1" if encoding in ("cp1252", "utf-8") else "0...1")
    assert shown.endswith("\\ud800")


# --- every command ---

_MOVES = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, str]:
    """Images with a malicious name, one of them damaged, and their table in a folder with such a name."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "in").mkdir()
    (folder / "in" / f"{EVIL}.jpg").write_bytes((PHOTOS / "t1.jpg").read_bytes())
    (folder / "in" / f"broken{EVIL}.jpg").write_bytes(b"x")
    return folder / "in", score_here(str(folder / "in"), str(folder / f"table{EVIL[:9]}"), fiq_threshold=0)


def test_no_command_prints_planted_text_as_it_is(planted, tmp_path, capsys):
    folder, table = planted
    picture = str(folder / f"{EVIL}.jpg")
    evil = f"{tmp_path}/{EVIL[:9]}"
    (tmp_path / "people.csv").write_text(f"image,identity\n{EVIL[:9]},1\n")
    (tmp_path / "m.jsonl").write_text(json.dumps({EVIL: "x"}))
    commands = [
        ["query", table],
        ["query", table, "--columns", "source,error"],
        ["query", table, "--sql", f"""select source as "{EVIL[:9]}", error from frames"""],
        ["query", table, f'"{EVIL}" > 1'],
        ["query", table, "--export", f"{evil}.csv"],
        ["query", table, "--export-shards", f"{evil}.shards"],
        ["query", evil],
        ["compact", table, "--out", f"{evil}.compacted"],
        ["report", table, "--no-images", "--out", f"{evil}.html"],
        ["inspect", picture, "--out", f"{evil}.png"],
        ["inspect", picture, "--json"],
        ["evaluate", "edc", table, str(tmp_path / "people.csv")],
        ["evaluate", "iqa", evil, str(tmp_path / "people.csv")],
        ["evaluate", "calibrate", evil],
        ["models", "pull", EVIL],
        ["score", evil, "--out", table],
        ["score", "--manifest", str(tmp_path / "m.jsonl"), "--out", f"{evil}.t"],
        ["score", str(folder), "--out", f"{evil}.t", "--config", evil],
        ["score", str(folder), "--out", f"{evil}.t", "--preset", EVIL],
        ["score", str(folder), "--out", f"{evil}.t", "--detector", EVIL],
        [EVIL],
    ]
    for arguments in commands:
        try:
            status = main.main(arguments)
        except SystemExit as ended:
            status = ended.code
        printed = "".join(capsys.readouterr())
        assert printed and not _MOVES.search(printed), (arguments, printed)
        assert "\nfaceq: done" not in printed
        assert status in (0, 1, 2)
    page = Path(f"{evil}.html").read_text(encoding="utf-8")
    assert not _MOVES.search(page) and "\\u202e" in page
    exported = Path(f"{evil}.csv").read_bytes().decode()
    assert EVIL in exported  # values are not changed


def test_a_summary_shows_planted_notes_on_one_line(tmp_path):
    run = Run("r", "0", [EVIL], {}, {}, "", rows=1, frames=1, counts={"scored": 1}, notes=[f"{EVIL}: odd"])
    run.passed_over = {EVIL: 1}
    text = summary.text(summary.Summary(run, f"{tmp_path}/{EVIL}", 1.0, 0.5, 1, {}))
    assert not _MOVES.search(text) and "\nfaceq: done" not in text


def test_an_answer_of_a_web_server_is_printed_escaped(tmp_path, capsys):
    (tmp_path / "i.csv").write_bytes(PAGE + EVIL.encode())
    assert main.main(["evaluate", "edc", str(tmp_path), str(tmp_path / "i.csv")]) == 2
    assert not _MOVES.search(capsys.readouterr().err)
