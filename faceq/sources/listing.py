"""Expand inputs to shards, the files that contain frames, and group shards into read tasks.

A shard is an image, a WebDataset tar (plain or compressed), a Parquet file with an image column, a
RecordIO file, an LMDB file, or a video.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import fsspec

from faceq.errors import FaceqError, UsageError
from faceq.messages.one_line import one_line
from faceq.sources import manifest
from faceq.sources.kinds import Kind
from faceq.sources.overlaps import listed_twice, outside_of, tables_among
from faceq.storage.faults import detailed_error, failure, fault_of
from faceq.storage.filesystem import (
    absolute,
    file_name_of,
    filesystem,
    is_inside,
    is_remote,
    path_in_store,
    path_of,
    storage_errors,
    uri_of,
)
from faceq.storage.folders import MAGIC, Bucket, Disk, Files, Place, UnlistedError, glob
from faceq.storage.settings import S3Settings

PICTURE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".gif"),
    *(".bmp", ".dib", ".tif", ".tiff", ".mpo", ".pbm", ".pgm", ".ppm", ".pnm"),
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jxl"),
)
"""Extensions that select a file. Once a file is opened, its content counts (see `faceq.sources.sniff`)."""
TAR_ENDINGS = (
    *(".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"),
    *(".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz"),
)
PARQUET_ENDINGS = (".parquet",)
RECORD_ENDINGS = (".rec",)
LMDB_ENDINGS = (".mdb", ".lmdb")
_LOCK = "lock.mdb"
INDEX_ENDING = ".idx"
"""Extension of the index of a RecordIO file, which is beside it."""
VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts"),
    *(".mpg", ".mpeg", ".vob", ".flv", ".wmv", ".asf", ".ogv"),
)
_SHARD_ENDINGS = (*TAR_ENDINGS, *PARQUET_ENDINGS, *RECORD_ENDINGS, *LMDB_ENDINGS, *VIDEO_ENDINGS)

PICTURES_PER_TASK = 64
"""Minimum number of single images in one read task."""

MAX_READ_TASKS = 4000
"""Maximum number of read tasks in a job. Ray plans them all before the first one runs, and the driver keeps
them. Larger inputs have larger tasks. Tasks stream their frames in batches, before they finish."""

_LONGEST_ENDING = 12


@dataclass(frozen=True, slots=True)
class Shard:
    """A source of frames.

    source: its name in the table. path: its path in its file system. size: bytes, None if unknown. seen: the
    input was listed and the file was there; otherwise it was only named. known: the file is known to contain
    frames; otherwise it is skipped unless its content is an image, a tar, a Parquet file or a video. tag: its
    ETag, if the listing has it, for shards on S3 other than images. extra: what came with the shard in a
    manifest, a JSON object.
    """

    source: str
    path: str
    kind: Kind
    size: int | None
    seen: bool = True
    known: bool = True
    tag: str | None = None
    extra: str | None = None


def list_shards(
    inputs: Iterable[str],
    s3: S3Settings,
    manifests: Iterable[str] = (),
    any_name: bool = False,
    passed_over: set[str] | None = None,
    notes: list[str] | None = None,
    extra_bytes: int = 0,
) -> list[Shard]:
    """All shards of the inputs, without duplicates, sorted by name.

    Args:
        inputs: files, folders (searched recursively) and globs, local or `s3://`. Inside a folder, hidden
            files (starting with a dot) and files of other kinds are skipped.
        s3: settings of the file system.
        manifests: lists of files (see `faceq.sources.manifest`). faceq does not check that these files exist
            and skips none of them: a file without a known extension is treated as an image.
        any_name: files without a known extension are shards, too; in a folder they are not `known`.
        passed_over: receives the names of files that are skipped because of their extension.
        notes: receives remarks about inputs that are not damaged: a result table in a folder, which is
            skipped, and a folder that is listed twice because of a symbolic link.
        extra_bytes: maximum size of what came with a file in a manifest; 0: do not read it.

    Raises:
        UsageError: an input does not exist or contains no frames.
        StorageError: an input cannot be listed completely.
    """
    shards: dict[str, Shard] = {}
    said: list[str] = []
    for uri in inputs:
        found, others = _list_input(uri, s3, any_name)
        tables = tables_among([*others, *(shard.source for shard in found)])
        left = outside_of((shard.source for shard in found), tables)
        found = [shard for shard in found if shard.source in left]
        others = sorted(outside_of(others, tables))
        said += [f"{table}: is a faceq result table: not read as frames" for table in tables]
        if not found and tables:
            raise UsageError(f"{uri}: no frames here except in a faceq result table: {tables[0]}")
        if not found:
            raise UsageError(
                f"{uri}: no frames here{_counted(others)}: faceq reads images "
                f"({', '.join(PICTURE_ENDINGS[:4])}, …), "
                f"{', '.join(_SHARD_ENDINGS)}"
                f"{'' if any_name else '; --any-name reads files whatever their extension'}"
            )
        # A file that is named explicitly is known, even if a folder that contains it comes first.
        shards.update((s.source, s) for s in found if s.known or s.source not in shards)
        if passed_over is not None:
            passed_over.update(others)
    for uri in manifests:
        for entry in manifest.entries(uri, s3, extra_bytes):
            shard = _named_shard(entry)
            shards[shard.source] = shard
    if not shards:
        raise UsageError("no input given: name at least one file, folder, glob or manifest")
    if notes is not None:
        local = [shard for shard in shards.values() if not is_remote(shard.source)]
        folders = {os.path.dirname(shard.path): os.path.dirname(shard.source) for shard in local}
        notes += [*dict.fromkeys(said), *listed_twice(folders)]
    return [shards[source] for source in sorted(shards)]


def _counted(others: list[str]) -> str:
    return f": skipped {endings_text(Counter(map(ending_of, others)))}" if others else ""


def ending_of(name: str) -> str:
    """The extension under which a file without frames is counted: letters and digits, in lower case."""
    ending = os.path.splitext(file_name_of(name))[1].lower()
    if ending in ("", "."):
        return "(no extension)"
    plain = len(ending) <= _LONGEST_ENDING and ending[1:].isalnum() and not ending[1:].isdigit()
    return ending if plain else "(other)"


def endings_text(counts: Mapping[str, int], most: int = 8) -> str:
    """Counts by extension, the most frequent first: `3 .txt, 1 .json`."""
    found = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{count:,} {ending}" for ending, count in found[:most])
    return listed + (", …" if len(found) > most else "")


def exclude_below(shards: list[Shard], place: str) -> list[Shard]:
    """The shards that are not inside a folder or a prefix in a store. Symbolic links are resolved."""
    if is_remote(place):
        return [shard for shard in shards if not is_inside(shard.source, place)]
    # Resolve each folder once: resolving a million files would take a while.
    folders = {os.path.dirname(shard.path) for shard in shards if not is_remote(shard.source)}
    root = os.path.realpath(place)
    inside = {folder for folder in folders if f"{os.path.realpath(folder)}/".startswith(f"{root}/")}
    return [s for s in shards if is_remote(s.source) or os.path.dirname(s.path) not in inside]


def _list_input(uri: str, s3: S3Settings, any_name: bool) -> tuple[list[Shard], list[str]]:
    """The shards of an input, and the names of the files that are skipped."""
    path = path_of(uri)
    files = filesystem(uri, s3)
    place: Place = Bucket(files, _may_be_large) if is_remote(uri) else Disk()
    try:
        files.invalidate_cache()
        found, is_folder = _expand(files, place, path, uri)
        files.invalidate_cache()  # s3fs would keep an entry for each object
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
    companions = {_COMPANION[kind](name) for name in found if (kind := kind_of(name)) in _COMPANION}
    while found:  # empty it on the way to save memory: there may be ten million names
        name, size = found.popitem()
        if name in companions and is_folder:
            continue
        kind = kind_of(name)
        if kind is None and not any_name:
            others.append(absolute(uri_of(name, uri)))
        else:
            known = kind is not None or not is_folder
            shards.append(_shard(uri_of(name, uri), kind, size, known=known, tag=tags.get(name)))
    if others and not is_folder:
        endings = ", ".join((*_SHARD_ENDINGS, *PICTURE_ENDINGS[:4]))
        raise UsageError(
            f"{uri}: unknown file extension (known are {endings}, …): use --any-name to read it whatever its "
            "extension"
        )
    return shards, others


def _may_be_large(path: str) -> bool:
    return kind_of(path) not in (None, "picture")


def _expand(files: fsspec.AbstractFileSystem, place: Place, path: str, uri: str) -> tuple[Files, bool]:
    """The files of an input, and whether the input is a folder or a glob."""
    remote = is_remote(uri)
    # An existing file called `a[1].jpg` takes precedence over the glob of the same spelling.
    if files.exists(path):
        info = files.info(path)
        if info["type"] == "directory":
            return place.below(path), True
        if not remote and not os.path.isfile(path):
            raise UsageError(f"{uri}: is a pipe, a socket or a device: give a file or a folder")
        return {path: info["size"]}, False
    if not MAGIC.search(path):
        # `exists` is also false if listing the bucket is not permitted: then `ls` raises another error.
        files.ls(path)
        raise FileNotFoundError(path)
    if remote and MAGIC.search(path.split("/", 1)[0]):
        raise UsageError(f"{uri}: a glob cannot match buckets: name the bucket")
    found = glob(place, path)
    if not found:
        raise UsageError(f"{uri}: no file matches this glob")
    return found, True


def _unlisted(uri: str, path: str, error: UnlistedError) -> str:
    if path_in_store(error.folder) == path:
        return f"{uri}: cannot be listed: {_why(error.error)}"
    return (
        f"{uri}: cannot be listed completely: {printable(error.folder)}: {_why(error.error)}; or name only "
        "folders that can be listed"
    )


def _why(error: Exception) -> str:
    fault = fault_of(error)
    # The caller says that the listing failed.
    return fault.text.removeprefix("could not be read: ") if fault else one_line(error)


def _shard(
    place: str,
    kind: Kind | None,
    size: int | None,
    seen: bool = True,
    known: bool = True,
    tag: str | None = None,
    extra: str | None = None,
) -> Shard:
    source = absolute(place)
    # For a local file, path and source are the same string object (unless its name is not UTF-8). This halves
    # the memory of a long list.
    path = path_of(place) if is_remote(place) else source
    return Shard(source_of(source), path, kind or "picture", size, seen, known, tag, extra)


def _named_shard(entry: manifest.Entry) -> Shard:
    """A shard from a manifest, which was not checked for existence."""
    return _shard(entry.place, kind_of(entry.place), entry.size, seen=False, extra=entry.extra)


def source_of(place: str) -> str:
    """The name of a source in the table, from its absolute path or URI. Object names are valid text."""
    return place if is_remote(place) else printable(place)


def shard_from_table(source: str) -> Shard:
    """The shard of a source that is named as in the table (the inverse of `source_of`)."""
    path = path_of(source) if is_remote(source) else _as_named(source)
    return Shard(source, path, kind_of(source) or "picture", None, seen=False)


def kind_of(name: str) -> Kind | None:
    """The kind of a file from its extension; None if the extension is not one of a file with frames."""
    lower = file_name_of(name).lower()
    if lower.endswith(PICTURE_ENDINGS):
        return "picture"
    if lower.endswith(TAR_ENDINGS):
        return "tar"
    if lower.endswith(VIDEO_ENDINGS):
        return "video"
    if lower.endswith(RECORD_ENDINGS):
        return "record"
    if lower.endswith(LMDB_ENDINGS) and os.path.basename(lower) != _LOCK:
        return "lmdb"
    return "parquet" if lower.endswith(PARQUET_ENDINGS) else None


def index_path(path: str) -> str:
    """The path of the index of a RecordIO file."""
    return os.path.splitext(path)[0] + INDEX_ENDING


def lock_path(path: str) -> str:
    """The path of the lock file of an LMDB file."""
    folder, name = os.path.split(path)
    return os.path.join(folder, _LOCK) if name == "data.mdb" else f"{path}-lock"


_COMPANION: dict[Kind | None, Callable[[str], str]] = {"record": index_path, "lmdb": lock_path}
"""Files beside those of some kinds that have no frames, and are not counted as skipped."""

_LIKE_AN_ESCAPE = re.compile(r"\\(?=x[0-9a-f]{2})")
_ESCAPE = re.compile(r"\\x(5c(?=x[0-9a-f]{2})|[89a-f][0-9a-f])")


def printable(name: str | bytes) -> str:
    """A name as valid UTF-8 text. Different names give different texts.

    Bytes that are not UTF-8 become `\\xNN`, lower-case hex. A backslash before text that looks like such an
    escape becomes `\\x5c`; other backslashes stay.
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
    """A character in UTF-8, or the single byte that a surrogate escape represents."""
    is_byte = "\udc80" <= letter <= "\udcff"
    return letter.encode("utf-8", "surrogateescape" if is_byte else "surrogatepass")


def bytes_of_name(text: str) -> bytes:
    """The original bytes of a text that `printable` made of them."""
    return os.fsencode(_as_named(text))


def _as_named(text: str) -> str:
    """The original file name of a text made by `printable`."""
    return _ESCAPE.sub(lambda found: os.fsdecode(bytes.fromhex(found[1])), text)


def group(shards: list[Shard]) -> list[list[Shard]]:
    """Group shards into read tasks.

    Each tar, Parquet file and video gets its own task, and single images are grouped by PICTURES_PER_TASK.
    Groups are larger if there would be more than MAX_READ_TASKS of large shards or of images.
    """
    large = [shard for shard in shards if shard.kind != "picture"]
    pictures = [shard for shard in shards if shard.kind == "picture"]
    return [*_slices(large, 1), *_slices(pictures, PICTURES_PER_TASK)]


def _slices(shards: list[Shard], least: int) -> list[list[Shard]]:
    size = max(least, math.ceil(len(shards) / MAX_READ_TASKS))
    return [shards[i : i + size] for i in range(0, len(shards), size)]
