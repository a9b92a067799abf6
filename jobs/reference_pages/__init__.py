"""The generated pages of docs/reference/. `python -m jobs.reference_pages` writes all of them.

A page is a function without arguments that returns the whole page as Markdown.
"""

from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

from jobs.reference_pages import clips, columns, commands, filters, metrics, people, selections, settings

ROOT = Path(__file__).parents[2]

PAGES: dict[str, Callable[[], str]] = {
    "docs/reference/clips.md": clips.page,
    "docs/reference/columns.md": columns.page,
    "docs/reference/commands.md": commands.page,
    "docs/reference/duplicates-and-people.md": people.page,
    "docs/reference/filters.md": filters.page,
    "docs/reference/metrics.md": metrics.page,
    "docs/reference/selections.md": selections.page,
    "docs/reference/settings.md": settings.page,
}
"""Paths below the root of the clone, and the function that returns each page."""


def write(root: Path = ROOT) -> None:
    """Write every page."""
    for name, page in PAGES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(page(), encoding="utf-8")


def stale(root: Path = ROOT) -> Iterator[str]:
    """One line for each stale page: its file and the first line that differs."""
    for name, page in PAGES.items():
        path = root / name
        found = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        lines = zip_longest(found, page().split("\n"))
        differs = next((number for number, (is_, should) in enumerate(lines, 1) if is_ != should), None)
        if differs is not None:
            yield f"{name}:{differs}: stale page: run `python -m jobs.reference_pages` and commit the result"
