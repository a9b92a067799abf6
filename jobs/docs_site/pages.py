"""The Markdown files of the clone, and their paths on the site."""

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
"""Pages of the site that are outside docs/: path below the root of the clone, and path below docs/."""

FILES = "files"
"""The folder of the site for copies of other files of the clone that pages link to."""


def markdown_files(root: Path = ROOT) -> Iterator[str]:
    """All Markdown files for readers, as paths below the root."""
    found = list(root.glob("*.md"))
    for folder in ("docs", "examples", "faceq", "jobs"):
        found += (root / folder).rglob("*.md")
    yield from sorted(path.relative_to(root).as_posix() for path in found)


def site_uri(path: str) -> str | None:
    """The path below docs/ under which the site shows a Markdown file of the clone. None if it does not show
    it."""
    return path.removeprefix("docs/") if path.startswith("docs/") else ELSEWHERE.get(path)


def in_clone(uri: str) -> str:
    """The path in the clone of a page of the site, given by its path below docs/."""
    return next((path for path, shown in ELSEWHERE.items() if shown == uri), f"docs/{uri}")
