"""Interlaced frames, which hold two moments in alternate lines, made into frames of one moment."""

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
"""FFmpeg's AVFieldOrder: which field is shown first; 0 is unknown, 1 progressive."""

_SILENT = {"huffyuv", "ffvhuff", "utvideo", "magicyuv", "png", "jpeg2000", "qtrle", "r210", "cfhd"}
"""Codecs whose frames cannot say that they are interlaced: the file's header says it for them. Of all
others the frames' own word counts, which may change on the way."""

_SINGLE_FIELDS = {"hevc"}
"""Codecs that know interlaced pictures only as fields, one after the other: nothing is woven in them."""


class Deinterlacer:
    """Frames as they were, but those that are marked as interlaced without their combs.

    FFmpeg's filter bwdif makes one frame of each: the moment of its first field, with the lines between
    from its neighbours in time and space. Frames that are not marked stay as they are, bit by bit. Three
    frames are in memory while it works.
    """

    def __init__(self, decoder: VideoCodecContext):
        self._order = _FIELD_ORDERS.get(decoder.field_order) if decoder.name in _SILENT else None
        self._whole = decoder.name in _SINGLE_FIELDS
        self._graph: av.filter.Graph | None = None
        self._format: tuple[Any, ...] = ()
        self._pushed = 0
        self._waiting: deque[VideoFrame] = deque()

    def frames(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """The same frames in the same order, each with its own index and time."""
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
                return  # the second of one frame that went in twice
            # One comes out for each that went in, in order.
            yield dataclasses.replace(self._waiting.popleft(), decoded=decoded)

    def _rest(self) -> Iterator[VideoFrame]:
        """What the filter still holds; it is spent then."""
        if self._graph is not None:
            if self._pushed == 1:
                self._graph.push(self._waiting[0].decoded)  # the filter lets a single frame pass as it is
            self._graph.push(None)
            yield from self._ready()
            self._graph = None

    def _new_graph(self, decoded: av.VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        # Which unit of time is told does not matter: frames keep their own times.
        width, height, pixels = decoded.width, decoded.height, decoded.format
        nodes = [graph.add_buffer(None, width, height, pixels, time_base=Fraction(1, 1000))]
        if self._order is not None:
            nodes.append(graph.add("setfield", f"mode={self._order}"))
        nodes.append(graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced"))
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph


def _format(decoded: av.VideoFrame) -> tuple[Any, ...]:
    """What must not change inside a filter graph."""
    return decoded.width, decoded.height, decoded.format.name, decoded.colorspace, decoded.color_range
