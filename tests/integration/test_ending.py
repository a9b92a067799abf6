"""How commands end: by signals, and with no reader for their output."""

import subprocess
import sys

import pytest
from here import small_scored_input

from faceq.cli import main
from faceq.storage.settings import S3Settings
from faceq.table.store import Table


@pytest.fixture(scope="module")
def scored(tmp_path_factory, astronaut) -> tuple[str, str]:
    return small_scored_input(tmp_path_factory.mktemp("scored"), astronaut)


def rows_in(table: str) -> int:
    return Table(table, S3Settings()).count()


def test_a_command_that_ignores_sighup_keeps_ignoring_it(tmp_path):
    """`nohup` starts commands like this. The handlers of a program that calls a command are restored."""
    code = (
        "import os, signal, sys\n"
        "from faceq.cli import main, plan\n"
        "signal.signal(signal.SIGTERM, handler := lambda *_: None)\n"
        "text = plan.capacity.text\n"
        "plan.capacity.text = lambda *given: (os.kill(os.getpid(), signal.SIGHUP), text(*given))[1]\n"
        "status = main.main(['plan', '--frames', '1000', '--gpu', 'g5'])\n"
        "assert signal.getsignal(signal.SIGTERM) is handler\n"
        "sys.exit(status)\n"
    )
    ignoring = f"trap '' HUP; exec {sys.executable} -c \"$0\""
    done = subprocess.run(["bash", "-c", ignoring, code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "g5" in done.stdout, done.stderr


@pytest.mark.parametrize("command", ["plan --frames 9 --gpu g5", "--help", "models list"])
def test_a_command_that_only_prints_ends_with_its_reader(command):
    line = f"{sys.executable} -m faceq {command} | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_nothing_is_deleted_for_a_job_whose_models_cannot_be_fetched(scored, model_dir, monkeypatch):
    source, table = scored
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    asked = ["score", source, "--out", table, "--preset", "insightface", "--accept-licence"]
    assert main.main([*asked, "--overwrite"]) == 1
    assert rows_in(table) == 3 and len(Table(table, S3Settings()).runs()) == 1
