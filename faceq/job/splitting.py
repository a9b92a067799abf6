"""Split large tars, RecordIO files and videos into parts, so that several read tasks read one file."""

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Any

import ray

from faceq.config import Config
from faceq.job.cluster import MAX_RETRIES
from faceq.job.resume import read_settings
from faceq.sources import record_parts
from faceq.sources.kinds import Kind
from faceq.sources.listing import Shard
from faceq.sources.parts import UnsplitError, is_large, part_bytes, tar_parts, video_parts
from faceq.sources.read import ReadSettings
from faceq.sources.reading import Reading, open_shard
from faceq.sources.tar_index import Stretch, cuts, scan
from faceq.sources.video.pieces import Piece, UndividedError, look, spans
from faceq.sources.video.shots import Finder, find_by
from faceq.stage_resources import Stage

log = logging.getLogger(__name__)

CPUS_PER_VIDEO = 3
"""CPUs that one task which reads a video keeps busy, if each CPU runs all stages. A 1080p frame takes 23 ms
to read and 52 ms to score; smaller frames are read faster."""


def split_large(shards: list[Shard], config: Config, shared: Stage | None = None) -> list[Shard]:
    """The shards in the same order; each large tar, RecordIO file and video is replaced by its parts.

    Ray tasks index these files. The headers of a tar lead from one to the next: on S3 this means to read most
    of the tar. A RecordIO file without an index is read. A video is decoded. A file that cannot be split, or
    not be read, stays as it is: its read task reports what is wrong.

    `shared`: see `faceq.job.graph.run_graph`.
    """
    if config.limit is not None:
        return shards
    sizes = {kind: part_bytes(shards, kind) for kind in _STEPS}
    large = [shard for shard in shards if shard.kind in sizes and is_large(shard, sizes[shard.kind])]
    videos = [shard for shard in large if shard.kind == "video"]
    if not _is_worthwhile(len(videos), CPUS_PER_VIDEO if shared else 1):
        large = [shard for shard in large if shard.kind != "video"]
    if not large:
        return shards
    log.info("indexing %s, to read parts of them at the same time", _count(len(large)))
    settings = read_settings(config)
    asked = {shard.source: _ask(shard, sizes[shard.kind], settings, config) for shard in large}
    parts = {shard.source: _parts(shard, asked[shard.source]) for shard in large}
    return [part for shard in shards for part in parts.get(shard.source, [shard])]


def _is_worthwhile(videos: int, cpus_per_video: int) -> bool:
    """Whether to split videos, which costs to decode them once more: only if the tasks that read them whole
    would leave CPUs idle. A cluster may grow."""
    on_cluster = os.environ.get("RAY_ADDRESS") or len(ray.nodes()) > 1
    return bool(on_cluster) or videos * cpus_per_video < ray.cluster_resources().get("CPU", 1)


def _ask(shard: Shard, size: int, settings: ReadSettings, config: Config) -> Any:
    """Start the tasks that index a file. Returns the reference to the answer of the last one."""
    options = {"num_cpus": config.read.num_cpus, "max_retries": MAX_RETRIES}
    first, last = _STEPS[shard.kind]
    step: Any = ray.remote(first).options(**options)
    join: Any = ray.remote(last).options(**options)
    count = -(-(shard.size or 0) // size)
    return join.remote(shard, settings, *(step.remote(shard, n, count, size, settings) for n in range(count)))


def _parts(shard: Shard, answer: Any) -> list[Shard]:
    found = None
    with contextlib.suppress(ray.exceptions.RayError):  # the read task meets the same, and reports it
        found = ray.get(answer)
    if isinstance(found, str):
        log.info("%s: one task reads this file: %s: %s", shard.source, found, _ADVICE[shard.kind])
    return found if isinstance(found, list) else [shard]


def _scan(shard: Shard, number: int, count: int, size: int, settings: ReadSettings) -> Stretch | str:
    """`tar_index.scan`; the reason if the tar cannot be split."""
    begin, end = number * size, min((number + 1) * size, shard.size or 0)
    try:
        return scan(shard, begin, end, _reading(settings))
    except UnsplitError as error:
        return str(error)


def _tar_parts(shard: Shard, settings: ReadSettings, *stretches: Stretch | str) -> list[Shard] | str:
    """The parts of a tar; the reason if it cannot be split."""
    for stretch in stretches:
        if isinstance(stretch, str):
            return stretch
    try:
        found = [stretch for stretch in stretches if isinstance(stretch, Stretch)]
        return tar_parts(shard, *cuts(shard, found, _reading(settings)))
    except UnsplitError as error:
        return str(error)


def _scan_records(
    shard: Shard, number: int, count: int, size: int, settings: ReadSettings
) -> record_parts.Stretch | None:
    """`record_parts.scan`"""
    begin, end = number * size, min((number + 1) * size, shard.size or 0)
    return record_parts.scan(shard, begin, end, _reading(settings))


def _record_parts(
    shard: Shard, settings: ReadSettings, *stretches: record_parts.Stretch | None
) -> list[Shard] | str:
    """The parts of a RecordIO file; the reason if it cannot be split."""
    size = -(-(shard.size or 0) // len(stretches))
    try:
        return record_parts.divide(shard, stretches, size, _reading(settings))
    except UnsplitError as error:
        return str(error)


def _look(
    shard: Shard, number: int, count: int, size: int, settings: ReadSettings
) -> tuple[Piece, str | None] | str:
    """`pieces.look` and the version of the video; the reason if the video cannot be divided."""
    reading = _reading(settings)
    try:
        with open_shard(shard, reading) as stream:
            memory = settings.limits.source_memory
            return look(stream, number, count, memory, _finder(settings)), reading.version
    except UndividedError as error:
        return str(error)


def _video_parts(
    shard: Shard, settings: ReadSettings, *pieces: tuple[Piece, str | None] | str
) -> list[Shard] | str:
    """The parts of a video; the reason if it cannot be divided."""
    for piece in pieces:
        if isinstance(piece, str):
            return piece
    found = [piece for piece in pieces if not isinstance(piece, str)]
    versions = {version for _, version in found}
    version = versions.pop()
    if versions or version is None:
        return "it was changed while it was indexed"
    try:
        return video_parts(shard, spans([piece for piece, _ in found], _finder(settings)), version)
    except UndividedError as error:
        return str(error)


def _finder(settings: ReadSettings) -> Finder | None:
    return find_by(settings.sampling.shots, settings.fetching)


def _reading(settings: ReadSettings) -> Reading:
    return Reading(settings.s3, limits=settings.limits, any_name=settings.any_name)


def _count(files: int) -> str:
    return "a large file" if files == 1 else f"{files:,} large files"


_STEPS: dict[Kind, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "tar": (_scan, _tar_parts),
    "record": (_scan_records, _record_parts),
    "video": (_look, _video_parts),
}

_ADVICE = {
    "tar": "several uncompressed tars of about 1 GB are read in parallel",
    "record": "make an index beside it with MXNet's rec2idx.py",
    "video": "several shorter videos are read in parallel",
}
