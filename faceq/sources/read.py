"""Read all frames of a list of shards, whatever their kinds."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import BinaryIO

from faceq.config import Limits, Video
from faceq.models.fetch import FetchOptions
from faceq.sources.clip import read_video
from faceq.sources.extra import joined
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, kind_of, shard_from_table
from faceq.sources.lmdb import read_lmdb
from faceq.sources.parquet import read_parquet
from faceq.sources.parts import Part
from faceq.sources.pictures import AT_ONCE, read_pictures
from faceq.sources.reading import EVERY_FRAME, Findings, OtherKindError, Reading, read_as
from faceq.sources.record import read_record_file
from faceq.sources.tar import read_tar
from faceq.sources.video.shots import find_by
from faceq.stage_resources import Encoding
from faceq.storage.settings import S3Settings
from faceq.table.finished_shards import Finished, FinishedPart
from faceq.table.schema import BREAK, frame_id, wrap_int64

_READERS = {
    "tar": read_tar,
    "parquet": read_parquet,
    "record": read_record_file,
    "lmdb": read_lmdb,
    "video": read_video,
}
_KINDS = {
    "picture": "an image",
    "tar": "a tar",
    "parquet": "a Parquet file",
    "record": "a RecordIO file",
    "lmdb": "an LMDB file",
    "video": "a video",
}


@dataclass(frozen=True)
class ReadSettings:
    """How an input is read: S3 settings, which frames of a video to take, limits per source, whether files
    without a known extension are read, the maximum size of a frame's `extra`, whether all frames of an
    animation are read, how Parquet shards store images, and how to fetch a model that finds shots."""

    s3: S3Settings
    sampling: Video
    limits: Limits
    any_name: bool
    extra_bytes: int
    animated: bool
    encoding: Encoding
    fetching: FetchOptions


def read_shards(
    shards: Iterable[Shard],
    s3: S3Settings,
    done: Container[int] = (),
    sampling: Video = EVERY_FRAME,
    limits: Limits | None = None,
    findings: Findings | None = None,
    any_name: bool = False,
    extra_bytes: int = 0,
    keep_sidecars: bool = False,
    animated: bool = False,
    last: Mapping[str, Mapping[str | None, int]] | None = None,
    encoding: Encoding = "bytes",
    fetching: FetchOptions | None = None,
) -> Iterator[Frame]:
    """Yield the frames of the shards, in order. A file's content decides its type, not its name.

    Args:
        shards: what to read.
        s3: settings of the file system.
        done: ids of frames that need not be read; they are yielded without bytes and marked `done`.
        sampling: which frames of a video to take.
        limits: limits on one frame or source; the defaults if None.
        findings: collects what the readers report besides frames.
        any_name: also read tar members without a known extension if their content is an image or a video.
        extra_bytes: maximum size of a frame's `extra`; 0: do not read what came with frames.
        keep_sidecars: read the sidecars of tars as files (`Frame.sidecars`), not into `extra`.
        animated: read all frames of an animation, not only the first.
        last: the only members that are wanted of each source, and the last frame of each that is wanted;
            None: all are. Readers may skip the others.
        encoding: how Parquet shards store images; `base64`: also as text.
        fetching: how to fetch the model that finds shots, if `sampling` chooses one.

    Raises:
        ModelError: this model cannot be fetched.
    """
    reading = Reading(
        s3,
        done,
        sampling,
        limits=limits or Limits(),
        findings=Findings() if findings is None else findings,
        any_name=any_name,
        extra_bytes=extra_bytes,
        keep_sidecars=keep_sidecars,
        animated=animated,
        finder=find_by(sampling.shots, fetching),
        last=last,
        encoding=encoding,
    )
    given = list(shards)
    extras = {shard.source: shard.extra for shard in given if shard.extra is not None}
    for frame in _frames_of(given, reading):
        extra = extras.get(frame.source)
        if extra is None or frame.done:
            yield frame
        else:
            yield replace(frame, extra=joined(extra, frame.extra, extra_bytes))


def _frames_of(shards: Iterable[Shard], reading: Reading) -> Iterator[Frame]:
    pictures: list[Shard] = []
    for shard in shards:
        if shard.kind == "picture":
            pictures.append(shard)
            if len(pictures) == AT_ONCE:
                yield from read_pictures(pictures, reading, _read)
                pictures = []
        else:
            yield from _read(shard, reading)
    yield from read_pictures(pictures, reading, _read)


def _read(shard: Shard, reading: Reading) -> Iterator[Frame]:
    """The frames of one shard with several frames (a tar, a Parquet file or a video by name or content).

    A shard that was read to its end is recorded as finished, unless the storage failed on the way.
    """
    frames = ids = 0
    failed, reading.failed, reading.version, reading.is_animation = False, False, None, False
    for frame in _frames(shard, reading):
        frames, ids, failed = frames + 1, ids + frame.id, failed or frame.refused
        yield frame
    # A part may have no frame: those of a video are sampled.
    if (frames or isinstance(shard, Part)) and reading.version and not (failed or reading.failed):
        how = read_as(reading.limits, reading.any_name, reading.animated, reading.encoding)
        finished = Finished(shard.source, reading.version, how, frames, wrap_int64(ids))
        part = FinishedPart(finished, shard.number, shard.parts) if isinstance(shard, Part) else None
        reading.findings.finished.append(part or finished)


def _frames(shard: Shard, reading: Reading) -> Iterator[Frame]:
    named = kind_of(shard.path)
    try:
        yield from _READERS[shard.kind](shard, reading)
    except OtherKindError as other:
        shard = replace(shard, kind=other.kind)
        if other.kind == "picture":
            yield from read_pictures([shard], reading, _read)
        else:
            yield from _READERS[other.kind](shard, reading)
    if named not in (None, shard.kind) and not reading.is_animation:
        reading.findings.notes.append(
            f"{shard.source}: read as {_KINDS[shard.kind]}: its content does not match its extension"
        )


def read_again(
    last: Mapping[str, Mapping[str | None, int]],
    wanted: Container[int],
    s3: S3Settings,
    keep_sidecars: bool = False,
    animated: bool = False,
) -> Iterator[Frame]:
    """Read frames that are in a table from their sources again.

    Args:
        last: the sources of the frames, as named in the table; for each, its members and the largest
            `frame_index` that is wanted of each. Videos are decoded up to this frame, others not at all; a
            source with an index is read only at these members.
        wanted: ids of the frames; other frames of the same sources are skipped.
        s3: settings of the file system.
        keep_sidecars: also read the sidecars of tars.
        animated: the frames of animations are in the table, not only the first ones.
    """
    # The sources are not listed: for a hundred thousand images on S3 that would take hours. A missing source
    # becomes a frame with an error.
    shards = [_holding_more(shard_from_table(source), wanted) for source in last]
    frames = read_shards(
        shards,
        s3,
        done=_AllBut(wanted),
        any_name=True,
        keep_sidecars=keep_sidecars,
        animated=animated,
        last=last,
        encoding="base64",  # a table may have rows of base64 images; other shards are read the same with it
    )
    return (frame for frame in frames if not frame.done)


def use_videos(
    source: str,
    members: Mapping[str | None, int],
    use: Callable[[str | None, BinaryIO], None],
    s3: S3Settings,
) -> dict[str | None, str]:
    """Open videos that are in a table, one after the other, without decoding them.

    Args:
        source: the video, or the tar or Parquet file that contains the videos, as named in the table.
        members: the videos that are wanted (None: the source itself), each with its last wanted frame.
        use: called with the member and its file, seekable and at its start.
        s3: settings of the file system.

    Returns:
        Why a video could not be opened or read to its end, by member; None stands for all of the source.
        A member that is in neither this nor a call no longer exists.
    """
    wanted = {frame_id(source, member, BREAK) for member in (None, *members)}
    reading = Reading(s3, _AllBut(wanted), any_name=True, last={source: members}, use_video=use)
    shard = shard_from_table(source)
    # Its content decides whether it is a video, whatever its name.
    shard = replace(shard, kind="video") if shard.kind == "picture" else shard
    frames = _frames_of([shard], reading)
    return {frame.member: frame.error for frame in frames if frame.error is not None and not frame.done}


def _holding_more(shard: Shard, wanted: Container[int]) -> Shard:
    """The shard as a video if its name is an image's but frames beyond frame 0 are wanted.

    Such a file contains several frames, whatever its name. Opened as a video, its content decides its kind.
    """
    is_more = shard.kind == "picture" and frame_id(shard.source, None, 0) not in wanted
    return replace(shard, kind="video") if is_more else shard


class _AllBut:
    """Contains every id except the given ones."""

    def __init__(self, ids: Container[int]):
        self._ids = ids

    def __contains__(self, frame_id: object) -> bool:
        return frame_id not in self._ids
