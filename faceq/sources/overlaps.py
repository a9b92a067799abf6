"""Find result tables inside an input, and folders that the input contains under two names."""

import os
import re
from collections.abc import Iterable, Mapping

_RECORD = re.compile(r"(.*)/_faceq/run-[^/]+\.json", re.DOTALL)


def tables_among(names: Iterable[str]) -> list[str]:
    """The result tables in a listing, as folders or prefixes: those that contain the record of a run."""
    found = (_RECORD.fullmatch(name) for name in names)
    return sorted({match[1] for match in found if match})


def outside_of(names: Iterable[str], folders: list[str]) -> set[str]:
    """The names that are in none of the folders."""
    inside = tuple(f"{folder}/" for folder in folders)
    return {name for name in names if not name.startswith(inside)} if inside else set(names)


def listed_twice(folders: Mapping[str, str]) -> list[str]:
    """Notes on folders that an input contains under several names, because of symbolic links.

    Args:
        folders: local folders that contain shards: from the path in the file system to the name in the table.
    """
    by_place: dict[str, list[str]] = {}
    for path, name in folders.items():
        by_place.setdefault(os.path.realpath(path), []).append(name)
    return [
        f"{first}: is the same folder as {', '.join(others)}: its frames are scored once under each name"
        for first, *others in map(sorted, by_place.values())
        if others
    ]
