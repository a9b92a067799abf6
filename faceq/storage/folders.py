"""List all files below a folder or a prefix, and the files that match a glob.

A folder that cannot be listed is an error: its frames would get no rows. (`find` and `glob` of fsspec, and
Python's `glob`, silently skip folders that they may not list.)
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
from faceq.storage.filesystem import storage_errors

MAGIC = re.compile(r"[*?[]")

Files = dict[str, int | None]
"""Size of each file in bytes, by its path in the file system; None for a broken symbolic link."""


class UnlistedError(FaceqError, OSError):
    """A folder could not be listed; `error` holds the reason."""

    def __init__(self, folder: str, error: Exception):
        super().__init__(f"{folder}: {error}")
        self.folder, self.error = folder, error


class Place(Protocol):
    """A disk or a bucket whose folders can be listed. Hidden files and folders are skipped, unless a pattern
    begins with a dot."""

    def below(self, folder: str) -> Files:
        """All files below a folder, at any depth."""

    def matching(self, folder: str, pattern: str, last: bool) -> tuple[Files, list[str]]:
        """Files and folders directly in a folder whose names match a pattern. `last`: whether the pattern is
        the last part of a glob."""


def glob(place: Place, pattern: str) -> Files:
    """Files that match a pattern, and all files below the folders that match it.

    Args:
        place: the disk or the bucket.
        pattern: a path with `*`, `?`, `[…]`, or `**` for any number of folders.

    Raises:
        UnlistedError: a folder that could contain a match cannot be listed.
    """
    parts = [part if part == "**" else re.sub(r"\*+", "*", part) for part in pattern.split("/")]
    first = next(number for number, part in enumerate(parts) if MAGIC.search(part))
    return _matching(place, "/".join(parts[:first]) or "/", parts[first:])


def inside(files: fsspec.AbstractFileSystem, folder: str, pattern: str) -> list[str]:
    """Files in a folder whose path relative to it matches a pattern, sorted. Folders that match are included;
    opening one fails. Raises the same errors as `glob`.

    On S3, the file system lists the innermost folders itself. It then caches their files, and needs no
    further request to open one of them.
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
        with _listing_errors(files, each), contextlib.suppress(FileNotFoundError):
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
    """Whether the parts of a path, or those of a folder above it, pass the tests; None matches any number of
    parts."""
    if not tests:
        return True
    test, *rest = tests
    if test is None:
        return not rest or any(_fits(path[skipped:], rest) for skipped in range(len(path)))
    return bool(path) and test(path[0]) and _fits(path[1:], rest)


def _is_hidden(name: str) -> bool:
    """Whether a name begins with a dot. `.` and `..` are ordinary names in a store."""
    return name.startswith(".") and name not in (".", "..")


def _wanted(pattern: str) -> Test:
    matches = re.compile(fnmatch.translate(pattern)).match
    return lambda name: bool(matches(name)) and (pattern.startswith(".") or not _is_hidden(name))


class Disk:
    """Folders on local disks. A symbolic link to a file counts as a file; one to a folder is skipped."""

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
    """Add a listed file, if it is a regular file that still exists. Reading from a pipe would block."""
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
    """Prefixes of an object store, as folders. Object names are not normalised: `a//b`, `./a` and `a/../b`
    differ.

    tags: versions (such as ETags) of the listed objects for which `tagged` is true, by `bucket/key`.
    """

    def __init__(self, files: Any, tagged: Test = lambda path: False):
        """`files`: the file system of a store; `tagged`: whether to keep the version of an object, by its
        name."""
        self._files = files
        self._tagged = tagged
        self.tags: dict[str, str] = {}

    def _note(self, path: str, tag: str) -> None:
        if tag and self._tagged(path):
            self.tags[path] = tag

    def below(self, folder: str) -> Files:
        with _listing_errors(self._files, folder):
            found: Files = self._files.objects_below(folder, self._note)
        start = len(folder) + 1

        def is_skipped(path: str) -> bool:
            # An object whose name ends in a slash stands for a folder.
            return path.endswith("/") or any(map(_is_hidden, path[start:].split("/")))

        # Delete in place: a second dictionary of ten million names would take a gigabyte.
        for path in [path for path in found if is_skipped(path)]:
            del found[path]
        return found

    def matching(self, folder: str, pattern: str, last: bool) -> tuple[Files, list[str]]:
        beginning = MAGIC.split(pattern, maxsplit=1)[0]
        if beginning == pattern and not last:
            return {}, [f"{folder}/{pattern}"]  # a prefix that does not exist lists as empty
        with _listing_errors(self._files, folder):
            found, folders = self._files.objects_in(folder, beginning, self._note)
        start, wanted = len(folder) + 1, _wanted(pattern)
        inside: Files = {path: size for path, size in found.items() if wanted(path[start:])}
        return inside, [each for each in folders if wanted(each[start:])]


@contextlib.contextmanager
def _listing_errors(files: Any, folder: str) -> Iterator[None]:
    """Turn errors of a store into an UnlistedError that names the prefix; errors of faceq and a
    FileNotFoundError (no such bucket) are raised unchanged."""
    try:
        yield
    except (FaceqError, FileNotFoundError):
        raise
    except (OSError, *storage_errors()) as error:
        raise UnlistedError(files.unstrip_protocol(folder), error) from error
