"""What the readers of all kinds of sources share: their parameters, their findings and their errors."""

import gzip
import io
import json
import math
import os
import struct
from collections import Counter
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from faceq import __version__
from faceq.config import Limits, Video
from faceq.errors import FaceqError
from faceq.messages.one_line import one_line
from faceq.sources import video
from faceq.sources.compressed import FIRST_BYTES, compression_of
from faceq.sources.frame import Frame
from faceq.sources.kinds import Kind
from faceq.sources.listing import Shard, ending_of
from faceq.sources.local import ChangedError, LocalFile, SpecialFileError
from faceq.sources.parts import Part
from faceq.sources.sniff import ENOUGH, kind_of_bytes
from faceq.sources.video.shots import Finder
from faceq.stage_resources import Encoding
from faceq.storage.faults import detailed_error, fault_of
from faceq.storage.filesystem import READ_AHEAD, filesystem, is_remote, is_storage_error, open_remote
from faceq.storage.settings import S3Settings
from faceq.table.finished_shards import Finished, FinishedPart
from faceq.table.schema import BREAK, frame_id

EVERY_FRAME = Video(shots="none")

DEFLATE_RATIO = 1032
"""Maximum compression ratio of gzip and ZIP."""


@dataclass
class Findings:
    """What readers report besides frames.

    passed_over: number of files or members that contain no frames, by extension. notes: remarks about a
    source that is not damaged, one line each, starting with the source's name. finished: the sources with
    several frames that were read to their end.
    """

    passed_over: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    finished: list[Finished | FinishedPart] = field(default_factory=list)

    def pass_over(self, name: str) -> None:
        """Count a file or member that contains no frames."""
        self.passed_over[ending_of(name)] += 1


@dataclass
class Reading:
    """How sources are read.

    done: ids of frames that need not be read; they are yielded without bytes and marked `done`. sampling:
    which frames of a video to take. limits: limits on one frame or source. findings: collects what the
    readers report besides frames. any_name: also read files without a known extension if their content is an
    image or a video. extra_bytes: maximum size of a frame's `extra`; 0: do not read what came with frames.
    keep_sidecars: frames of tars get their `sidecars` instead of an `extra`. animated: read all frames of an
    animation, not only the first. finder: finds the shots of videos; None: they are not found. last: the only
    members that are wanted of each source, and the last frame of each that is wanted; None: all are.
    encoding: how Parquet shards store images; `base64`: also as text. use_video: called with the member (None
    for a source) and the seekable file of each wanted video, instead of decoding it. version: version of the
    source that was opened last (see `Finished`), None if unknown. failed: reading the last source failed for
    a reason that may be temporary. is_animation: the last source was an animation that was read frame by
    frame.
    """

    s3: S3Settings
    done: Container[int] = ()
    sampling: Video = EVERY_FRAME
    limits: Limits = field(default_factory=Limits)
    findings: Findings = field(default_factory=Findings)
    any_name: bool = False
    extra_bytes: int = 0
    keep_sidecars: bool = False
    animated: bool = False
    finder: Finder | None = None
    last: Mapping[str, Mapping[str | None, int]] | None = None
    encoding: Encoding = "bytes"
    use_video: Callable[[str | None, BinaryIO], None] | None = None
    version: str | None = None
    failed: bool = False
    is_animation: bool = False

    @property
    def most_sidecar_bytes(self) -> int:
        """Maximum size of a sidecar that is read; 0: sidecars are passed over."""
        return self.limits.frame_bytes if self.keep_sidecars else self.extra_bytes

    def wanted_members(self, source: str) -> set[str] | None:
        """The members of a source that are wanted; None: all are."""
        if self.last is None:
            return None
        return {member for member in self.last.get(source, {}) if member is not None}

    def last_of(self, source: str, member: str | None) -> float:
        """The last frame of a video that is wanted: infinity if all are, -1 if none is."""
        return math.inf if self.last is None else self.last.get(source, {}).get(member, -1)


class UnsupportedError(FaceqError):
    """A source that is intact but of an unsupported format; the message says which, and what to do."""


class DamageError(FaceqError):
    """A source that is damaged in places; frames after the damage were read. The message says where."""


class Expansion:
    """Limits the total size to which a source expands, because a small file can expand to an enormous one:
    repeated values in a Parquet file and holes in a sparse tar member take no space, and a compressed tar
    takes little.

    Args:
        stream: the source; it is at its start afterwards.
        limits: every source may expand to `source_memory` bytes, however small it is.
    """

    def __init__(self, stream: BinaryIO, limits: Limits):
        self._size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        self._memory = limits.source_memory
        self._left = max(self._memory, DEFLATE_RATIO * self._size)

    def add(self, count: int) -> None:
        """Add `count` bytes. Raises ValueError if the total exceeds what any compressor of files achieves."""
        self._left -= count
        if self._left < 0:
            raise ValueError(
                f"it expands to more than {DEFLATE_RATIO} times the {self._size} bytes of the file, "
                f"and to more than limits.source_memory={self._memory}"
            )


class OtherKindError(FaceqError):
    """A shard's content is of another kind than its name suggests."""

    def __init__(self, kind: Kind):
        super().__init__(kind)
        self.kind = kind


def read_as(limits: Limits, any_name: bool, animated: bool, encoding: Encoding) -> str:
    """Everything, besides the job's record, that determines which frames are read from a shard, as JSON. The
    version of faceq is included because a newer one may read more."""
    how: dict[str, Any] = {"faceq": __version__, "any_name": any_name, "limits": limits.model_dump()}
    # Records of shards that were finished before there were these settings do not contain them.
    how |= {"animated": animated} if animated else {}
    how |= {"encoding": encoding} if encoding != "bytes" else {}
    return json.dumps(how)


def tag_of(details: dict[str, Any]) -> str | None:
    """The ETag of an object from its s3fs details. Some stores quote it in some of their responses only."""
    tag = details.get("ETag")
    return tag.strip('"') if tag else None


def version_of(file: os.stat_result) -> str:
    """A text that changes when a local file changes: its size and modification time."""
    return f"{file.st_size} bytes at {file.st_mtime_ns} ns"


def open_shard(
    shard: Shard, reading: Reading, ahead: int | None = None, other: Kind | None = None
) -> BinaryIO:
    """Open the shard for reading from front to back, and set `reading.version` to its version.

    `ahead`: number of extra bytes to request from S3; READ_AHEAD if None. `other`: another kind that its
    content may have.

    Raises:
        OtherKindError: its content is of another kind. `break_of` passes this error on to the caller that
            chose the reader.
        ChangedError: the shard is a part of a file that has changed since it was divided.
    """
    if not is_remote(shard.source):
        stream: BinaryIO = LocalFile(shard.path)
    else:
        files = filesystem(shard.source, reading.s3)
        try:
            stream = open_remote(
                *(shard.source, shard.path, reading.s3, reading.limits.temporary_bytes),
                READ_AHEAD if ahead is None else ahead,
            )
        except OSError as error:
            said = detailed_error(error, files, shard.path)
            raise said from said.__cause__  # the cause contains S3's response
    try:
        version = _version_of_stream(stream, shard)
        if isinstance(shard, Part) and shard.version != version:
            raise ChangedError
        kind = _kind_of_stream(stream, shard)
        if kind not in (None, shard.kind, other):
            raise OtherKindError(kind)
        reading.version = version
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def _version_of_stream(stream: Any, shard: Shard) -> str | None:
    if is_remote(shard.source):
        return tag_of(stream.details)  # no request: s3fs has fetched them before it opened the object
    return version_of(os.fstat(stream.fileno()))


_FOOTER = 64 << 10
"""Number of last bytes that Arrow reads first from a Parquet file."""


def _kind_of_stream(stream: BinaryIO, shard: Shard) -> Kind | None:
    """The kind of the shard's content.

    To save a request, this reads the bytes that the shard's reader needs first anyway.
    """
    if shard.kind == "parquet" and is_remote(shard.source):
        end = stream.seek(0, io.SEEK_END)
        stream.seek(max(0, end - _FOOTER))
        if stream.read(_FOOTER).endswith(b"PAR1"):
            return "parquet"
        stream.seek(0)
    head = stream.read(ENOUGH)
    if compression_of(head):
        head += stream.read(FIRST_BYTES - ENOUGH)
    return kind_of_bytes(head)


def break_of(shard: Shard, error: Exception, where: str, reading: Reading) -> Frame:
    """The frame that represents a source, or the rest of one, that cannot be read."""
    if isinstance(error, OtherKindError):
        raise error
    reading.failed = is_storage_error(error) or isinstance(error, MemoryError)
    if frame_id(shard.source, None, BREAK) in reading.done:
        return Frame(shard.source, None, BREAK, None, done=True)
    what = unread(error, shard) if is_storage_error(error) else _damage(error, where)
    return Frame(shard.source, None, BREAK, None, error=what, **blame(shard, error))


def break_in(shard: Shard, member: str, error: Exception, where: str, reading: Reading) -> Frame:
    """The frame that represents a video inside a shard, or the rest of one, that cannot be read.

    Raises:
        Exception: `error`, if it is not about the video: the storage of the shard failed.
    """
    if is_storage_error(error) or isinstance(error, MemoryError):
        raise error
    return unread_video(shard, member, _damage(error, where), reading)


def unread_video(shard: Shard, member: str, error: str, reading: Reading, refused: bool = False) -> Frame:
    """The frame that represents a video inside a shard, or the rest of one, that is not read."""
    if frame_id(shard.source, member, BREAK) in reading.done:
        return Frame(shard.source, member, BREAK, None, done=True)
    return Frame(shard.source, member, BREAK, None, error=error, refused=refused)


def _damage(error: Exception, where: str) -> str:
    if isinstance(
        error, video.DamagedError | DamageError | UnsupportedError | SpecialFileError | ChangedError
    ):
        return str(error)  # not "the rest is not read": frames after the damage may have been read
    return f"broken {where}: {_reason(error)}: the rest is not read"


def blame(shard: Shard, error: Exception) -> dict[str, Any]:
    """`refused` and `unseen` of a frame that could not be read."""
    fault = fault_of(error)
    missing = fault is not None and fault.kind == "missing"
    return {"refused": fault is not None, "unseen": missing and not shard.seen}


def unread(error: Exception, shard: Shard) -> str:
    """Why the storage returned nothing, as text for the row's `error`."""
    fault = fault_of(error)
    if isinstance(error, SpecialFileError | ChangedError):
        return str(error)
    if fault is None:
        return f"could not be read: {_reason(error)}"
    if fault.kind != "missing":
        return fault.text
    if not is_remote(shard.source) and os.path.islink(shard.path):
        return "gone: it is a broken symbolic link"
    return "gone: it existed when the input was listed" if shard.seen else f"not found: {fault.text}"


_PUZZLING = (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, struct.error)
"""Errors that parsers raise for inconsistent bytes; their messages only make sense to programmers."""


def _reason(error: BaseException) -> str:
    """The error's message on one line; its type if it has none."""
    if isinstance(error, _PUZZLING) and not isinstance(error, pa.ArrowException):
        return f"its structure is damaged ({type(error).__name__})"
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error):
        return "the next bytes are not gzip data"
    return one_line(error)


def too_long(size: int, reading: Reading) -> str:
    """Why a frame of `size` encoded bytes is not read."""
    most = reading.limits.frame_bytes
    return f"{size} bytes are more than limits.frame_bytes={most}: make the image smaller or raise the limit"
