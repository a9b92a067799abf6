"""What the readers of all kinds of sources share: what they are told, what they find, and how they fail."""

import gzip
import hashlib
import os
import re
import struct
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa

from faceq import video
from faceq.config import S3, Limits, Video
from faceq.frames import Frame
from faceq.listing import Shard, words
from faceq.storage import READ_AHEAD, filesystem, has_failed, is_remote
from faceq.table import BREAK, frame_id

EVERY_FRAME = Video()

DEFLATE_RATIO = 1032
"""Bytes, at most, that gzip and ZIP can make of one."""

_ENDING = re.compile(r"\.(?!\d+$)[a-z0-9]{1,8}")
_NO_ENDING = "without a known ending"
_LONG_NAME = 1024


@dataclass
class Findings:
    """What readers met beside frames.

    passed_over: files or members that hold no frames, by their ending. notes: what a person should know of a
    source though nothing in it is broken, one line each, beginning with the source's name.
    """

    passed_over: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def pass_over(self, name: str) -> None:
        """Count a file or member that holds no frames."""
        ending = os.path.splitext(name)[1].lower()
        # Numbered parts and the like would be as many endings as files.
        self.passed_over[ending if _ENDING.fullmatch(ending) else _NO_ENDING] += 1


@dataclass
class Reading:
    """How sources are read.

    done: ids of frames that need no reading; they come as frames without bytes, marked `done`. sampling:
    which frames of a video are frames of the input. limits: what one frame or source may take. findings: what
    the readers meet beside frames is noted there. any_name: what has no known ending is read, too, where its
    bytes are an image.
    """

    s3: S3
    done: Container[int] = ()
    sampling: Video = EVERY_FRAME
    limits: Limits = field(default_factory=Limits)
    findings: Findings = field(default_factory=Findings)
    any_name: bool = False


class UnsupportedError(Exception):
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


def open_shard(shard: Shard, s3: S3) -> BinaryIO:
    """The shard, opened to be read from front to back."""
    files = filesystem(shard.source, s3)
    if not is_remote(shard.source):
        return files.open(shard.path, "rb")
    return files.open(shard.path, "rb", block_size=READ_AHEAD, cache_type="readahead")


def unique_name(name: str, seen: Counter[str]) -> str:
    """The name, or for a repeated one the name with #2, #3, …"""
    # Kept until the source ends: in little room, however long they are.
    key = name if len(name) <= _LONG_NAME else hashlib.blake2b(name.encode()).hexdigest()
    seen[key] += 1
    return name if seen[key] == 1 else unique_name(f"{name}#{seen[key]}", seen)


def break_of(shard: Shard, error: Exception, where: str, reading: Reading) -> Frame:
    """The frame that stands for a source, or the rest of one, that cannot be read."""
    if frame_id(shard.source, None, BREAK) in reading.done:
        return Frame(shard.source, None, BREAK, None, done=True)
    if has_failed(error):
        what = unread(error)
    elif isinstance(error, video.DamagedError | UnsupportedError):
        what = str(error)  # some of what comes after damage may have been read
    else:
        what = f"broken {where}: {_reason(error)}: what comes after it is not read"
    return Frame(shard.source, None, BREAK, None, error=what, **blame(shard, error))


def blame(shard: Shard, error: Exception) -> dict[str, bool]:
    """`refused` and `unseen` of a frame that could not be read."""
    return {"refused": has_failed(error), "unseen": isinstance(error, FileNotFoundError) and not shard.seen}


def unread(error: Exception) -> str:
    """Why the storage gave nothing, for people."""
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


def too_long(size: int, reading: Reading) -> str:
    """Why a frame of so many encoded bytes is not read."""
    most = reading.limits.frame_bytes
    return f"{size} bytes are more than limits.frame_bytes={most}: make the image smaller or raise the limit"
