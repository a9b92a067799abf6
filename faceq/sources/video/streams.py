"""Choose a file's video stream and set up its decoder."""

import re
from typing import NamedTuple

import av.container
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from faceq.sources.video import picture
from faceq.sources.video.errors import DamagedError
from faceq.sources.video.file import HEAD, WatchedFile
from faceq.sources.video.protection import WAY_OUT, is_encrypted

_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails


class Choice(NamedTuple):
    """The stream that is read, and a note about other video streams (empty if there are none)."""

    stream: VideoStream
    note: str


def choose(container: av.container.InputContainer, file: WatchedFile) -> Choice:
    """Choose the video stream to read, and set up its decoder.

    Cover art does not count as a video stream. If there are several streams and exactly one of them is marked
    as the default, it is chosen, otherwise the (first) one with the most pixels.

    Raises:
        DamagedError: there is no video stream, or none that can be decoded.
    """
    found = [stream for stream in container.streams.video if not stream.disposition & _COVERS]
    if not found:
        raise DamagedError(_no_video(container))
    decodable = [stream for stream in found if stream.codec_context is not None]
    if not decodable:
        raise DamagedError(
            f"no decoder for its video codec{_codec_name(container, found[0], file)}: "
            "convert it, for example to H.264; copy it again if it is cut off"
        )
    defaults = [stream for stream in decodable if stream.disposition & Disposition.default]
    chosen = defaults[0] if len(defaults) == 1 else max(decodable, key=_pixels)
    decoder = chosen.codec_context
    if is_encrypted(container, chosen, file):
        raise DamagedError(f"the video is encrypted: {WAY_OUT}")
    if _pixels(chosen) > picture.MAX_PIXELS:
        raise DamagedError(picture.too_large(decoder.width, decoder.height))
    decoder.thread_count = 1
    decoder.thread_type = "NONE"
    decoder.copy_opaque = True  # passes a packet's information on to its frame
    decoder.options = {"max_pixels": str(picture.MAX_PIXELS)}  # later frames may be larger
    for stream in container.streams:
        if stream is not chosen:
            stream.discard = Discard.all
    return Choice(chosen, _of_several(found, chosen, is_default=len(defaults) == 1))


def _pixels(stream: VideoStream) -> int:
    return stream.codec_context.width * stream.codec_context.height


def _of_several(found: list[VideoStream], chosen: VideoStream, is_default: bool) -> str:
    if len(found) == 1:
        return ""
    sizes = ", ".join(_size(stream) for stream in found)
    reason = "the default one" if is_default else "the largest one"
    return (
        f"{len(found)} video streams ({sizes}): only number {found.index(chosen) + 1} is read, {reason}; "
        "to score the others, save each one as a separate file"
    )


def _size(stream: VideoStream) -> str:
    decoder = stream.codec_context
    return f"{decoder.width}x{decoder.height}" if decoder and decoder.width else "size unknown"


def _no_video(container: av.container.InputContainer) -> str:
    kinds = {stream.type for stream in container.streams if not stream.disposition & _COVERS}
    if len(container.streams.video) and "audio" in kinds:
        return "an audio file: its only image is the cover art"
    return f"it has no video stream, only: {', '.join(sorted(kinds)) or 'cover art'}"


def _codec_name(container: av.container.InputContainer, stream: VideoStream, file: WatchedFile) -> str:
    """The file's name for the codec, in parentheses; empty if unknown."""
    if "matroska" in container.format.name:
        found = re.search(rb"V_[A-Z0-9/_.]+", file.peek(0, HEAD))
        name = found[0].decode() if found else ""
    else:
        name = file.boxes.codecs.get(stream.id, "")
    return f" ({name})" if name.isprintable() and name.strip() else ""
