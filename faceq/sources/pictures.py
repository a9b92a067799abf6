"""Single pictures as sources, fetched several at a time."""

import errno
import itertools
from collections.abc import Iterator

from faceq.frames import Frame
from faceq.listing import Shard
from faceq.sources.reading import Reading, blame, too_long, unread
from faceq.storage import filesystem, is_remote
from faceq.table import frame_id

AT_ONCE = 16
"""Pictures that are fetched by one call."""


def read_pictures(shards: list[Shard], reading: Reading) -> Iterator[Frame]:
    """One frame for each picture: those that need no reading first."""
    wanted = []
    for shard in shards:
        if frame_id(shard.source, None, 0) in reading.done:
            yield Frame(shard.source, None, 0, None, done=True)
        elif shard.size is not None and shard.size > reading.limits.frame_bytes:
            yield Frame(shard.source, None, 0, None, error=too_long(shard.size, reading))
        else:
            wanted.append(shard)
    # Pictures of several inputs may stand in one task, some local and some on S3.
    for _, same in itertools.groupby(wanted, key=lambda shard: is_remote(shard.source)):
        yield from _fetch(list(same), reading)


def _fetch(shards: list[Shard], reading: Reading) -> Iterator[Frame]:
    files = filesystem(shards[0].source, reading.s3)
    # One call, so that an object store answers for all of them at once. With an end, which no picture that
    # is wanted reaches: without one s3fs asks for the size first, two requests a picture.
    contents = files.cat_ranges(
        [shard.path for shard in shards], 0, reading.limits.frame_bytes + 1, on_error="return"
    )
    for shard, content in zip(shards, contents, strict=True):
        if _is_empty(content):
            yield Frame(shard.source, None, 0, b"")
        elif isinstance(content, Exception):
            yield Frame(shard.source, None, 0, None, error=unread(content), **blame(shard, content))
        elif len(content) > reading.limits.frame_bytes:
            yield Frame(shard.source, None, 0, None, error=too_long(len(content), reading))
        else:
            yield Frame(shard.source, None, 0, bytes(content))


def _is_empty(content: bytes | Exception) -> bool:
    """S3 has no range in an object without bytes: it answers InvalidRange (416), here an OSError."""
    return isinstance(content, OSError) and content.errno == errno.EINVAL
