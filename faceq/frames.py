"""From shards to frames: a stream of encoded pictures, so that no shard is ever held whole in memory.

What cannot be read is a frame with an error, never an exception.
"""

import contextlib
import errno
import gzip
import itertools
import posixpath
import struct
import tarfile
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from faceq import video
from faceq.config import S3, Video
from faceq.listing import Shard, kind_of, printable, recorded, words
from faceq.parquet import ParquetFile
from faceq.storage import READ_AHEAD, filesystem, has_failed, is_remote
from faceq.table import BREAK, SCHEMA, frame_id

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "content", "data")
"""Names by which the image column of a Parquet shard is known, where several columns are binary."""

KEY_COLUMNS = ("key", "id", "path")
"""The first of these that a Parquet shard has names its frames; else the row number does."""

MAX_FRAME_BYTES = 256 << 20
"""A larger encoded picture is unreadable: it would be held in memory whole."""

_PICTURES_AT_ONCE = 16
_BATCH_FRAMES = 32
_BATCH_BYTES = 8 << 20
_GZIP = b"\x1f\x8b"
_MAX_HEADER_BYTES = 1 << 20
_LONG_HEADERS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)

EVERY_FRAME = Video()


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, or (frame_index -1) the break where a source stops being readable.

    image: encoded bytes; None if the frame could not be read (then `error` says why) or is already
    `done`. timestamp_s: seconds from the first frame of its video. refused: the storage gave nothing, as
    opposed to giving something broken; unseen: because nothing is there, where nobody has looked before.
    """

    source: str
    member: str | None
    frame_index: int
    image: bytes | None
    error: str | None = None
    refused: bool = False
    unseen: bool = False
    done: bool = False
    timestamp_s: float | None = None

    @property
    def id(self) -> int:
        return frame_id(self.source, self.member, self.frame_index)


# --- reading -------------------------------------------------------------------------------------


def read_shards(
    shards: Iterable[Shard], s3: S3, done: Container[int] = (), sampling: Video = EVERY_FRAME
) -> Iterator[Frame]:
    """The frames of some shards, in order.

    Args:
        shards: what to read.
        s3: settings of the file system.
        done: ids of frames that need no reading; they come as frames without bytes, marked `done`.
        sampling: which frames of a video are frames of the input.
    """
    pictures: list[Shard] = []
    for shard in shards:
        if shard.kind == "picture":
            pictures.append(shard)
            if len(pictures) == _PICTURES_AT_ONCE:
                yield from _read_pictures(pictures, s3, done)
                pictures = []
        elif shard.kind == "video":
            yield from _read_video(shard, s3, done, sampling)
        else:
            read = _read_tar if shard.kind == "tar" else _read_parquet
            yield from read(shard, s3, done)
    yield from _read_pictures(pictures, s3, done)


def read_again(sources: Iterable[str], wanted: Container[int], s3: S3) -> Iterator[Frame]:
    """Frames that a table has rows of, read from their sources once more.

    Args:
        sources: those that hold the frames, as the table names them.
        wanted: ids of the frames; others in the same sources are passed over.
        s3: settings of the file system.
    """
    # Not listed: for a hundred thousand pictures on S3 that would take hours. What is gone is an error.
    shards = [recorded(source) for source in sources]
    return (frame for frame in read_shards(shards, s3, done=_AllBut(wanted)) if not frame.done)


class _AllBut:
    """All ids but these."""

    def __init__(self, ids: Container[int]):
        self._ids = ids

    def __contains__(self, frame_id: object) -> bool:
        return frame_id not in self._ids


def _read_pictures(shards: list[Shard], s3: S3, done: Container[int]) -> Iterator[Frame]:
    wanted = []
    for shard in shards:
        if frame_id(shard.source, None, 0) in done:
            yield Frame(shard.source, None, 0, None, done=True)
        elif shard.size is not None and shard.size > MAX_FRAME_BYTES:
            yield Frame(shard.source, None, 0, None, error=_too_long(shard.size))
        else:
            wanted.append(shard)
    # Pictures of several inputs may stand in one task, some local and some on S3.
    for _, same in itertools.groupby(wanted, key=lambda shard: is_remote(shard.source)):
        yield from _fetch_pictures(list(same), s3)


def _fetch_pictures(shards: list[Shard], s3: S3) -> Iterator[Frame]:
    files = filesystem(shards[0].source, s3)
    # One call, so that an object store answers for all of them at once. With an end, which no picture that
    # is wanted reaches: without one s3fs asks for the size first, two requests a picture.
    contents = files.cat_ranges([shard.path for shard in shards], 0, MAX_FRAME_BYTES + 1, on_error="return")
    for shard, content in zip(shards, contents, strict=True):
        if _is_empty(content):
            yield Frame(shard.source, None, 0, b"")
        elif isinstance(content, Exception):
            yield Frame(shard.source, None, 0, None, error=_unread(content), **_blame(shard, content))
        elif len(content) > MAX_FRAME_BYTES:
            yield Frame(shard.source, None, 0, None, error=_too_long(len(content)))
        else:
            yield Frame(shard.source, None, 0, bytes(content))


def _is_empty(content: bytes | Exception) -> bool:
    """S3 has no range in an object without bytes: it answers InvalidRange (416), here an OSError."""
    return isinstance(content, OSError) and content.errno == errno.EINVAL


def _read_tar(shard: Shard, s3: S3, done: Container[int]) -> Iterator[Frame]:
    names: Counter[str] = Counter()
    offset = 0
    packed = False
    try:
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(_open(shard, s3))
            # Its content decides, not its ending: people rename, and download tools unpack or do not.
            packed = stream.read(len(_GZIP)) == _GZIP
            stream.seek(0)
            if packed:
                stream = cast(BinaryIO, stack.enter_context(_Unpacked(fileobj=stream)))
            tar = stack.enter_context(_tar_of(stream))
            for info in tar:
                offset = info.offset
                hidden = posixpath.basename(info.name).startswith(".")
                if not info.isdir() and kind_of(info.name) == "picture" and not hidden:
                    name = _unique(printable(info.name), names)
                    yield _tar_frame(shard, tar, info, name, done)
                # tarfile remembers all that it has seen: a leak on large shards.
                tar.members.clear()  # type: ignore[attr-defined]
            offset = tar.offset
            fault = getattr(tar, "fault", None)
            if fault is not None:
                raise tarfile.ReadError(fault)
    except Exception as error:
        yield _break(shard, error, f"at byte {offset}{' (unpacked)' if packed else ''}", done)


class _Unpacked(gzip.GzipFile):
    """gzip that gives all that comes before a break: its `read` would lose what it has gathered so far."""

    def read(self, size: int | None = -1) -> bytes:
        return self.read1(-1 if size is None else size)


def _tar_of(stream: BinaryIO) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=stream, mode="r|", tarinfo=_WatchedTarInfo)
    except tarfile.ReadError as error:
        raise tarfile.ReadError(f"it does not open as a tar ({error})") from None


def _tar_frame(
    shard: Shard, tar: tarfile.TarFile, info: tarfile.TarInfo, name: str, done: Container[int]
) -> Frame:
    if frame_id(shard.source, name, 0) in done:
        return Frame(shard.source, name, 0, None, done=True)
    if not info.isfile():
        what = f"a link to {printable(info.linkname)}" if info.islnk() or info.issym() else "a device or pipe"
        reason = f"{what}, not a picture: pack the shard with its content"
        return Frame(shard.source, name, 0, None, error=reason)
    if info.size > MAX_FRAME_BYTES:
        return Frame(shard.source, name, 0, None, error=_too_long(info.size))
    member = tar.extractfile(info)
    assert member is not None  # only links, folders and devices have no content
    return Frame(shard.source, name, 0, member.read())


class _WatchedTarInfo(tarfile.TarInfo):
    """tarfile ends quietly at a header that it cannot read; this notes on the archive that it did. It also
    ends at the first end-of-archive mark; this reads on, for archives that were put together by `cat`,
    and so that gzip comes to its checksum."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_WatchedTarInfo":
        ended = False
        while True:
            try:
                return super().fromtarfile(tar)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                ended = True
            except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
                if ended:
                    raise tarfile.EOFHeaderError("end of file") from None  # type: ignore[attr-defined]
                tar.fault = "no end-of-archive mark: cut off, or its writer was stopped"  # type: ignore[attr-defined]
                raise
            except tarfile.HeaderError as error:
                tar.fault = "no tar follows the end-of-archive mark" if ended else str(error)  # type: ignore[attr-defined]
                raise

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_WatchedTarInfo":
        if buf and not buf.strip(b"\0"):
            raise tarfile.EOFHeaderError("end of file header")  # type: ignore[attr-defined]
        info = super().frombuf(buf, encoding, errors)
        # tarfile reads such a header whole, and a gzipped one of any size takes no room in a shard.
        if info.type in _LONG_HEADERS and info.size > _MAX_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {info.size} bytes")
        return info


def _read_parquet(shard: Shard, s3: S3, done: Container[int]) -> Iterator[Frame]:
    names: Counter[str] = Counter()
    row = 0
    try:
        with _open(shard, s3) as stream, ParquetFile(stream, READ_AHEAD) as file:
            image = _image_column(file.schema_arrow)
            names_there = [name for name in file.schema_arrow.names if name != image]
            key = next((name for name in KEY_COLUMNS if name in names_there), None)
            # In the file's order, which is the order they are read in.
            columns = [name for name in file.schema_arrow.names if name in (image, key)]
            # One row group after another: a batch across two would lose the first where the second is broken.
            groups = range(file.num_row_groups)
            batches = (file.iter_batches(_BATCH_FRAMES, [i], columns) for i in groups)
            for batch in itertools.chain.from_iterable(batches):
                keys = _keys(batch[key]) if key else [None] * len(batch)
                for value, name in zip(batch[image], keys, strict=True):
                    member = _unique(_member_name(row if name is None else name), names)
                    yield _parquet_frame(shard, value, member, done)
                    row += 1
    except Exception as error:
        yield _break(shard, error, f"at row {row}", done)


def _keys(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # Text that is not UTF-8 can be had as bytes only; these are not checked.
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return column.to_pylist()


def _member_name(key: Any) -> str:
    return key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else printable(str(key))


def _image_column(schema: pa.Schema) -> str:
    images = [field.name for field in schema if _holds_images(field.type)]
    named = [name for name in IMAGE_COLUMNS if name in images]
    if len(images) == 1 or named:
        return named[0] if named else images[0]
    which = f"several binary columns ({', '.join(images)})" if images else "no binary column"
    raise pa.ArrowInvalid(
        f"{which} among {', '.join(schema.names) or 'none'}: call the one with the encoded pictures `image`"
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        # Hugging Face's image feature: a struct of `bytes` and `path`.
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_images(kind.field(index).type)
    if pa.types.is_dictionary(kind):
        return _holds_images(kind.value_type)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(is_kind(kind) for is_kind in (*binary, pa.types.is_fixed_size_binary))


def _parquet_frame(shard: Shard, value: pa.Scalar, member: str, done: Container[int]) -> Frame:
    if frame_id(shard.source, member, 0) in done:
        return Frame(shard.source, member, 0, None, done=True)
    content = value.as_py()
    if isinstance(content, dict):
        content = content["bytes"]
    if content is None:
        return Frame(shard.source, member, 0, None, error="the image column is null in this row")
    if len(content) > MAX_FRAME_BYTES:
        return Frame(shard.source, member, 0, None, error=_too_long(len(content)))
    return Frame(shard.source, member, 0, content)


def _read_video(shard: Shard, s3: S3, done: Container[int], sampling: Video) -> Iterator[Frame]:
    read = 0
    try:
        with _open(shard, s3) as stream:
            for frame in video.sample(video.read(stream), sampling):
                read = frame.index + 1
                yield _video_frame(shard, frame, done)
    except Exception as error:
        yield _break(shard, error, f"after {read} frames", done)


def _video_frame(shard: Shard, frame: video.VideoFrame, done: Container[int]) -> Frame:
    time = float(frame.time)
    if frame_id(shard.source, None, frame.index) in done:
        return Frame(shard.source, None, frame.index, None, done=True, timestamp_s=time)
    if frame.damaged:
        reason = "this frame of the video is damaged: the decoder patched it over"
        return Frame(shard.source, None, frame.index, None, error=reason, timestamp_s=time)
    return Frame(shard.source, None, frame.index, frame.encode(), timestamp_s=time)


def _open(shard: Shard, s3: S3) -> BinaryIO:
    files = filesystem(shard.source, s3)
    if not is_remote(shard.source):
        return files.open(shard.path, "rb")
    return files.open(shard.path, "rb", block_size=READ_AHEAD, cache_type="readahead")


def _unique(name: str, seen: Counter[str]) -> str:
    """The name, or for a repeated one the name with #2, #3, …"""
    seen[name] += 1
    return name if seen[name] == 1 else _unique(f"{name}#{seen[name]}", seen)


def _break(shard: Shard, error: Exception, where: str, done: Container[int]) -> Frame:
    if frame_id(shard.source, None, BREAK) in done:
        return Frame(shard.source, None, BREAK, None, done=True)
    if has_failed(error):
        what = _unread(error)
    elif isinstance(error, video.DamagedError):
        what = str(error)  # some of what comes after the damage may have been read
    else:
        what = f"broken {where}: {_reason(error)}: what comes after it is not read"
    return Frame(shard.source, None, BREAK, None, error=what, **_blame(shard, error))


def _blame(shard: Shard, error: Exception) -> dict[str, bool]:
    return {"refused": has_failed(error), "unseen": isinstance(error, FileNotFoundError) and not shard.seen}


def _unread(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "gone: it was there when the input was listed, or is a link to nothing"
    if isinstance(error, PermissionError):
        return f"access denied: {_reason(error)}: check permissions and credentials"
    return f"could not be read: {_reason(error)}"


_PUZZLING = (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error)
"""What parsers raise where bytes contradict each other, in words for programmers."""


def _reason(error: BaseException) -> str:
    """The error's own words on one line, its type where it has none."""
    if isinstance(error, _PUZZLING) and not isinstance(error, pa.ArrowException):
        return f"its structure is damaged ({type(error).__name__})"
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error):
        return "bytes that are not gzip follow"
    return words(error)


def _too_long(size: int) -> str:
    return f"{size} bytes are more than the {MAX_FRAME_BYTES} that an encoded picture may have"


# --- to tables -----------------------------------------------------------------------------------

_READ_COLUMNS = ("frame_id", "source", "member", "frame_index", "timestamp_s", "status", "error")
READ_SCHEMA = pa.schema(
    [pa.field(name, SCHEMA.field(name).type) for name in _READ_COLUMNS] + [pa.field("image", pa.binary())]
)
"""What a frame looks like when it enters the stages: who it is, its encoded bytes or its error."""


def in_batches(frames: Iterable[Frame], most: int = _BATCH_FRAMES) -> Iterator[list[Frame]]:
    """The frames in lists of so many, or of 8 MiB of encoded bytes."""
    waiting: list[Frame] = []
    size = 0
    for frame in frames:
        waiting.append(frame)
        size += len(frame.image or b"")
        if len(waiting) >= most or size >= _BATCH_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


def to_table(frames: Iterable[Frame]) -> pa.Table:
    """Frames as a table with READ_SCHEMA; those that are `done` are left out."""
    rows: list[dict[str, Any]] = [
        {
            "frame_id": frame.id,
            "source": frame.source,
            "member": frame.member,
            "frame_index": frame.frame_index,
            "timestamp_s": frame.timestamp_s,
            "status": "unreadable" if frame.image is None else None,
            "error": frame.error,
            "image": frame.image,
        }
        for frame in frames
        if not frame.done
    ]
    return pa.Table.from_pylist(rows, schema=READ_SCHEMA)
