"""From inputs to shards: which files hold frames, and which of them a read task takes.

A shard is a picture, a WebDataset tar (plain or gzipped), a Parquet file with an image column, or a video.
"""

import math
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import botocore.exceptions
import fsspec

from faceq import manifest, s3_listing
from faceq.config import S3
from faceq.errors import UsageError
from faceq.storage import absolute, filesystem, is_remote, path_of

PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    # Not decoded, but a person who has such frames must find a row for each that says so.
    *(".heic", ".heif", ".avif", ".jp2"),
)
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
PARQUET_ENDINGS = (".parquet",)
VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"),
    *(".mpg", ".mpeg", ".vob", ".flv", ".wmv", ".asf", ".ogv"),
)

PICTURES_PER_TASK = 64
"""Single pictures of one read task, at least."""

MAX_READ_TASKS = 4000
"""Read tasks of a job, at most: Ray plans them all before the first one runs, and the driver keeps them.
Larger inputs have larger tasks, which stream: frames go on in batches, not when their task is through."""

Kind = Literal["picture", "tar", "parquet", "video"]


@dataclass(frozen=True, slots=True)
class Shard:
    """A source of frames: its name in the table, how its file system calls it, its kind and bytes (None
    where nobody has asked), and whether it was seen to be there, or only named."""

    source: str
    path: str
    kind: Kind
    size: int | None
    seen: bool = True


def list_shards(inputs: Iterable[str], s3: S3, manifests: Iterable[str] = ()) -> list[Shard]:
    """All shards that the inputs name, each once, sorted by name.

    Args:
        inputs: files, folders (searched through all levels) and globs, local or `s3://`. Hidden files
            (a dot first) and files of other kinds inside a folder are passed over.
        s3: settings of the file system.
        manifests: lists of files (see `faceq.manifest`). These are not looked for, and none is passed
            over: what has no known ending is taken for a picture.

    Raises:
        UsageError: an input that is not there, holds no frames, or may not be listed.
    """
    shards: dict[str, Shard] = {}
    for uri in inputs:
        found = _list_input(uri, s3)
        if not found:
            raise UsageError(
                f"{uri}: no frames here: looked for pictures ({', '.join(PICTURE_ENDINGS[:4])}, …), "
                f"{', '.join((*TAR_ENDINGS, *PARQUET_ENDINGS, *VIDEO_ENDINGS))}"
            )
        shards.update((shard.source, shard) for shard in found)
    for uri in manifests:
        for place, size in manifest.entries(uri, s3):
            shard = _named_shard(place, size)
            shards[shard.source] = shard
    if not shards:
        raise UsageError("no input given: name at least one file, folder, glob or manifest")
    return [shards[source] for source in sorted(shards)]


def outside(shards: list[Shard], place: str) -> list[Shard]:
    """The shards that do not lie in a folder or under an `s3://` prefix, links to either followed."""
    if is_remote(place):
        return [shard for shard in shards if not shard.source.startswith(f"{place}/")]
    # Asked once for each folder: of a million pictures it would take a while.
    folders = {os.path.dirname(shard.path) for shard in shards if not is_remote(shard.source)}
    root = os.path.realpath(place)
    inside = {folder for folder in folders if f"{os.path.realpath(folder)}/".startswith(f"{root}/")}
    return [s for s in shards if is_remote(s.source) or os.path.dirname(s.path) not in inside]


def _list_input(uri: str, s3: S3) -> list[Shard]:
    files = filesystem(uri, s3)
    try:
        files.invalidate_cache()
        found = _expand(files, path_of(uri), uri)
        files.invalidate_cache()  # s3fs would keep what a glob said of each object
        return found
    except FileNotFoundError:
        raise UsageError(f"{uri}: there is no such file, folder or bucket") from None
    except PermissionError as error:
        raise UsageError(f"{uri}: may not be read or listed: {words(error)}: check credentials") from None
    except (OSError, botocore.exceptions.BotoCoreError) as error:
        raise UsageError(f"{uri}: cannot be listed: {words(error)}") from None


def _expand(files: fsspec.AbstractFileSystem, path: str, uri: str) -> list[Shard]:
    # A file that is really called `a[1].jpg` goes before the glob that its name would be.
    if files.exists(path):
        info = files.info(path)
        if info["type"] != "directory":
            if _special(info):
                raise UsageError(f"{uri}: is a pipe, a socket or a device: name files and folders")
            shard = _shard(uri, path, info["size"])
            if shard is None:
                endings = ", ".join((*TAR_ENDINGS, *PARQUET_ENDINGS, *VIDEO_ENDINGS, *PICTURE_ENDINGS[:4]))
                raise UsageError(f"{uri}: not a kind of input that is known by its ending ({endings}, …)")
            return [shard]
        found = _all_below(files, path, uri)
    else:
        if not any(sign in path for sign in "*?["):
            # Where a bucket may not be listed, `exists` is false too: `ls` tells the two apart.
            files.ls(path)
            raise FileNotFoundError(path)
        found = {}
        for match, info in files.glob(path, detail=True).items():
            inside = info["type"] == "directory"
            found.update(_all_below(files, match, uri) if inside else _sizes({match: info}))
        if not found:
            raise UsageError(f"{uri}: nothing matches")
    shards = (_shard(uri, name, size) for name, size in found.items() if _visible(name, path))
    return [shard for shard in shards if shard is not None]


def _all_below(files: fsspec.AbstractFileSystem, folder: str, uri: str) -> dict[str, int]:
    """Bytes of each file in a folder, through all levels, by its path."""
    return s3_listing.find(files, folder) if is_remote(uri) else _sizes(files.find(folder, detail=True))


def _sizes(found: dict[str, dict[str, Any]]) -> dict[str, int]:
    return {name: info["size"] for name, info in found.items() if not _special(info)}


def _special(info: dict[str, Any]) -> bool:
    """Whether this is no file: to open a pipe is to wait for who writes into it, maybe for ever. Links to
    files are files; a link to nothing is a frame that is gone."""
    if info["type"] != "other":
        return False
    try:
        return not stat.S_ISREG(os.stat(info["name"]).st_mode)
    except OSError:
        return False


def _visible(name: str, root: str) -> bool:
    below = name[len(os.path.commonpath([name, root])) :]
    return not any(part.startswith(".") for part in below.split("/"))


def _shard(uri: str, path: str, size: int) -> Shard | None:
    kind = kind_of(path)
    if kind is None:
        return None
    source = absolute(f"s3://{path}" if is_remote(uri) else path)
    return Shard(printable(source), path, kind, int(size or 0))


def _named_shard(uri: str, size: int | None) -> Shard:
    """A shard that somebody has named and nobody looked at."""
    source = absolute(uri)
    path = path_of(source)
    return Shard(printable(source), path, kind_of(path) or "picture", size, seen=False)


def recorded(source: str) -> Shard:
    """A shard that a table names, as `printable` does; one that is really called so goes before."""
    shard = _named_shard(source, None)
    if is_remote(source) or not _ESCAPED.search(source) or os.path.exists(shard.path):
        return shard
    path = _ESCAPED.sub(lambda byte: os.fsdecode(bytes.fromhex(byte[1])), shard.path)
    return replace(shard, path=path)


_ESCAPED = re.compile(r"\\x([89a-f][0-9a-f])")


def kind_of(name: str) -> Kind | None:
    """What a file is, by its ending; None if nothing that holds frames."""
    lower = name.lower()
    if lower.endswith(PICTURE_ENDINGS):
        return "picture"
    if lower.endswith(TAR_ENDINGS):
        return "tar"
    if lower.endswith(VIDEO_ENDINGS):
        return "video"
    return "parquet" if lower.endswith(PARQUET_ENDINGS) else None


def printable(name: str) -> str:
    """A name that can be written as UTF-8: bytes of it that are not become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def group(shards: list[Shard]) -> list[list[Shard]]:
    """Shards of one read task each: a tar, a Parquet file or a video alone, single pictures by the dozen;
    more where there would be more than MAX_READ_TASKS of a sort."""
    large = [shard for shard in shards if shard.kind != "picture"]
    pictures = [shard for shard in shards if shard.kind == "picture"]
    return [*_slices(large, 1), *_slices(pictures, PICTURES_PER_TASK)]


def _slices(shards: list[Shard], least: int) -> list[list[Shard]]:
    size = max(least, math.ceil(len(shards) / MAX_READ_TASKS))
    return [shards[i : i + size] for i in range(0, len(shards), size)]


def words(error: BaseException) -> str:
    """The error's own words on one line, its type where it has none."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
