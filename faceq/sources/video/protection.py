"""Detect encrypted videos. To most decoders their content looks like damage."""

import re
import uuid

import av.container
from av.video.stream import VideoStream

from faceq.sources.video import transport
from faceq.sources.video.file import HEAD, WatchedFile

WAY_OUT = "use a copy without copy protection"

_ASF_PROTECTED = tuple(
    uuid.UUID(name).bytes_le
    for name in ("2211b3fb-bd23-11d2-b4b7-00a0c955fc6e", "298ae614-2622-4c17-b935-dae07ee9289c")
)
"""Header objects of a WMV with Windows Media DRM: content encryption, and extended content encryption."""

# The nested elements ContentEncodings, ContentEncoding and ContentEncryption.
_MATROSKA_PROTECTED = re.compile(rb"\x6d\x80.{1,8}\x62\x40.{1,40}?\x50\x35", re.DOTALL)


def is_encrypted(container: av.container.InputContainer, stream: VideoStream, file: WatchedFile) -> bool:
    """Whether the file states that its whole video is encrypted. (MP4 states it for each coded frame.)"""
    name = container.format.name
    if name == "asf":
        header = file.peek(0, HEAD)
        return any(mark in header for mark in _ASF_PROTECTED)
    if "matroska" in name:
        return _MATROSKA_PROTECTED.search(file.peek(0, HEAD)) is not None
    # FFmpeg cannot analyse a scrambled stream, so that the size of its frames stays unknown.
    return name == "mpegts" and not stream.codec_context.width and transport.is_scrambled(file)
