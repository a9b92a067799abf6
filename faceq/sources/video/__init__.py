"""Frames of a video, decoded one after the other, and as the lossless pictures in which they travel.

FFmpeg does the work, through PyAV, with one thread: tasks own parts of CPUs, and the same video gives
the same frames everywhere. A few decoded frames are in memory at a time, however long the video is.
"""

from faceq.sources.video.errors import DamagedError
from faceq.sources.video.picture import VideoFrame
from faceq.sources.video.reading import read, sample

__all__ = ["DamagedError", "VideoFrame", "read", "sample"]
