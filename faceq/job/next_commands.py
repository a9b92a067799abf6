"""Commands that a person may want to run next, ready to be pasted into the shell."""

import shlex
import shutil
import sys
from pathlib import Path

from faceq.messages.visible import visible
from faceq.table.recommended import UNREADABLE


def command() -> str:
    """How to call faceq from this shell: by its path if the environment is not activated."""
    return "faceq" if shutil.which("faceq") else shlex.quote(str(Path(sys.executable).with_name("faceq")))


def query(table: str, where: str, columns: str = "", faces: bool = False) -> str:
    """The command that shows the rows of a table that fulfil an SQL condition; with `faces`, those of its
    faces."""
    shown = f" --columns {columns}" if columns else ""
    return f'{command()} query {_path(table)} "{where}"{" --faces" if faces else ""}{shown}'


def query_errors(table: str) -> str:
    """The command that shows which frames could not be read, and why."""
    return query(table, UNREADABLE, "source,member,frame_index,error")


def report(table: str) -> str:
    """The command that makes a page of the table."""
    return f"{command()} report {_path(table)} --out report.html"


def _path(table: str) -> str:
    return visible(shlex.quote(table))
