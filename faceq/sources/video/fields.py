"""Deinterlace frames. An interlaced frame contains two moments in alternate lines."""

import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av
import av.filter
from av.video.codeccontext import VideoCodecContext

from faceq.sources.video.picture import VideoFrame

_FIELD_ORDERS = {2: "tff", 3: "bff", 4: "tff", 5: "bff"}
"""FFmpeg's AVFieldOrder: the field that is shown first. 0 means unknown, 1 progressive."""

_SILENT = {"huffyuv", "ffvhuff", "utvideo", "magicyuv", "png", "jpeg2000", "qtrle", "r210", "cfhd"}
"""Codecs whose frames have no flag for interlacing: the file's header states it. For all other codecs the
flags of the frames count, which may change within a video."""

_SINGLE_FIELDS = {"hevc"}
"""Codecs that store interlaced video only as single fields, one after the other, never woven into frames."""


class Deinterlacer:
    """Deinterlaces the frames that are marked as interlaced, and leaves all others unchanged, bit by bit.

    FFmpeg's filter bwdif turns each interlaced frame into one progressive frame: it keeps the first field and
    interpolates the other lines from neighbours in time and space. The filter keeps three frames in memory.
    """

    def __init__(self, decoder: VideoCodecContext):
        self._order = _FIELD_ORDERS.get(decoder.field_order) if decoder.name in _SILENT else None
        self._whole = decoder.name in _SINGLE_FIELDS
        self._graph: av.filter.Graph | None = None
        self._format: tuple[Any, ...] = ()
        self._pushed = 0
        self._waiting: deque[VideoFrame] = deque()

    def frames(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield the same frames in the same order, with their own indices and times."""
        for frame in frames:
            decoded = frame.decoded
            if self._graph is not None and _format(decoded) != self._format:
                yield from self._rest()
            if self._graph is None:
                if not self._woven(decoded):
                    yield frame
                    continue
                self._graph, self._format = self._new_graph(decoded), _format(decoded)
                self._pushed = 0
            self._waiting.append(frame)
            self._graph.push(decoded)
            self._pushed += 1
            yield from self._ready()
        yield from self._rest()

    def _woven(self, decoded: av.VideoFrame) -> bool:
        return not self._whole and (decoded.interlaced_frame or self._order is not None)

    def _ready(self) -> Iterator[VideoFrame]:
        assert self._graph is not None
        while True:
            try:
                decoded = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            if not self._waiting:
                return  # a single frame was pushed twice: drop its second result
            # The filter returns one frame for each that was pushed, in order.
            yield dataclasses.replace(self._waiting.popleft(), decoded=decoded)

    def _rest(self) -> Iterator[VideoFrame]:
        """Yield the frames that the filter still buffers. The filter cannot be used afterwards."""
        if self._graph is not None:
            if self._pushed == 1:
                self._graph.push(self._waiting[0].decoded)  # the filter does not deinterlace a single frame
            self._graph.push(None)
            yield from self._ready()
            self._graph = None

    def _new_graph(self, decoded: av.VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        # The time base does not matter: frames keep their own times.
        width, height, pixels = decoded.width, decoded.height, decoded.format
        nodes = [graph.add_buffer(None, width, height, pixels, time_base=Fraction(1, 1000))]
        if self._order is not None:
            nodes.append(graph.add("setfield", f"mode={self._order}"))
        nodes.append(graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph


def _format(decoded: av.VideoFrame) -> tuple[Any, ...]:
    """The properties of frames that must not change within a filter graph."""
    return decoded.width, decoded.height, decoded.format.name, decoded.colorspace, decoded.color_range
