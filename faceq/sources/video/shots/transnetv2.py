"""Find shots by TransNet V2, a neural network that was trained to see cuts, fades and dissolves.

It sees windows of 100 pictures of 48x27 pixels. Only the 50 in the middle of a window get their mark from it:
windows begin every 50 frames, counted from the first frame of the video. Before the first frame and after the
last one, it sees copies of them. All of this is as in the published code.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import onnxruntime
from av.video.reformatter import VideoReformatter

from faceq.errors import ModelFileError
from faceq.runtime import torch_weights
from faceq.runtime.onnx_runtime import session
from faceq.sources.video.picture import RESAMPLING
from faceq.sources.video.shots.transnetv2_onnx import COLOURS, HEIGHT, WIDTH, WINDOW, graph

MODEL = "transnetv2"
"""Its name in the model zoo."""

STEP = WINDOW // 2
CONTEXT = (WINDOW - STEP) // 2
"""Number of pictures of a window on either side that get no mark from it."""

_THRESHOLD = 0.5


@dataclass(frozen=True)
class TransNet:
    """Finds shots by the network in a file, see `Finder`. A mark is the probability, 0..1, that the frame is
    the last one of a shot, or in the middle of a fade or a dissolve."""

    path: Path

    needs_index: ClassVar = True
    beyond: ClassVar = WINDOW

    def shrinking(self) -> Callable[[av.VideoFrame], np.ndarray]:
        """Makes pictures (27, 48, 3) uint8 RGB, as FFmpeg's program makes them by default."""
        reformatter = VideoReformatter()

        def shrink(frame: av.VideoFrame) -> np.ndarray:
            small = reformatter.reformat(frame, WIDTH, HEIGHT, "rgb24", interpolation=RESAMPLING, threads=1)
            return small.to_ndarray()

        return shrink

    def marks(self, pictures: Iterable[np.ndarray], first: int = 0) -> Iterator[float]:
        source = iter(pictures)
        start = next(source, None)
        if start is None:
            return
        # `before`: copies of the first picture in the middle of the first window. `left`: pictures without
        # their mark.
        before, left = first % STEP, 0
        window = [start] * (CONTEXT + before)
        for picture in itertools.chain([start], source):
            window.append(picture)
            left += 1
            if len(window) == WINDOW:
                found = self._middle(window)[before:]
                yield from found
                window, before, left = window[STEP:], 0, left - len(found)
        while left > 0:
            window += [window[-1]] * (WINDOW - len(window))
            found = self._middle(window)[before:][:left]
            yield from found
            window, before, left = window[STEP:], 0, left - len(found)

    def certain(self, first: int, count: int, is_cut_off: bool) -> range:
        end = first + count
        begin = -(-(first + CONTEXT) // STEP) * STEP if first else 0
        end = (end - CONTEXT) // STEP * STEP if is_cut_off else end
        return range(begin - first, max(begin, end) - first)

    def begin_shots(self, marks: Iterable[float]) -> Iterator[bool]:
        """A shot begins after a run of frames that are probably in a transition, as in the published
        code."""
        was_inside = is_begun = False
        for mark in marks:
            is_inside = mark > _THRESHOLD
            yield is_begun and was_inside and not is_inside
            is_begun = is_begun or not is_inside
            was_inside = is_inside

    def _middle(self, window: list[np.ndarray]) -> list[float]:
        """The marks of the pictures in the middle of a window."""
        pictures = np.stack(window)
        (cuts,) = _network(self.path).run(None, {"pictures": pictures, "colours": colours(pictures)})
        return cuts[CONTEXT : CONTEXT + STEP].tolist()


def colours(pictures: np.ndarray) -> np.ndarray:
    """(N, COLOURS) float32: the histogram of each picture's colours, three bits each, of length 1.

    `pictures`: (N, H, W, 3) uint8 RGB.
    """
    red, green, blue = np.moveaxis(pictures >> 5, -1, 0).astype(np.int64)
    values = (red << 6 | green << 3 | blue).reshape(len(pictures), -1)
    counts = np.stack([np.bincount(each, minlength=COLOURS) for each in values]).astype(np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@functools.cache
def _network(path: Path) -> onnxruntime.InferenceSession:
    try:
        model = graph(torch_weights.read(path))
    except (KeyError, ValueError) as error:
        raise ModelFileError(f"{path}: is not TransNet V2: {error}") from None
    return session(path, model, "cpu", threads=1)
