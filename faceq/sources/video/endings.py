"""What is missing of a video when no more frames come: demuxers end quietly where a file is cut."""

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
"""The bit of an Ogg page that says that it is the last one."""

_DELAY = 32
"""Coded frames that a decoder may keep for itself before it gives one; in truth 16 at most."""


@dataclass
class Tally:
    """What was met on the way.

    coded: coded frames. refused, encrypted: how many of them the decoder refused, or could not be given.
    first_refused: when the first of those is shown, for people. barren: coded frames, many in a row, that
    the decoder took and gave nothing for; first_barren likewise. end: of the last coded frame, in units of
    time; place: where in the file it is. stopped: why reading stopped before the end, if it did.
    """

    coded: int = 0
    refused: int = 0
    encrypted: int = 0
    first_refused: str = ""
    barren: int = 0
    first_barren: str = ""
    end: int = 0
    place: int = 0
    stopped: str = ""
    _run: int = 0
    _run_began: str = ""

    def refuse(self, time: str) -> None:
        """The decoder refused a coded frame, which is shown at that time."""
        self.first_refused = self.first_refused or time
        self.refused += 1
        self._run = 0

    def give(self) -> None:
        """The decoder gave a decoded frame or several."""
        self._run = 0

    def give_nothing(self, time: str) -> None:
        """The decoder took a coded frame, which is shown at that time, and gave nothing yet."""
        self._run_began = self._run_began if self._run else time
        self._run += 1
        if self._run >= _DELAY:
            self.first_barren = self.first_barren or self._run_began
            self.barren += _DELAY if self._run == _DELAY else 1


def missing(
    container: av.container.InputContainer,
    stream: VideoStream,
    file: WatchedFile,
    tally: Tally,
    clock: Clock,
) -> str:
    """What of the video gave no frames, for people; empty if nothing is known to be missing."""
    found = []
    end = clock.place(tally.end)
    if tally.stopped:
        found.append(f"broken at {end}: {tally.stopped}: what comes after it is not read")
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
    if tally.barren:
        found.append(
            f"damaged: {tally.barren} of {tally.coded} coded frames gave no picture, "
            f"the first at {tally.first_barren}"
        )
    if container.format.name == "mpegts":
        other = transport.other_video(file, tally.place)
        if other is not None:
            found.append(
                f"a recording with streams of other numbers was joined to this one at byte {other}: "
                "it is not read: give it as a file of its own"
            )
    if not tally.coded and not found:
        found.append("no frames in its video stream")
    return "; ".join(found)


def _short_of(
    container: av.container.InputContainer,
    stream: VideoStream,
    file: WatchedFile,
    tally: Tally,
    clock: Clock,
) -> str:
    """What the file says of its length, if it ended earlier. MPEG-TS says nothing of it beyond its packets'
    size, MPEG-PS nothing at all."""
    name = container.format.name
    if "mp4" in name:
        listed = len(stream.index_entries)
        return f"{tally.coded} of {listed} coded frames are there" if tally.coded < listed else ""
    if name == "mpegts":
        packet = transport.packet_size(file)
        return "its last packet is not whole" if packet and file.size() % packet else ""
    if name == "asf":
        return _asf_short(file)
    if name == "ogg":
        return "" if _ogg_ends(file) else "its last page is not there"
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
    # The last frames' durations are guesses where a file does not state them.
    allowance = max(Fraction(1, 10), 3 / Fraction(rate))
    return f"it says it lasts {float(claimed):.2f} s" if tally.end * clock.unit + allowance < claimed else ""


def _tagged_duration(stream: VideoStream) -> Fraction:
    """Seconds that a Matroska file's tags give the stream; 0 without them."""
    text = stream.metadata.get("DURATION", "")
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text.strip())
    return int(found[1]) * 3600 + int(found[2]) * 60 + Fraction(found[3]) if found else Fraction(0)


def _asf_short(file: WatchedFile) -> str:
    head = file.peek(0, HEAD)
    place = head.find(_ASF_PROPERTIES)
    stated = 0 if place < 0 else int.from_bytes(head[place + 40 : place + 48], "little")
    if stated and file.peek(stated, len(_ASF_HEADER)) == _ASF_HEADER:
        file.second = stated  # FFmpeg does not go as far
    return f"it says it has {stated} bytes" if file.size() < stated else ""


def _ogg_ends(file: WatchedFile) -> bool:
    """Whether the last page of an Ogg file is marked as the last one of its stream."""
    end = file.size() if file.second is None else file.second
    tail = file.peek(max(0, end - (1 << 16)), min(end, 1 << 16))
    place = tail.rfind(b"OggS\0")
    return place >= 0 and bool(tail[place + 5] & _OGG_LAST)
