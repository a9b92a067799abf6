"""One-line errors for damaged tables, wrong endpoints, full devices, ASCII terminals, and users without a
home."""

import codecs
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs
from bad_endpoints import ENDPOINTS, MISNAMED
from disks import fill, small_disk
from places import PHOTOS, ROOT
from users import as_nobody

from faceq.cli import main
from faceq.evaluation import calibration, identities
from faceq.job import pipeline
from faceq.query import compact, export, shard_export
from faceq.report import page
from faceq.table.records import name_of

IMPORTED = (calibration, compact, export, identities, pipeline, page, shard_export)
"""Modules that commands import. They are imported before the user changes, because the other user may not
read the files of this Python."""


def status_and_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit status of a command, and its only line on standard error, besides the one that names a step
    that takes some seconds."""
    capsys.readouterr()
    status = main.main(arguments)
    said = capsys.readouterr().err.strip().removeprefix("faceq: listing the input\n")
    assert said.startswith("faceq: ") and "\n" not in said, (arguments, said)
    return status, said


# --- damaged tables ---


def on_a_table(table: str, folder: Path) -> dict[str, list[str]]:
    """Every command that reads or continues a table."""
    identities = folder / "identities.csv"
    identities.write_text("image,identity\na.jpg,1\n")
    return {
        "score": ["score", str(PHOTOS), "--out", table],
        "overwrite": ["score", str(PHOTOS), "--out", table, "--overwrite"],
        "query": ["query", table],
        "count": ["query", table, "--count"],
        "sql": ["query", table, "--sql", "select count(*) from frames"],
        "export": ["query", table, "--export", str(folder / "x.csv")],
        "export shards": ["query", table, "--export-shards", str(folder / "shards")],
        "report": ["report", table, "--out", str(folder / "r.html")],
        "compact": ["compact", table, "--out", str(folder / "compacted")],
        "evaluate edc": ["evaluate", "edc", table, str(identities)],
        "evaluate calibrate": ["evaluate", "calibrate", table],
    }


def valid(run_id: str) -> dict[str, object]:
    return {"run_id": run_id, "version": "0.1.0", "input": ["in"], "config": {}}


DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "it is empty"),
    "empty object": (b"{}", "its run_id is null"),
    "list": (b"[]", "it is not a JSON object"),
    "null": (b"null", "it is not a JSON object"),
    "text": (b'"run"', "it is not a JSON object"),
    "half a file": (json.dumps(valid("0x")).encode()[:40], "it is not JSON"),
    "zeros": (bytes(512), "it is not JSON"),
    "not UTF-8": (b'{"run_id": "\xff"}', "it is not JSON"),
    "nested": (b"[" * 100_000, "it is not JSON"),
    "a number of a million digits": (b"1" * 1_000_000, "it is not JSON"),
    "copy": (json.dumps(valid("y")).encode(), "it is the record of another run, 'y'"),
    "way out": (json.dumps(valid("../../x")).encode(), "it is the record of another run"),
    "no config": (json.dumps({**valid("0x"), "config": None}).encode(), "its config is null"),
    "input of numbers": (json.dumps({**valid("0x"), "input": [1]}).encode(), "its input is"),
    "finished is a number": (json.dumps({**valid("0x"), "finished": 5}).encode(), "its finished is 5"),
    "models are a list": (json.dumps({**valid("0x"), "models": []}).encode(), "its models is []"),
    "no owner": (json.dumps({**valid("0x"), "state": "running"}).encode(), "its owner is null"),
    "escapes": (b'{"run_id": "\\u001b[31m\\u202e\\ud800\\n"}', "its version is null"),
}


@pytest.fixture
def table(looked_at, tmp_path) -> Path:
    """A table in which the run `0x` has written some rows. Queries read only the records of such runs. Other
    commands read at least the first record."""
    copy = Path(shutil.copytree(looked_at, tmp_path / "table"))
    rows = min(copy.glob("status=*/*.parquet"))
    rows.rename(rows.with_name(f"0x-{rows.name}"))
    return copy


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_command_names_a_damaged_run_record(table, tmp_path, capsys, damage):
    content, said = DAMAGE[damage]
    (table / "_faceq" / name_of("0x")).write_bytes(content)
    for name, arguments in on_a_table(str(table), tmp_path).items():
        status, line = status_and_line(arguments, capsys)
        assert status == 1, name
        assert f"{table}: the record _faceq/run-0x.json is damaged ({said}" in line, name
    assert not (tmp_path / "shards").exists() and not (tmp_path / "compacted").exists()


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folder called like a record": (
        lambda table: (table / "_faceq" / name_of("0x")).mkdir(),
        "run-0x.json is damaged (it is a folder)",
    ),
    "folder that is no status": (
        lambda table: shutil.copytree(table / "status=scored", table / "status=foo"),
        "status=foo is not a folder of a faceq table",
    ),
    "half a file of rows": (
        lambda table: [path.write_bytes(path.read_bytes()[:-9]) for path in table.glob("status=*/*")],
        "is damaged",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_every_command_names_a_path_that_is_not_part_of_a_table(table, tmp_path, capsys, place):
    spoil, said = PLACES[place]
    spoil(table)
    commands = on_a_table(str(table), tmp_path)
    del commands["overwrite"]
    if place == "half a file of rows":
        del commands["score"]  # it starts Ray first
    for name, arguments in commands.items():
        status, line = status_and_line(arguments, capsys)
        assert (status, said in line) == (1, True), f"{name}: {line}"


def test_every_command_names_a_run_record_without_read_permission(looked_at, capsys, tmp_path_factory):
    place = Path("/tmp") / f"faceq-closed-{os.getpid()}"
    shutil.copytree(looked_at, place / "table")
    try:
        for path in (place, *place.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o644)
        codecs.lookup("utf-8-sig")  # imported early, like IMPORTED
        (record,) = (place / "table" / "_faceq").glob("run-*.json")
        record.chmod(0)
        commands = on_a_table(str(place / "table"), place)
        for name in ("score", "overwrite"):
            del commands[name]  # these look for models first
        for name, arguments in commands.items():
            with as_nobody():
                status, line = status_and_line(arguments, capsys)
            assert (status, "Permission denied" in line, record.name in line) == (1, True, True), name
    finally:
        shutil.rmtree(place)


# --- endpoints ---


def over_s3(table: str, folder: Path, config: Path) -> dict[str, list[str]]:
    """Every command, with S3 URIs wherever they are allowed."""
    ratings = folder / "mos.csv"
    ratings.write_text("image,mos\n" + "".join(f"{number}.jpg,{number}\n" for number in range(12)))
    commands = {
        "score a folder": ["score", "s3://b/in", "--out", str(folder / "t")],
        "score a glob": ["score", "s3://b/in/*/*.jpg", "--out", str(folder / "t")],
        "score a manifest": ["score", "--manifest", "s3://b/m.jsonl", "--out", str(folder / "t")],
        "score to S3": ["score", str(PHOTOS), "--out", "s3://b/t"],
        "query": ["query", "s3://b/t"],
        "export": ["query", table, "--export", "s3://b/x.csv"],
        "export shards": ["query", table, "--export-shards", "s3://b/shards"],
        "report": ["report", "s3://b/t", "--out", str(folder / "r.html")],
        "compact": ["compact", "s3://b/t", "--out", str(folder / "c")],
        "compact to S3": ["compact", table, "--out", "s3://b/c"],
        "evaluate edc": ["evaluate", "edc", table, "s3://b/i.csv"],
        "evaluate iqa": ["evaluate", "iqa", "s3://b/pictures", str(ratings)],
        "evaluate calibrate": ["evaluate", "calibrate", "s3://b/t"],
        "inspect": ["inspect", "s3://b/in/"],
    }
    return {name: [*arguments, "--config", str(config)] for name, arguments in commands.items()}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_wrong_endpoint_is_one_line(looked_at, tmp_path, monkeypatch, capsys, endpoint):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    config = tmp_path / "job.yaml"
    with ENDPOINTS[endpoint]() as address:
        config.write_text(json.dumps({"s3": {"endpoint_url": address}}))
        for name, arguments in over_s3(looked_at, tmp_path, config).items():
            status, line = status_and_line(arguments, capsys)
            assert status == (2 if endpoint in MISNAMED else 1), f"{name}: {line}"
    assert not (tmp_path / "t").exists()


# --- streams, terminals, users ---


def ran(arguments: list[str], to: str | None = None, **variables: str | None) -> tuple[int, str, str]:
    """Run a command in its own process, with output to a file or device. `variables` that are None are
    unset."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    environment = {name: value for name, value in environment.items() if value is not None}
    with open(to or os.devnull, "wb") as device:
        done = subprocess.run(
            [sys.executable, "-m", "faceq", *arguments],
            env=environment,
            stdout=device if to else subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
        )
    return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [["query", "TABLE"], ["models", "list"], ["plan", "--frames", "9", "--gpu", "g5"], ["score", "--help"]],
)
def test_a_full_device_behind_standard_output_is_one_line(looked_at, arguments):
    arguments = [looked_at if each == "TABLE" else each for each in arguments]
    status, _, said = ran(arguments, to="/dev/full")
    assert status == 1
    assert said == "faceq: standard output cannot be written: No space left on device\n"


def test_a_command_that_writes_a_file_needs_no_standard_output(looked_at, tmp_path):
    status, _, said = ran(["query", looked_at, "--export", str(tmp_path / "x.csv")], to="/dev/full")
    assert (status, said) == (0, "") and (tmp_path / "x.csv").stat().st_size > 0


@pytest.mark.parametrize("target", ["report", "json", "plot"])
def test_a_full_device_as_a_target_is_one_line(looked_at, tmp_path, capsys, target):
    arguments = ["report", looked_at, "--no-images", "--out", "/dev/full"]
    if target != "report":
        identities = tmp_path / "people.csv"
        people = {"t1.jpg": "a", "clip.mp4": "b"}
        identities.write_text("image,identity\n" + "".join(f"{k},{v}\n" for k, v in people.items()))
        plot = tmp_path / "full.png"
        plot.symlink_to("/dev/full")
        place = str(plot) if target == "plot" else "/dev/full"
        arguments = ["evaluate", "edc", looked_at, str(identities), f"--{target}", place]
    status, line = status_and_line(arguments, capsys)
    assert status == 1 and "No space left on device" in line


PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def test_an_ascii_terminal_gets_escapes_for_other_characters(tmp_path):
    status, _, said = ran(["score", "/nothing/é 中 …", "--out", str(tmp_path)], **PLAIN)
    assert status == 2
    # With this locale, Python takes arguments as bytes, so that each byte has its own escape.
    assert said.startswith("faceq: /nothing/\\xc3\\xa9 \\xe4\\xb8\\xad ") and said.count("\n") == 1
    status, printed, said = ran(["query", "--help"], **PLAIN)
    assert (status, said) == (0, "") and "A,B,..." in printed


def as_user(uid: int, arguments: list[str], **variables: str | None) -> tuple[int, str]:
    """Run a command as a user that the system does not know. Returns exit status and output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": None, "XDG_CACHE_HOME": None, **variables}
    done = subprocess.run(
        [
            "setpriv",
            "--reuid",
            str(uid),
            "--clear-groups",
            sys.executable,
            "-m",
            "faceq",
            *arguments,
        ],
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    return done.returncode, done.stderr


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv, to become another user"
)


@needs_root
def test_a_user_without_a_home_is_told_to_name_a_cache():
    for arguments in (["models", "list"], ["models", "pull", "yunet"], ["inspect", str(PHOTOS / "t1.jpg")]):
        status, said = as_user(12345, arguments, FACEQ_CACHE=None)
        assert (status, "set FACEQ_CACHE" in said, said.count("\n")) == (2, True, 1), said


@needs_root
def test_a_cache_that_may_not_be_written_is_one_line():
    for arguments in (["models", "pull", "yunet"], ["inspect", str(PHOTOS / "t1.jpg")]):
        status, said = as_user(12345, arguments, FACEQ_CACHE="/closed")
        assert status == 1
        assert "the model cache /closed cannot be used: Permission denied" in said
        assert said.startswith("faceq: ") and said.count("\n") == 1


@needs_root
def test_a_cache_on_a_full_disk_is_one_line(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        fill(disk, 4096)
        mirror = str(Path.home() / ".cache" / "faceq")
        status, _, said = ran(["models", "pull", "sface"], FACEQ_CACHE=str(disk), FACEQ_MODEL_MIRROR=mirror)
        assert status == 1 and "cannot be used: No space left on device" in said
        assert said.startswith("faceq: ") and said.count("\n") == 1
