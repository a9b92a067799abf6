"""The code blocks of README and of the pages of docs/: commands and their expected output.

The convention is in CONTRIBUTING.md, "Code blocks". `problems` needs only the text of a page. `Reader` runs a
page from top to bottom, like a user.
"""

import contextlib
import difflib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO

from places import ROOT

PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]

RUN = ("console", "shell", "python")
RENAMED = {
    **dict.fromkeys(("bash", "sh", "zsh", "shell-session", "shellsession", "terminal"), "console or shell"),
    **dict.fromkeys(("py", "python3", "pycon", "ipython"), "python"),
}
"""Other names of the languages that are run. A block under such a name would not be run."""

WILDCARD = "..."
"""In an expected output, this matches any text. On its own line, it matches any number of lines."""

SECONDS = 300
"""Time limit of one command."""

_DECIMAL = re.compile(r"(?<![\w.])(-?\d+\.\d+)(?![\w.])")

_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w+-]*)(?P<rest>[^`]*)$")
_MARK = re.compile(r"^\s*<!-- not run: \S.* -->\s*$")
_ALMOST_A_MARK = re.compile(r"<!--\s*not[ -]run", re.IGNORECASE)
_INDENTED = re.compile(
    r"^(?: {4,}|\t)\s*(?:\$ |faceq (?:score|query|report|inspect|compact|evaluate|models|plan)\b)"
)
_CHANGES_THE_MACHINE = re.compile(
    r"(?:^|[;&|(]+\s*)(?:python3? -m )?(?:pip3?|uv|git|make|sudo|apt-get)\s", re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    line, end: line numbers of its fences. runs: whether its language is run and it is not marked. follows:
    whether only empty lines separate it from the previous block.
    """

    line: int
    end: int
    language: str
    content: str
    runs: bool
    follows: bool


@dataclass(frozen=True)
class Step:
    """One command or one Python script. expected: the output that the page shows, or None."""

    line: int
    command: str
    language: str
    expected: str | None


@dataclass(frozen=True)
class Outcome:
    """The result of a command. printed: the lines of both streams in order."""

    status: int
    out: str
    err: str
    printed: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page in order. Raises ValueError if one is not closed."""
    found: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        if opening is None:
            number += 1
            continue
        indent, fence, language = opening["indent"], opening["fence"], opening["language"]
        closing = re.compile(rf"^\s*{fence[0]}{{{len(fence)},}}\s*$")
        end = next((n for n in range(number + 1, len(lines)) if closing.match(lines[n])), None)
        if end is None:
            raise ValueError(f"line {number + 1}: this block has no end")
        content = "".join(line.removeprefix(indent) + "\n" for line in lines[number + 1 : end])
        marked = number > 0 and _MARK.match(lines[number - 1]) is not None
        follows = bool(found) and not any(line.strip() for line in lines[found[-1].end : number])
        found.append(Block(number + 1, end + 1, language, content, language in RUN and not marked, follows))
        number = end + 1
    return found


def problems(text: str) -> list[str]:
    """Blocks of a page that are neither runnable nor marked, as `line N: …`."""
    try:
        found = blocks(text)
    except ValueError as error:
        return [str(error)]
    lines = text.splitlines()
    inside = {number for block in found for number in range(block.line, block.end + 1)}
    said = []
    for block in found:
        if not block.language:
            said.append(f"line {block.line}: this block names no language (console, shell, python, text, …)")
        elif block.language in RENAMED:
            said.append(f"line {block.line}: say {RENAMED[block.language]}, not {block.language}")
        elif block.language == "console" and block.runs and not block.content.startswith("$ "):
            said.append(f"line {block.line}: a console block begins with a command, `$ …`")
    starts = {block.line for block in found}
    for number, line in enumerate(lines, 1):
        if number in inside:
            continue
        if _ALMOST_A_MARK.search(line) and not (_MARK.match(line) and number + 1 in starts):
            said.append(
                f"line {number}: `<!-- not run: REASON -->` belongs on its own line directly above a block"
            )
        if _INDENTED.match(line) and (number == 1 or not lines[number - 2].strip()):
            said.append(f"line {number}: an indented command is not run: use a fenced block")
    for step in steps(found):
        changes = step.language != "python" and _CHANGES_THE_MACHINE.search(step.command)
        if changes and step.command.strip() != "make demo":
            said.append(
                f"line {step.line}: `{changes[0].strip()}` would change this machine: mark the block as "
                "not run, and name the test that runs it"
            )
    return said


def steps(found: list[Block]) -> list[Step]:
    """The steps to run from the blocks of a page, in order."""
    wanted = []
    for block, after in itertools.zip_longest(found, found[1:]):
        if not block.runs:
            continue
        if block.language == "console":
            wanted += _console(block)
        else:
            shown = block.language == "python" and after and after.language == "text" and after.follows
            expected = after.content if after and shown else None
            wanted.append(Step(block.line + 1, block.content, block.language, expected))
    return wanted


def _console(block: Block) -> list[Step]:
    """The commands of a console block. A command without lines below it may print anything."""
    wanted: list[Step] = []
    lines = block.content.splitlines()
    number = 0
    while number < len(lines):
        start = number
        command = lines[number].removeprefix("$ ")
        while command.endswith("\\") and number + 1 < len(lines):
            number += 1
            command += "\n" + lines[number].removeprefix("> ")
        number += 1
        shown = []
        while number < len(lines) and not lines[number].startswith("$ "):
            shown.append(lines[number])
            number += 1
        expected = "\n".join(shown) if any(line.strip() for line in shown) else None
        wanted.append(Step(block.line + 1 + start, command, block.language, expected))
    return wanted


def matches(expected: str, printed: str) -> bool:
    """Whether an output matches the expected one: `...` matches any text, several spaces count as one, and
    the last digit of a decimal may differ by one, as between processors."""
    pieces = re.split(r"(^\.\.\.\n|\.\.\.)", _plain(expected), flags=re.MULTILINE)
    literals, wildcards = [_literal(piece) for piece in pieces[::2]], pieces[1::2]
    gaps = [r"(?:[^\n]*\n)*?" if gap.endswith("\n") else r"[\s\S]*?" for gap in wildcards]
    # The first match of a piece is as good as any later one, so the search needs no backtracking (`?>`).
    found = [f"{gap}{literal}" for gap, literal in zip(gaps, literals[1:], strict=True)]
    parts = [literals[0], *(f"(?>{part})" for part in found[:-1]), *found[-1:]]
    return re.fullmatch("".join(parts), _plain(printed)) is not None


def _literal(text: str) -> str:
    """A pattern for a text without wildcards."""
    parts = _DECIMAL.split(text)
    for number, decimal in enumerate(parts[1::2]):
        digits = len(decimal.partition(".")[2])
        near = (Decimal(decimal) + Decimal(unit).scaleb(-digits) for unit in (-1, 0, 1))
        parts[2 * number + 1] = f"(?:{'|'.join(re.escape(f'{each:.{digits}f}') for each in near)})"
    parts[::2] = map(re.escape, parts[::2])
    return "".join(parts)


def difference(expected: str, printed: str) -> str:
    """A unified diff. An expected line with `...` equals the printed lines that it stands for."""
    shown = _plain(printed).splitlines()
    wanted = []
    for line in _plain(expected).splitlines():
        fits = [other for other in shown if WILDCARD in line and line != WILDCARD and matches(line, other)]
        wanted.append(fits[0] if fits else line)
    filled = []
    lines = difflib.SequenceMatcher(None, wanted, shown, autojunk=False)
    for _, start, end, shown_start, shown_end in lines.get_opcodes():
        filled += shown[shown_start:shown_end] if wanted[start:end] == [WILDCARD] else wanted[start:end]
    return "\n".join(difflib.unified_diff(filled, shown, "the page", "printed", lineterm="", n=2))


def _plain(text: str) -> str:
    """The lines with single spaces, without trailing spaces, and without empty lines around them."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return "".join(f"{line}\n" for line in "\n".join(lines).strip("\n").splitlines())


class Reader:
    """Runs the blocks of a page in order, in a folder, as one shell session: `cd` and variables persist.

    Args:
        folder: the working directory. `faceq` and `python` are those of this environment, the package is this
        clone's.
        scratch: another folder, for temporary files.
        known: commands that are not run again, and their results.
    """

    def __init__(self, folder: Path, scratch: Path, known: Mapping[str, Outcome] | None = None):
        self._folder, self._known = folder, known or {}
        self._state, self._script = scratch / "state.sh", scratch / "block.py"

    def read(self, page: str, text: str) -> list[str]:
        """Run a page. Returns the differences from what the page shows. Stops at the first command that
        fails."""
        self._state.unlink(missing_ok=True)
        wrong = [f"{page}: {problem}" for problem in problems(text)]
        if wrong:
            return wrong
        for step in steps(blocks(text)):
            outcome = self._known.get(step.command.strip()) or self._run(step)
            place = f"{page}:{step.line}: {_first_line(step)}"
            if outcome.status:
                wrong.append(
                    f"{place}\nexit status {outcome.status} (a command that is meant to fail ends with "
                    f"`; echo $?`)\n{outcome.printed[-3000:]}"
                )
                break
            if step.expected is not None:
                # Lines of two streams that come at the same moment have no order.
                printed = {outcome.out, outcome.printed, outcome.err + outcome.out}
                if not any(matches(step.expected, text) for text in printed):
                    nearest = min((difference(step.expected, text) for text in printed), key=len)
                    wrong.append(f"{place}\n{nearest}")
        return wrong

    def _run(self, step: Step) -> Outcome:
        if step.language == "python":
            self._script.write_text(step.command, encoding="utf-8")
            # Without an address, Ray would join a running Ray on this machine.
            own = "RAY_ADDRESS=local " if "import ray" in step.command else ""
            command = f"{own}python '{self._script}'"
        else:
            command = f"set -e\n{step.command}" if step.language == "shell" else step.command
        session = f"""
            [ -e '{self._state}' ] && . '{self._state}'
            trap '{{ export -p; printf "cd %q\\n" "$PWD"; }} > "{self._state}"' EXIT
            set -a
        """
        return run(["bash", "-c", f"{session}\n{command}"], self._folder)


def run(command: list[str], folder: Path, seconds: float = SECONDS) -> Outcome:
    """Run a command in the folder with this environment's programs and this clone's faceq. Ends processes
    that it leaves running."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: list[tuple[str, str]] = []

    def collect(name: str, stream: IO[str]) -> None:
        for line in stream:
            lines.append((name, line))

    assert process.stdout and process.stderr
    streams = {"out": process.stdout, "err": process.stderr}
    threads = [threading.Thread(target=collect, args=pair, daemon=True) for pair in streams.items()]
    for thread in threads:
        thread.start()
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        status = 124
        lines.append(("err", f"not ended after {seconds:.0f} s\n"))
    finally:
        # Background processes of a command hold the pipes open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for thread in threads:
        thread.join()
    out, err = ("".join(line for name, line in lines if name == wanted) for wanted in ("out", "err"))
    return Outcome(status, out, err, "".join(line for _, line in lines))


def _environment() -> dict[str, str]:
    """The environment of a command: no terminal width or colours, no running Ray, unbuffered output."""
    terminal = ("COLUMNS", "LINES", "FORCE_COLOR", "CLICOLOR_FORCE")
    kept = {name: value for name, value in os.environ.items() if name not in terminal}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _first_line(step: Step) -> str:
    lines = [line for line in step.command.strip().splitlines() if line.strip()]
    return f"{lines[0] if lines else ''}{' …' if len(lines) > 1 else ''}"


def copy_of(folder: Path, place: Path) -> None:
    """Make a folder a copy of another, including file times, so that its files count as unchanged."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, symlinks=True)
