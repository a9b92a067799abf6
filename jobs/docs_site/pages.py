"""Which Markdown files the clone has, and where the site shows them."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

ELSEWHERE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "faceq/models/weights/dbcnn-lite.md": "reference/dbcnn-lite.md",
    "examples/README.md": "examples.md",
}
"""Pages of the site that lie outside docs/: their paths below the root of the clone and below docs/."""

FILES = "files"
"""Folder of the site with copies of other files of the clone that pages link to."""


def markdown_files(root: Path = ROOT) -> Iterator[str]:
    """Every Markdown file that people read, by its path below the root."""
    found = list(root.glob("*.md"))
    for folder in ("docs", "examples", "faceq", "jobs"):
        found += (root / folder).rglob("*.md")
    yield from sorted(path.relative_to(root).as_posix() for path in found)


def site_uri(path: str) -> str | None:
    """Where the site has a Markdown file of the clone, as a path below docs/; None if it does not show it."""
    return path.removeprefix("docs/") if path.startswith("docs/") else ELSEWHERE.get(path)


def in_clone(uri: str) -> str:
    """Where the clone has a page of the site, given by its path below docs/."""
    return next((path for path, shown in ELSEWHERE.items() if shown == uri), f"docs/{uri}")
