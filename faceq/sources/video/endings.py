"""Detect missing frames at the end of a video: demuxers stop silently where a file is cut off."""

import re
import uuid
from dataclasses import dataclass
from fractions import Fraction

import av
import av.container
from av.video.stream import VideoStream

from faceq.sources.video import transport
from faceq.sources.video.clock import Clock
from faceq.sources.video.file import HEAD, WatchedFile
from faceq.sources.video.protection import WAY_OUT

_ASF_PROPERTIES = uuid.UUID("8cabdca1-a947-11cf-8ee4-00c00c205365").bytes_le
_ASF_HEADER = uuid.UUID("75b22630-668e-11cf-a6d9-00aa0062ce6c").bytes_le
_OGG_LAST = 4
"""The flag of the last page of an Ogg stream."""

_DELAY = 32
"""Number of coded frames that a decoder may buffer before it returns one. Real decoders buffer at most 16."""


@dataclass
class Tally:
    """Counts of coded frames and problems during decoding.

    coded: number of coded frames. refused: how many of them the decoder refused. first_refused: time of the
    first of these, as text. encrypted: how many were not passed to the decoder because they are encrypted.
    empty: how many the decoder accepted, in long runs, without returning a frame; first_empty: time of the
    first of these. end: end time of the last coded frame, in units; place: its offset in the file. stopped:
    why reading stopped before the end, if it did.
    """

    coded: int = 0
    refused: int = 0
    encrypted: int = 0
    first_refused: str = ""
    empty: int = 0
    first_empty: str = ""
    end: int = 0
    place: int = 0
    stopped: str = ""
    _run: int = 0
    _run_began: str = ""

    def refuse(self, time: str) -> None:
        """Count a coded frame, shown at `time`, that the decoder refused."""
        self.first_refused = self.first_refused or time
        self.refused += 1
        self._run = 0

    def give(self) -> None:
        """Record that the decoder returned one or more frames."""
        self._run = 0

    def give_nothing(self, time: str) -> None:
        """Record that the decoder accepted a coded frame, shown at `time`, but has returned no frame yet."""
        self._run_began = self._run_began if self._run else time
        self._run += 1
        if self._run >= _DELAY:
            self.first_empty = self.first_empty or self._run_began
            self.empty += _DELAY if self._run == _DELAY else 1


def missing(
    container: av.container.InputContainer,
    stream: VideoStream,
    file: WatchedFile,
    tally: Tally,
    clock: Clock,
) -> str:
    """What is missing from the video, as text for the row's `error`; empty if nothing seems to be missing."""
    found = []
    end = clock.place(tally.end)
    if tally.stopped:
        found.append(f"broken at {end}: {tally.stopped}: the rest is not read")
    else:
        short = _short_of(container, stream, file, tally, clock)
        if short:
            found.append(f"cut off at {end}: {short}: copy the file again")
    if tally.encrypted:
        found.append(
            f"encrypted: {tally.encrypted} of {tally.coded} coded frames cannot be decoded: {WAY_OUT}"
        )
    if tally.refused:
        found.append(
            f"damaged: {tally.refused} of {tally.coded} coded frames cannot be decoded, "
            f"the first at {tally.first_refused}"
        )
    if tally.empty:
        found.append(
            f"damaged: {tally.empty} of {tally.coded} coded frames give no image, "
            f"the first at {tally.first_empty}"
        )
    if container.format.name == "mpegts":
        other = transport.other_video(file, tally.place)
        if other is not None:
            found.append(
                f"a recording with other stream numbers was appended at byte {other} and is not read: "
                "save it as a separate file"
            )
    if not tally.coded and not found:
        found.append("its video stream has no frames")
    return "; ".join(found)


def _short_of(
    container: av.container.InputContainer,
    stream: VideoStream,
    file: WatchedFile,
    tally: Tally,
    clock: Clock,
) -> str:
    """How the file shows that it ended early; empty if it does not.

    MPEG-TS states no length, but an incomplete last packet shows that it is cut off. MPEG-PS shows nothing.
    """
    name = container.format.name
    if "mp4" in name:
        listed = len(stream.index_entries)
        return f"only {tally.coded} of {listed} coded frames are there" if tally.coded < listed else ""
    if name == "mpegts":
        packet = transport.packet_size(file)
        return "its last packet is incomplete" if packet and file.size() % packet else ""
    if name == "asf":
        return _asf_short(file)
    if name == "ogg":
        return "" if _ogg_ends(file) else "its last page is missing"
    if name == "mpeg":
        return ""
    return _too_early(container, stream, tally, clock)


def _too_early(
    container: av.container.InputContainer, stream: VideoStream, tally: Tally, clock: Clock
) -> str:
    rate = stream.average_rate or 25
    if container.format.name == "avi":
        claimed = Fraction(stream.frames) / rate
    else:
        claimed = _tagged_duration(stream)
        if not claimed and len(container.streams) == 1:
            claimed = Fraction(container.duration or 0, av.time_base)
    # The durations of the last frames are guesses if the file does not state them.
    allowance = max(Fraction(1, 10), 3 / Fraction(rate))
    is_short = tally.end * clock.unit + allowance < claimed
    return f"its header states a duration of {float(claimed):.2f} s" if is_short else ""


def _tagged_duration(stream: VideoStream) -> Fraction:
    """The stream's duration in seconds from the tags of a Matroska file; 0 without such a tag."""
    text = stream.metadata.get("DURATION", "")
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text.strip())
    return int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3]) if found else Fraction(0)


def _asf_short(file: WatchedFile) -> str:
    head = file.peek(0, HEAD)
    place = head.find(_ASF_PROPERTIES)
    stated = 0 if place < 0 else int.from_bytes(head[place + 40 : place + 48], "little")
    if stated and file.peek(stated, len(_ASF_HEADER)) == _ASF_HEADER:
        file.second = stated  # FFmpeg stops before it
    return f"its header states a size of {stated} bytes" if file.size() < stated else ""


def _ogg_ends(file: WatchedFile) -> bool:
    """Whether the last page of an Ogg file is marked as the last page of its stream."""
    end = file.size() if file.second is None else file.second
    tail = file.peek(max(0, end - (1 << 16)), min(end, 1 << 16))
    place = tail.rfind(b"OggS\0")
    return place >= 0 and bool(tail[place + 5] & _OGG_LAST)
