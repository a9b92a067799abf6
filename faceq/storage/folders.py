"""All files below a folder or an S3 prefix, and those that a glob names.

What cannot be listed is an error: a folder that is left out would be frames without a row. (fsspec's own
`find` and `glob`, and Python's `glob`, leave out what they may not list.)
"""

import contextlib
import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import fsspec
from fsspec.implementations.local import LocalFileSystem

from faceq.errors import FaceqError
from faceq.storage import s3_listing
from faceq.storage.filesystem import storage_errors

MAGIC = re.compile(r"[*?[]")

Files = dict[str, int | None]
"""Bytes of each file by its path, as the file system calls it; None for a link that leads nowhere."""


class UnlistedError(FaceqError, OSError):
    """A folder could not be listed; `error` says why."""

    def __init__(self, folder: str, error: Exception):
        super().__init__(f"{folder}: {error}")
        self.folder, self.error = folder, error


class Place(Protocol):
    """Where folders are. Hidden files and folders are left out, unless a pattern begins with a dot."""

    def below(self, folder: str) -> Files:
        """Files in a folder, through all levels."""

    def matching(self, folder: str, pattern: str, last: bool) -> tuple[Files, list[str]]:
        """Files and folders right in a folder, by a pattern of their names; `last`: of a glob's parts."""


def glob(place: Place, pattern: str) -> Files:
    """Files that match a pattern, and all files in the folders that do.

    Args:
        place: where.
        pattern: a path with `*`, `?`, `[…]`, or `**` for any number of folders.

    Raises:
        UnlistedError: a folder in which something could match cannot be listed.
    """
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in pattern.split("/")]
    first = next(number for number, part in enumerate(parts) if MAGIC.search(part))
    return _matching(place, "/".join(parts[:first]) or "/", parts[first:])


def inside(files: fsspec.AbstractFileSystem, folder: str, pattern: str) -> list[str]:
    """Files in a folder that match a pattern of their path from there, sorted; raises as `glob`. Folders that
    match come too: who opens one is told.

    On S3 the file system lists the last folders by itself: it then knows the files, and to open one takes no
    request to find out.
    """
    local = isinstance(files, LocalFileSystem)
    *parts, name = pattern.split("/")
    place: Place = Disk() if local else Bucket(files)
    folders = [folder]
    for part in parts:
        folders = [each for outer in folders for each in place.matching(outer, part, last=False)[1]]
    found: list[str] = []
    for each in folders:
        if local:
            named, below = place.matching(each, name, last=True)
            found += [*named, *below]
            continue
        with _naming_the_folder(each), contextlib.suppress(FileNotFoundError):
            found += files.ls(each, detail=False)
    wanted = _wanted(name)
    return sorted(path for path in found if wanted(path.rsplit("/", 1)[1]))


def _matching(place: Place, folder: str, parts: list[str]) -> Files:
    if parts[0] == "**":
        start = len(folder.rstrip("/")) + 1
        tests = [None if part == "**" else _wanted(part) for part in parts]
        return {
            path: size for path, size in place.below(folder).items() if _fits(path[start:].split("/"), tests)
        }
    found, folders = place.matching(folder, parts[0], last=not parts[1:])
    if parts[1:]:
        found = {}
    for each in folders:
        found.update(_matching(place, each, parts[1:]) if parts[1:] else place.below(each))
    return found


Test = Callable[[str], bool]


def _fits(path: list[str], tests: list[Test | None]) -> bool:
    """Whether the parts of a path, or of a folder that it lies in, fit; None fits any number of parts."""
    if not tests:
        return True
    test, *rest = tests
    if test is None:
        return not rest or any(_fits(path[skipped:], rest) for skipped in range(len(path)))
    return bool(path) and test(path[0]) and _fits(path[1:], rest)


def _is_hidden(name: str) -> bool:
    """On S3 `.` and `..` are names like others."""
    return name.startswith(".") and name not in (".", "..")


def _wanted(pattern: str) -> Test:
    matches = re.compile(fnmatch.translate(pattern)).match
    return lambda name: bool(matches(name)) and (pattern.startswith(".") or not _is_hidden(name))


class Disk:
    """Folders on local disks. A link to a file is a file, a link to a folder is passed over."""

    def below(self, folder: str) -> Files:
        found: Files = {}
        waiting = [folder]
        while waiting:
            inside, folders = self._scan(waiting.pop(), lambda name: not _is_hidden(name))
            found.update(inside)
            waiting += folders
        return found

    def matching(self, folder: str, pattern: str, last: bool) -> tuple[Files, list[str]]:
        if MAGIC.search(pattern):
            return self._scan(folder, _wanted(pattern))
        found: Files = {}
        path = os.path.join(folder, pattern)
        try:
            if os.path.isdir(path):
                return {}, [path]
            _add(found, path, os.path.islink(path))
        except NotADirectoryError:
            return {}, []
        except OSError as error:
            raise UnlistedError(folder, error) from error
        return found, []

    def _scan(self, folder: str, wanted: Test) -> tuple[Files, list[str]]:
        found: Files = {}
        folders = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not wanted(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    else:
                        _add(found, entry.path, entry.is_symlink())
        except FileNotFoundError:
            pass  # deleted after its own folder was listed
        except OSError as error:
            raise UnlistedError(folder, error) from error
        return found, folders


def _add(found: Files, path: str, is_link: bool) -> None:
    """Add a file that was listed: no pipe, which one would wait for, and none that was deleted since."""
    try:
        info = os.stat(path)
    except FileNotFoundError:
        if is_link:
            found[path] = None
    except OSError:
        if not is_link:
            raise
        found[path] = None
    else:
        if stat.S_ISREG(info.st_mode):
            found[path] = info.st_size


class Bucket:
    """Prefixes on S3, as folders. Names of objects stay as they are: `a//b`, `./a` and `a/../b` differ.

    tags: ETags of the objects that were listed and are `tagged`.
    """

    def __init__(self, files: Any, tagged: Test = lambda path: False):
        """`files`: s3fs's file system; `tagged`: of which objects, by their names, the ETag is kept."""
        self._files = files
        self._tagged = tagged
        self.tags: dict[str, str] = {}

    def _note(self, path: str, tag: str) -> None:
        if tag and self._tagged(path):
            self.tags[path] = tag

    def below(self, folder: str) -> Files:
        with _naming_the_folder(folder):
            found: Files = s3_listing.find(self._files, folder, self._note)
        start = len(folder) + 1

        def counts(path: str) -> bool:
            # An object whose name ends in a slash stands for a folder.
            return not (path.endswith("/") or any(map(_is_hidden, path[start:].split("/"))))

        # In place: of ten million names a second dictionary would take a gigabyte.
        for path in [path for path in found if not counts(path)]:
            del found[path]
        return found

    def matching(self, folder: str, pattern: str, last: bool) -> tuple[Files, list[str]]:
        beginning = MAGIC.split(pattern, maxsplit=1)[0]
        if beginning == pattern and not last:
            return {}, [f"{folder}/{pattern}"]  # what is not there has nothing below it
        with _naming_the_folder(folder):
            found, folders = s3_listing.level(self._files, folder, beginning, self._note)
        start, wanted = len(folder) + 1, _wanted(pattern)
        inside: Files = {path: size for path, size in found.items() if wanted(path[start:])}
        return inside, [each for each in folders if wanted(each[start:])]


@contextlib.contextmanager
def _naming_the_folder(folder: str) -> Iterator[None]:
    """Turns what S3 raises into an error that names the prefix; not that there is no such bucket."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, *storage_errors()) as error:
        raise UnlistedError(f"s3://{folder}", error) from error
