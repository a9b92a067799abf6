"""What the readers of all kinds of sources share: what they are told, what they find, and how they fail."""

import gzip
import io
import json
import os
import struct
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from faceq import __version__
from faceq.config import Limits, Video
from faceq.errors import FaceqError
from faceq.messages.one_line import one_line
from faceq.sources import video
from faceq.sources.frame import Frame
from faceq.sources.listing import Kind, Shard, ending_of
from faceq.sources.local import ChangedError, LocalFile, SpecialFileError
from faceq.sources.sniff import ENOUGH, kind_of_bytes
from faceq.storage.faults import detailed_error, fault_of
from faceq.storage.filesystem import READ_AHEAD, filesystem, is_remote, is_storage_error
from faceq.storage.settings import S3Settings
from faceq.table.finished_shards import Finished
from faceq.table.schema import BREAK, frame_id

EVERY_FRAME = Video()

DEFLATE_RATIO = 1032
"""Bytes, at most, that gzip and ZIP can make of one."""


@dataclass
class Findings:
    """What readers met beside frames.

    passed_over: files or members that hold no frames, by their ending. notes: what a person should know of a
    source though nothing in it is broken, one line each, beginning with the source's name. finished: the
    sources with several frames that were read to their ends.
    """

    passed_over: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)

    def pass_over(self, name: str) -> None:
        """Count a file or member that holds no frames."""
        self.passed_over[ending_of(name)] += 1


@dataclass
class Reading:
    """How sources are read.

    done: ids of frames that need no reading; they come as frames without bytes, marked `done`. sampling:
    which frames of a video are frames of the input. limits: what one frame or source may take. findings: what
    the readers meet beside frames is noted there. any_name: what has no known ending is read, too, where its
    bytes are an image. version: of the source that was opened last (see `Finished`), None where that is not
    known. failed: the last source broke off for a reason that may be gone the next time.
    """

    s3: S3Settings
    done: Container[int] = ()
    sampling: Video = EVERY_FRAME
    limits: Limits = field(default_factory=Limits)
    findings: Findings = field(default_factory=Findings)
    any_name: bool = False
    version: str | None = None
    failed: bool = False


class UnsupportedError(FaceqError):
    """A source that is whole, and not what it should be; the message says what it is and what to do."""


class Expansion:
    """Counts what a source's frames take beyond its own bytes: a repeated value in a Parquet file and a hole
    in a tar take none there.

    Args:
        stream: the source; it is at its start afterwards.
        limits: `source_memory` is granted to every source, however small.
    """

    def __init__(self, stream: BinaryIO, limits: Limits):
        self._size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        self._memory = limits.source_memory
        self._left = max(self._memory, DEFLATE_RATIO * self._size)

    def add(self, count: int) -> None:
        """Raises ValueError where it is more than any compressor of files would make of so many bytes."""
        self._left -= count
        if self._left < 0:
            raise ValueError(
                f"its frames take more than {DEFLATE_RATIO} times the {self._size} bytes of the file, "
                f"and more than limits.source_memory={self._memory}"
            )


class OtherKindError(FaceqError):
    """A shard's bytes say that it is of another kind than its name says."""

    def __init__(self, kind: Kind):
        super().__init__(kind)
        self.kind = kind


def read_as(limits: Limits, any_name: bool) -> str:
    """What decides, beside the job's record, which frames a shard gives: a newer faceq may read more, too."""
    return json.dumps({"faceq": __version__, "any_name": any_name, "limits": limits.model_dump()})


def tag_of(details: dict[str, Any]) -> str | None:
    """The ETag of an object by what s3fs knows of it. Some stores put it into quotes in one answer only."""
    tag = details.get("ETag")
    return tag.strip('"') if tag else None


def version_of(file: os.stat_result) -> str:
    """Which version of a local file this is."""
    return f"{file.st_size} bytes at {file.st_mtime_ns} ns"


def open_shard(shard: Shard, reading: Reading) -> BinaryIO:
    """The shard, opened to be read from front to back; `reading.version` is its version then.

    Raises:
        OtherKindError: its bytes are those of another kind of source; `break_of` lets it through to who
            chose the reader.
    """
    if not is_remote(shard.source):
        stream: BinaryIO = LocalFile(shard.path)
    else:
        files = filesystem(shard.source, reading.s3)
        try:
            stream = files.open(shard.path, "rb", block_size=READ_AHEAD, cache_type="readahead")
        except OSError as error:
            said = detailed_error(error, files, shard.path)
            raise said from said.__cause__  # which holds S3's answer
    try:
        kind = _kind_of_stream(stream, shard)
        if kind not in (None, shard.kind):
            raise OtherKindError(kind)
        reading.version = _version_of_stream(stream, shard)
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def _version_of_stream(stream: Any, shard: Shard) -> str | None:
    if is_remote(shard.source):
        return tag_of(stream.details)  # s3fs has asked before it opened the object
    return version_of(os.fstat(stream.fileno()))


_FOOTER = 64 << 10
"""What Arrow reads first of a Parquet file: its last bytes."""


def _kind_of_stream(stream: BinaryIO, shard: Shard) -> Kind | None:
    """What it is by its bytes. Those that its reader asks for first are read, lest a store is asked twice."""
    if shard.kind == "parquet" and is_remote(shard.source):
        end = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, end - _FOOTER))
        if stream.read(_FOOTER).endswith(b"PAR1"):
            return "parquet"
        stream.seek(0)
    return kind_of_bytes(stream.read(ENOUGH))


def break_of(shard: Shard, error: Exception, where: str, reading: Reading) -> Frame:
    """The frame that stands for a source, or the rest of one, that cannot be read."""
    if isinstance(error, OtherKindError):
        raise error
    reading.failed = is_storage_error(error) or isinstance(error, MemoryError)
    if frame_id(shard.source, None, BREAK) in reading.done:
        return Frame(shard.source, None, BREAK, None, done=True)
    if is_storage_error(error):
        what = unread(error, shard)
    elif isinstance(error, video.DamagedError | UnsupportedError | SpecialFileError | ChangedError):
        what = str(error)  # some of what comes after damage may have been read
    else:
        what = f"broken {where}: {_reason(error)}: what comes after it is not read"
    return Frame(shard.source, None, BREAK, None, error=what, **blame(shard, error))


def blame(shard: Shard, error: Exception) -> dict[str, bool]:
    """`refused` and `unseen` of a frame that could not be read."""
    fault = fault_of(error)
    missing = fault is not None and fault.kind == "missing"
    return {"refused": fault is not None, "unseen": missing and not shard.seen}


def unread(error: Exception, shard: Shard) -> str:
    """Why the storage gave nothing, for people."""
    fault = fault_of(error)
    if isinstance(error, SpecialFileError | ChangedError):
        return str(error)
    if fault is None:
        return f"could not be read: {_reason(error)}"
    if fault.kind != "missing":
        return fault.text
    if not is_remote(shard.source) and os.path.islink(shard.path):
        return "gone: it is a link to nothing"
    return "gone: it was there when the input was listed" if shard.seen else f"not found: {fault.text}"


_PUZZLING = (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error)
"""What parsers raise where bytes contradict each other, in words for programmers."""


def _reason(error: BaseException) -> str:
    """The error's own words on one line, its type where it has none."""
    if isinstance(error, _PUZZLING) and not isinstance(error, pa.ArrowException):
        return f"its structure is damaged ({type(error).__name__})"
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error):
        return "bytes that are not gzip follow"
    return one_line(error)


def too_long(size: int, reading: Reading) -> str:
    """Why a frame of so many encoded bytes is not read."""
    most = reading.limits.frame_bytes
    return f"{size} bytes are more than limits.frame_bytes={most}: make the image smaller or raise the limit"
