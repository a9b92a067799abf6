"""The frames of a job's input, read in this process as the job reads them."""

import itertools
from collections.abc import Iterable, Iterator

from faceq.config import Config
from faceq.job.resume import read_settings
from faceq.sources import read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import Shard, list_shards


def shards_of(settings: Config) -> list[Shard]:
    """The shards of the input."""
    return list_shards(settings.input, settings.s3, settings.manifest, settings.any_name)


def frames_of(settings: Config, shards: Iterable[Shard], most: int | None) -> Iterator[Frame]:
    """The first `most` frames of the shards; None: all of them."""
    frames = read_shards(shards, **vars(read_settings(settings)))
    return itertools.islice(frames, most)
