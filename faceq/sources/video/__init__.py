"""Decode the frames of a video one by one, and encode them losslessly for the stages.

FFmpeg decodes through PyAV, with one thread, because a task may own only part of a CPU. The same video gives
the same frames on every machine. Only a few decoded frames are in memory at a time.
"""

from faceq.sources.video.errors import DamagedError
from faceq.sources.video.picture import VideoFrame
from faceq.sources.video.pieces import read_span
from faceq.sources.video.reading import read, sampling
from faceq.sources.video.shots import numbered

__all__ = ["DamagedError", "VideoFrame", "numbered", "read", "read_span", "sampling"]
