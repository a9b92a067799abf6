"""What commands write to standard error, as text and as JSON."""

import json
import logging
from collections.abc import Callable
from datetime import datetime

import pytest

from faceq.cli import main, query

log = logging.getLogger("faceq.stages.scores")


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run `faceq query` with a function in place of the query."""

    def run(work: Callable[[], None], *flags: str, before: tuple[str, ...] = ()) -> int:
        def instead(options: object) -> int:
            work()
            return 0

        monkeypatch.setattr(query, "query", instead)
        return main.main([*before, "query", "table", *flags])

    return run


def everything() -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        log.log(level, "%s\x1b[31m at http://me:secret@host", logging.getLevelName(level).lower())


TEXT = "faceq: {}\\x1b[31m at http://***@host"


@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        ([], ["info", "warning"]),
        (["-v"], ["debug", "info", "warning"]),
        (["--verbose"], ["debug", "info", "warning"]),
        (["-q"], ["warning"]),
        (["--quiet", "--log-format", "text"], ["warning"]),
    ],
)
def test_flags_say_how_much_is_shown_before_and_after_the_command(during, flags, levels, capsys):
    for given in ({"before": tuple(flags)}, {}):
        assert during(everything, *([] if given else flags), **given) == 0
        shown = capsys.readouterr()
        assert shown.err.splitlines() == [TEXT.format(level) for level in levels] and shown.out == ""


def test_json_is_one_object_a_line_without_secrets(during, capsys):
    assert during(everything, "--log-format=json") == 0
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.keys() == {"time", "level", "logger", "message"}
    assert first["message"] == "info\x1b[31m at http://***@host"
    assert (first["level"], second["level"], first["logger"]) == ("INFO", "WARNING", "faceq.stages.scores")
    assert datetime.fromisoformat(first["time"]).utcoffset().total_seconds() == 0


def fails(error: Exception) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_errors_are_json_too(during, tmp_path, capsys):
    assert main.main(["query", str(tmp_path / "no"), "--log-format", "json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == f"{tmp_path / 'no'}: there is no faceq table here"
    assert during(fails(RuntimeError("odd http://me:secret@host")), "--log-format", "json") == 1
    (line,) = capsys.readouterr().err.splitlines()
    failed = json.loads(line)
    assert failed["level"] == "CRITICAL" and failed["message"] == "RuntimeError: odd http://***@host"
    assert failed["traceback"].startswith("Traceback") and "secret" not in line
    with pytest.raises(SystemExit) as ended:
        main.main(["--log-format", "json", "query"])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and "required: TABLE" in json.loads(line)["message"]


def test_every_command_takes_the_flags_and_they_exclude_each_other(capsys):
    for words in (["models", "list"], ["evaluate", "calibrate", "table"], ["config"], ["score", "in"]):
        options = main._parser(words).parse_args([*words, "-q", "--log-format", "json"])
        assert options.quiet and options.log_format == "json"
    with pytest.raises(SystemExit):
        main.main(["query", "table", "-v", "-q"])
    assert "not allowed with" in capsys.readouterr().err


def test_a_command_restores_the_loggers(during):
    own, root = logging.getLogger("faceq"), logging.getLogger()
    before = own.level, own.handlers[:], own.propagate, root.level, root.handlers[:]
    seen = []
    assert during(lambda: seen.append(len(own.handlers)), "-v") == 0
    assert seen == [len(before[1]) + 1]
    assert (own.level, own.handlers[:], own.propagate, root.level, root.handlers[:]) == before


def test_loggers_of_other_packages_are_not_shown(during, capsys):
    assert during(lambda: logging.getLogger("urllib3").info("connected"), "-v") == 0
    assert capsys.readouterr().err == ""
