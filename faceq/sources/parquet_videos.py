"""Videos in the rows of a Parquet shard."""

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO, cast

import pyarrow as pa

from faceq.sources.clip import read_member
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, kind_of
from faceq.sources.local import LocalFile
from faceq.sources.parquet_columns import VIDEO_COLUMNS
from faceq.sources.parquet_files import not_there, place_of
from faceq.sources.parquet_values import Content
from faceq.sources.reading import Reading, blame, too_long, unread_video
from faceq.sources.sniff import ENOUGH, is_video, kind_of_bytes
from faceq.storage.filesystem import is_remote, open_remote
from faceq.table.schema import frame_id


def is_video_row(content: Content, column: str) -> bool:
    """Whether a row holds a video. The bytes decide; if they are neither an image nor a video, the name of
    the column does. A file that the row names is judged by its extension."""
    if content.image is None:
        return content.path is not None and kind_of(content.path) == "video"
    head = content.head
    return is_video(head) or (column in VIDEO_COLUMNS and kind_of_bytes(head) != "picture")


def video_of(shard: Shard, content: Content, member: str, reading: Reading) -> Iterator[Frame]:
    """Yield the frames of a row that holds a video, or the path of one."""
    if reading.last_of(shard.source, member) < 0:
        return
    if content.image is None:
        yield from _of_file(shard, content.path or "", member, reading)
        return
    size, most = len(content.image), reading.limits.source_memory
    if size > most:
        error = (
            f"{size} bytes are more than limits.source_memory={most}: store the video in a tar or as a file "
            "of its own, or raise the limit"
        )
        yield unread_video(shard, member, error, reading)
        return
    with pa.BufferReader(content.image) as file:
        yield from read_member(shard, member, cast(BinaryIO, file), reading)


def _of_file(shard: Shard, path: str, member: str, reading: Reading) -> Iterator[Frame]:
    try:
        with _opened(place_of(shard, path), shard, reading) as file:
            if kind_of_bytes(file.read(ENOUGH)) == "picture":
                yield _picture(shard, member, file, reading)
            else:
                yield from read_member(shard, member, file, reading)
    except Exception as error:
        frame = unread_video(shard, member, not_there(path, error, shard), reading)
        yield frame if frame.done else replace(frame, **blame(shard, error))


def _picture(shard: Shard, member: str, file: BinaryIO, reading: Reading) -> Frame:
    """The frame of an image that has the extension of a video."""
    if frame_id(shard.source, member, 0) in reading.done:
        return Frame(shard.source, member, 0, None, done=True)
    file.seek(0)
    image = file.read(reading.limits.frame_bytes + 1)
    if len(image) > reading.limits.frame_bytes:
        return Frame(shard.source, member, 0, None, error=too_long(len(image), reading))
    return Frame(shard.source, member, 0, image)


def _opened(place: str, shard: Shard, reading: Reading) -> BinaryIO:
    if not is_remote(shard.source):
        return LocalFile(place)
    return cast(BinaryIO, open_remote(shard.source, place, reading.s3, reading.limits.temporary_bytes))
