"""Split large tars into parts, so that several read tasks read one tar."""

import contextlib
import logging
from typing import Any

import ray

from faceq.config import Config
from faceq.job.cluster import MAX_RETRIES
from faceq.job.resume import read_settings
from faceq.sources.listing import Shard
from faceq.sources.parts import is_large, part_bytes, parts_of
from faceq.sources.read import ReadSettings
from faceq.sources.reading import Reading
from faceq.sources.tar_index import Stretch, UnsplitError, cuts, scan

log = logging.getLogger(__name__)


def split_large(shards: list[Shard], config: Config) -> list[Shard]:
    """The shards in the same order; each large tar is replaced by its parts.

    The tars are indexed by Ray tasks: the headers of a tar lead from one to the next, and on S3 this means to
    read most of the tar. A tar that cannot be split, or not be read, stays as it is: the read task reports
    what is wrong.
    """
    size = part_bytes(shards)
    large = [shard for shard in shards if is_large(shard, size)]
    if not large or config.limit is not None:
        return shards
    log.info("indexing %s, to read parts of them at the same time", _count(len(large)))
    settings = read_settings(config)
    parts = dict(zip((shard.source for shard in large), _split(large, size, settings, config), strict=True))
    return [part for shard in shards for part in parts.get(shard.source, [shard])]


def _split(large: list[Shard], size: int, settings: ReadSettings, config: Config) -> list[list[Shard]]:
    options = {"num_cpus": config.read.num_cpus, "max_retries": MAX_RETRIES}
    scanned: Any = ray.remote(_scan).options(**options)
    joined: Any = ray.remote(_cuts).options(**options)
    asked = []
    for shard in large:
        whole = shard.size or 0
        stretches = [
            scanned.remote(shard, begin, min(begin + size, whole), settings)
            for begin in range(0, whole, size)
        ]
        asked.append(joined.remote(shard, settings, *stretches))
    return [_parts(shard, answer) for shard, answer in zip(large, asked, strict=True)]


def _parts(shard: Shard, answer: Any) -> list[Shard]:
    found = None
    with contextlib.suppress(ray.exceptions.RayError):  # the read task meets the same, and reports it
        found = ray.get(answer)
    if isinstance(found, str):
        log.info("%s: one task reads this tar: %s: %s", shard.source, found, _ADVICE)
    if not isinstance(found, tuple):
        return [shard]
    begins, version = found
    return parts_of(shard, begins, version) if begins else [shard]


_ADVICE = "store large inputs as several uncompressed tars of about 1 GB to read them in parallel"


def _scan(shard: Shard, begin: int, end: int, settings: ReadSettings) -> Stretch | str:
    """`tar_index.scan`; the reason if the tar cannot be split."""
    try:
        return scan(shard, begin, end, _reading(settings))
    except UnsplitError as error:
        return str(error)


def _cuts(shard: Shard, settings: ReadSettings, *stretches: Stretch | str) -> tuple[list[int], str] | str:
    """`tar_index.cuts`; the reason if the tar cannot be split."""
    for stretch in stretches:
        if isinstance(stretch, str):
            return stretch
    try:
        return cuts(shard, [each for each in stretches if isinstance(each, Stretch)], _reading(settings))
    except UnsplitError as error:
        return str(error)


def _reading(settings: ReadSettings) -> Reading:
    return Reading(settings.s3, limits=settings.limits, any_name=settings.any_name)


def _count(tars: int) -> str:
    return "a large tar" if tars == 1 else f"{tars:,} large tars"
