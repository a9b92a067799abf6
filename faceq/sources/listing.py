"""From inputs to shards: which files hold frames, and which of them a read task takes.

A shard is a picture, a WebDataset tar (plain or gzipped), a Parquet file with an image column, or a video.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import fsspec

from faceq.errors import FaceqError, UsageError
from faceq.messages.one_line import one_line
from faceq.sources import manifest
from faceq.sources.overlaps import listed_twice, outside_of, tables_among
from faceq.storage.faults import detailed_error, failure, fault_of
from faceq.storage.filesystem import absolute, filesystem, is_remote, path_of, storage_errors
from faceq.storage.folders import MAGIC, Bucket, Disk, Files, Place, UnlistedError, glob
from faceq.storage.settings import S3Settings

PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".mpo", ".pbm", ".pgm", ".ppm", ".pnm"),
    # Not decoded, but a person who has such frames must find a row for each that says so.
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".jxl"),
)
"""What decides by its name; once a file is opened, its bytes do (see `faceq.sources.sniff`)."""
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

_LONGEST_ENDING = 12

Kind = Literal["picture", "tar", "parquet", "video"]


@dataclass(frozen=True, slots=True)
class Shard:
    """A source of frames: its name in the table, how its file system calls it, its kind and bytes (None
    where nobody has asked), whether it was seen to be there, or only named, and whether it is `known` to hold
    frames: if not, it is passed over unless its bytes say so. tag: its ETag, of other kinds than pictures on
    S3, where the listing told it."""

    source: str
    path: str
    kind: Kind
    size: int | None
    seen: bool = True
    known: bool = True
    tag: str | None = None


def list_shards(
    inputs: Iterable[str],
    s3: S3Settings,
    manifests: Iterable[str] = (),
    any_name: bool = False,
    passed_over: set[str] | None = None,
    notes: list[str] | None = None,
) -> list[Shard]:
    """All shards that the inputs name, each once, sorted by name.

    Args:
        inputs: files, folders (searched through all levels) and globs, local or `s3://`. Hidden files
            (a dot first) and files of other kinds inside a folder are passed over.
        s3: settings of the file system.
        manifests: lists of files (see `faceq.sources.manifest`). These are not looked for, and none is passed
            over: what has no known ending is taken for a picture.
        any_name: files without a known ending are shards, too, not `known` if they lie in a folder.
        passed_over: takes the names of files that are passed over for their endings.
        notes: takes what a person should know of the inputs though nothing is broken: a result table in a
            folder, which is passed over, and folders that links make two of.

    Raises:
        UsageError: an input that is not there, or holds no frames.
        StorageError: one that cannot be listed whole.
    """
    shards: dict[str, Shard] = {}
    said: list[str] = []
    for uri in inputs:
        found, others = _list_input(uri, s3, any_name)
        tables = tables_among([*others, *(shard.source for shard in found)])
        left = outside_of((shard.source for shard in found), tables)
        found = [shard for shard in found if shard.source in left]
        others = sorted(outside_of(others, tables))
        said += [f"{table}: is a faceq result table: no part of it is read as frames" for table in tables]
        if not found and tables:
            raise UsageError(f"{uri}: no frames here but those of a faceq result table: {tables[0]}")
        if not found:
            raise UsageError(
                f"{uri}: no frames here{_counted(others)}: looked for pictures "
                f"({', '.join(PICTURE_ENDINGS[:4])}, …), "
                f"{', '.join((*TAR_ENDINGS, *PARQUET_ENDINGS, *VIDEO_ENDINGS))}"
                f"{'' if any_name else '; --any-name reads files by their bytes'}"
            )
        # A file that somebody has named is known, whichever input comes first.
        shards.update((s.source, s) for s in found if s.known or s.source not in shards)
        if passed_over is not None:
            passed_over.update(others)
    for uri in manifests:
        for place, size in manifest.entries(uri, s3):
            shard = _named_shard(place, size)
            shards[shard.source] = shard
    if not shards:
        raise UsageError("no input given: name at least one file, folder, glob or manifest")
    if notes is not None:
        local = [shard for shard in shards.values() if not is_remote(shard.source)]
        folders = {os.path.dirname(shard.path): os.path.dirname(shard.source) for shard in local}
        notes += [*dict.fromkeys(said), *listed_twice(folders)]
    return [shards[source] for source in sorted(shards)]


def _counted(others: list[str]) -> str:
    return f": passed over {endings_text(Counter(map(ending_of, others)))}" if others else ""


def ending_of(name: str) -> str:
    """The ending by which a file that holds no frames is counted: of letters and digits, in lower case."""
    ending = os.path.splitext(name)[1].lower()
    if ending in ("", "."):
        return "(no ending)"
    plain = len(ending) <= _LONGEST_ENDING and ending[1:].isalnum() and not ending[1:].isdigit()
    return ending if plain else "(other)"


def endings_text(counts: Mapping[str, int], most: int = 8) -> str:
    """Counts by ending, the most frequent first: `3 .txt, 1 .json`."""
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{count:,} {ending}" for ending, count in found[:most])
    return listed + (", …" if len(found) > most else "")


def exclude_below(shards: list[Shard], place: str) -> list[Shard]:
    """The shards that do not lie in a folder or under an `s3://` prefix, links to either followed."""
    if is_remote(place):
        return [shard for shard in shards if not shard.source.startswith(f"{place}/")]
    # Asked once for each folder: of a million pictures it would take a while.
    folders = {os.path.dirname(shard.path) for shard in shards if not is_remote(shard.source)}
    root = os.path.realpath(place)
    inside = {folder for folder in folders if f"{os.path.realpath(folder)}/".startswith(f"{root}/")}
    return [s for s in shards if is_remote(s.source) or os.path.dirname(s.path) not in inside]


def _list_input(uri: str, s3: S3Settings, any_name: bool) -> tuple[list[Shard], list[str]]:
    """The shards of an input, and the names of files that are passed over."""
    path = path_of(uri)
    files = filesystem(uri, s3)
    place: Place = Bucket(files, _may_be_large) if is_remote(uri) else Disk()
    try:
        files.invalidate_cache()
        found, is_folder = _expand(files, place, path, uri)
        files.invalidate_cache()  # s3fs would keep what it said of each object
    except FileNotFoundError:
        raise UsageError(f"{uri}: there is no such file, folder or bucket") from None
    except UnlistedError as error:
        raise type(failure(uri, error))(_unlisted(uri, path, error)) from None
    except FaceqError:
        raise
    except ValueError as error:  # a NUL in a name
        raise UsageError(f"{uri}: cannot be listed: {one_line(error)}") from None
    except (OSError, *storage_errors()) as error:
        said = detailed_error(error, files, path)
        raise type(failure(uri, said))(f"{uri}: cannot be listed: {_why(said)}") from None
    tags = place.tags if isinstance(place, Bucket) else {}
    shards, others = [], []
    while found:  # emptied on the way: there may be ten million names
        name, size = found.popitem()
        kind = kind_of(name)
        if kind is None and not any_name:
            others.append(absolute(f"s3://{name}" if is_remote(uri) else name))
        else:
            known = kind is not None or not is_folder
            full = f"s3://{name}" if is_remote(uri) else name
            shards.append(_shard(full, kind, size, known=known, tag=tags.get(name)))
    if others and not is_folder:
        endings = ", ".join((*TAR_ENDINGS, *PARQUET_ENDINGS, *VIDEO_ENDINGS, *PICTURE_ENDINGS[:4]))
        raise UsageError(
            f"{uri}: not a kind of input that is known by its ending ({endings}, …): --any-name reads it by "
            "its bytes"
        )
    return shards, others


def _may_be_large(path: str) -> bool:
    return kind_of(path) not in (None, "picture")


def _expand(files: fsspec.AbstractFileSystem, place: Place, path: str, uri: str) -> tuple[Files, bool]:
    """The files that an input names, and whether it is one of many: a folder or a glob."""
    remote = is_remote(uri)
    # A file that is really called `a[1].jpg` goes before the glob that its name would be.
    if files.exists(path):
        info = files.info(path)
        if info["type"] == "directory":
            return place.below(path), True
        if not remote and not os.path.isfile(path):
            raise UsageError(f"{uri}: is a pipe, a socket or a device: name files and folders")
        return {path: info["size"]}, False
    if not MAGIC.search(path):
        # Where a bucket may not be listed, `exists` is false too: `ls` tells the two apart.
        files.ls(path)
        raise FileNotFoundError(path)
    if remote and MAGIC.search(path.split("/", 1)[0]):
        raise UsageError(f"{uri}: a pattern cannot stand for buckets: name the bucket")
    found = glob(place, path)
    if not found:
        raise UsageError(f"{uri}: nothing matches")
    return found, True


def _unlisted(uri: str, path: str, error: UnlistedError) -> str:
    if error.folder.removeprefix("s3://") == path:
        return f"{uri}: cannot be listed: {_why(error.error)}"
    return (
        f"{uri}: cannot be listed whole: {printable(error.folder)}: {_why(error.error)}; or name only "
        "folders that can be listed"
    )


def _why(error: Exception) -> str:
    fault = fault_of(error)
    return fault.text if fault else one_line(error)


def _shard(
    place: str,
    kind: Kind | None,
    size: int | None,
    seen: bool = True,
    known: bool = True,
    tag: str | None = None,
) -> Shard:
    source = absolute(place)
    # Of local files both are one string, unless the name is not UTF-8: that halves the memory of a long list.
    path = source.removeprefix("s3://")
    return Shard(source_of(source), path, kind or "picture", size, seen, known, tag)


def _named_shard(place: str, size: int | None) -> Shard:
    """A shard that somebody has named and nobody looked at."""
    return _shard(place, kind_of(place), size, seen=False)


def source_of(place: str) -> str:
    """The name of a source in the table, from its absolute path or URI. Names of objects are text already."""
    return place if is_remote(place) else printable(place)


def shard_from_table(source: str) -> Shard:
    """A shard that a table names, as `source_of` does."""
    path = path_of(source) if is_remote(source) else _as_named(source)
    return Shard(source, path, kind_of(source) or "picture", None, seen=False)


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


_LIKE_AN_ESCAPE = re.compile(r"\\(?=x[0-9a-f]{2})")
_ESCAPE = re.compile(r"\\x(5c(?=x[0-9a-f]{2})|[89a-f][0-9a-f])")


def printable(name: str | bytes) -> str:
    """A name as text that can be written as UTF-8; no two names give the same text.

    Bytes that are not UTF-8 become `\\xNN`, lower-case hex. A backslash before text that looks like such an
    escape becomes `\\x5c`; others stay.
    """
    if isinstance(name, bytes):
        name = name.decode("utf-8", "surrogateescape")
    text = _LIKE_AN_ESCAPE.sub(r"\\x5c", name)
    try:
        text.encode()
    except UnicodeEncodeError:
        return b"".join(map(_bytes_of, text)).decode("utf-8", "backslashreplace")
    return text


def _bytes_of(letter: str) -> bytes:
    """One character, or the byte that it stands for where a name was not UTF-8."""
    is_byte = "\udc80" <= letter <= "\udcff"
    return letter.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")


def _as_named(text: str) -> str:
    """The name of which `printable` has made a text, as the operating system takes it."""
    return _ESCAPE.sub(lambda found: os.fsdecode(bytes.fromhex(found[1])), text)


def group(shards: list[Shard]) -> list[list[Shard]]:
    """Shards of one read task each: a tar, a Parquet file or a video alone, single pictures by the dozen;
    more where there would be more than MAX_READ_TASKS of a sort."""
    large = [shard for shard in shards if shard.kind != "picture"]
    pictures = [shard for shard in shards if shard.kind == "picture"]
    return [*_slices(large, 1), *_slices(pictures, PICTURES_PER_TASK)]


def _slices(shards: list[Shard], least: int) -> list[list[Shard]]:
    size = max(least, math.ceil(len(shards) / MAX_READ_TASKS))
    return [shards[i : i + size] for i in range(0, len(shards), size)]
