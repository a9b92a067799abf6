"""Reader for single image files, fetched several at a time."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from faceq.sources.animation import is_animated
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard
from faceq.sources.local import first_bytes
from faceq.sources.reading import Reading, blame, too_long, unread
from faceq.sources.sniff import kind_of_bytes
from faceq.storage.faults import fault_of
from faceq.storage.filesystem import READ_AHEAD, filesystem, is_remote, store_name
from faceq.table.schema import frame_id

AT_ONCE = 16
"""Number of images that are fetched in one call."""

Read = Callable[[Shard, Reading], Iterator[Frame]]


def read_pictures(shards: list[Shard], reading: Reading, read_other: Read) -> Iterator[Frame]:
    """Yield one frame for each image, in order.

    Args:
        shards: files with an image's extension, or with an unknown one.
        reading: how to read them.
        read_other: reads a shard whose content turns out to be of another kind, or an animation.
    """
    # One task may contain images from several inputs, some local and some in a store.
    for _, same in itertools.groupby(shards, key=lambda shard: store_name(shard.source)):
        together = list(same)
        is_done = [frame_id(shard.source, None, 0) in reading.done for shard in together]
        wanted = [shard for shard, done in zip(together, is_done, strict=True) if not done]
        contents = iter(_fetch(wanted, reading))
        for shard, done in zip(together, is_done, strict=True):
            if done:
                yield Frame(shard.source, None, 0, None, done=True)
                continue
            content = next(contents)
            kind = None if isinstance(content, Exception) else kind_of_bytes(content)
            if _is_animation(content, reading):
                yield from read_other(replace(shard, kind="video"), reading)
            elif kind in (None, "picture"):
                yield from _frame(shard, content, kind is not None, reading)
            else:
                yield from read_other(replace(shard, kind=kind), reading)


def _is_animation(content: bytes | Exception, reading: Reading) -> bool:
    """Whether a file is an animation whose frames are all wanted."""
    if isinstance(content, Exception) or not reading.animated:
        return False
    return len(content) <= reading.limits.frame_bytes and is_animated(content)


def _fetch(shards: list[Shard], reading: Reading) -> list[Any]:
    """The bytes of each image (only the first ones if it is too long), or an exception if reading failed."""
    # Always pass an end, beyond the largest accepted image: without one, s3fs first asks for the size, which
    # makes two requests per image. A file that may be long and not an image is loaded only after a look at
    # its first bytes.
    most = reading.limits.frame_bytes + 1
    ends = [
        most if shard.known and shard.size is not None and shard.size < most else min(most, READ_AHEAD)
        for shard in shards
    ]
    contents = _ranges(shards, ends, reading)
    longer = [
        number
        for number, (shard, end) in enumerate(zip(shards, ends, strict=True))
        if end < most and (shard.size or 0) < most and _has_more(shard, contents[number], end)
    ]
    rest = _ranges([shards[number] for number in longer], [most] * len(longer), reading)
    for number, content in zip(longer, rest, strict=True):
        contents[number] = content
    return contents


def _has_more(shard: Shard, content: bytes | Exception, end: int) -> bool:
    """Whether a file whose first bytes were read is an image and may be longer than these bytes."""
    if isinstance(content, Exception) or len(content) < end:
        return False
    kind = kind_of_bytes(content)
    return kind == "picture" or (kind is None and shard.known)


def _ranges(shards: list[Shard], ends: list[int], reading: Reading) -> list[Any]:
    """The first bytes of each shard, up to its `end`. One call for all, so that requests run in parallel."""
    if not shards:
        return []
    paths = [shard.path for shard in shards]
    if not is_remote(shards[0].source):
        return [_first_bytes(path, end) for path, end in zip(paths, ends, strict=True)]
    files = filesystem(shards[0].source, reading.s3)
    return list(files.cat_ranges(paths, [0] * len(paths), ends, on_error="return"))


def _first_bytes(path: str, end: int) -> bytes | Exception:
    try:
        return first_bytes(path, end)
    except Exception as error:
        return error


def _frame(shard: Shard, content: bytes | Exception, is_picture: bool, reading: Reading) -> Iterator[Frame]:
    """The frame of an image; nothing if neither the file's name nor its content is that of an image."""
    if isinstance(content, Exception):
        fault = fault_of(content)
        if fault is None or fault.kind != "empty":
            yield Frame(shard.source, None, 0, None, error=unread(content, shard), **blame(shard, content))
            return
        content = b""
    if not (shard.known or is_picture):
        reading.findings.pass_over(shard.source)
        return
    size = max(shard.size or 0, len(content))
    if size > reading.limits.frame_bytes:
        yield Frame(shard.source, None, 0, None, error=too_long(size, reading))
    else:
        yield Frame(shard.source, None, 0, bytes(content))
