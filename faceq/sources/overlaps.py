"""What an input holds beside frames, or twice: result tables, and folders that are listed under two names."""

import os
import re
from collections.abc import Iterable, Mapping

_RECORD = re.compile(r"(.*)/_faceq/run-[^/]+\.json", re.DOTALL)


def tables_among(names: Iterable[str]) -> list[str]:
    """The result tables in a listing, as folders or prefixes: each has a record of a run."""
    found = (_RECORD.fullmatch(name) for name in names)
    return sorted({match[1] for match in found if match})


def outside_of(names: Iterable[str], folders: list[str]) -> set[str]:
    """The names that lie in none of the folders."""
    inside = tuple(f"{folder}/" for folder in folders)
    return {name for name in names if not name.startswith(inside)} if inside else set(names)


def listed_twice(folders: Mapping[str, str]) -> list[str]:
    """Notes on folders of an input that are one folder under several names, by symbolic links.

    Args:
        folders: local folders that hold shards, as the file system and as the table calls them.
    """
    by_place: dict[str, list[str]] = {}
    for path, name in folders.items():
        by_place.setdefault(os.path.realpath(path), []).append(name)
    return [
        f"{first}: is the same folder as {', '.join(others)}: its frames are scored once under each name"
        for first, *others in map(sorted, by_place.values())
        if others
    ]
