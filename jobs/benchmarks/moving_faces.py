"""Synthetic videos of people who move, and the truth: where each of them is in each frame.

Heads are cut out of portraits with an elliptic mask. They move over a background of colours, turn in the
image plane, grow and shrink, and become lighter and darker. A head hides those behind it. The faces do not
change their expression or turn away from the camera: in this, real videos are harder.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from faceq.faces.detect import YuNet
from faceq.models.fetch import fetch
from faceq.sources import video
from faceq.sources.decode.image import decode
from jobs.benchmarks.measure_shots import FPS, SIZE, write

SECONDS = 4
FACE = 80  # usual height of a face's box, pixels
HEAD = (0.85, 0.78)  # half axes of the ellipse around a head, in widths and heights of the face's box
TURN = 6.0  # largest rotation in the image plane, degrees
NOISE = 4.0  # grey levels
EARLIER, HIGHER, LARGER = 0.25, 0.05, 0.2  # how far each video varies the ways of its scenario
GROW = 0.04  # largest change of size, beside that of the way
LIGHT = 0.12  # largest change of brightness
LONGEST_SIDE = 512  # of a source image
SEEN = 0.5  # least visible share of a face that counts as there

Way = Callable[[float], tuple[float, float, float]]
"""From a time, 0 to 1, to x and y of a face's centre, as shares of the frame's sides, and its scale."""


@dataclass(frozen=True)
class Head:
    """A head that was cut out: (H, W, 3) uint8 RGB, its mask (H, W) float32 0 to 1, and its face's box."""

    pixels: np.ndarray
    mask: np.ndarray
    box: np.ndarray


@dataclass(frozen=True)
class Truth:
    """A frame's faces, the front one first: boxes (P, 4) float64, x, y, w, h; visible share (P,), 0 to 1."""

    boxes: np.ndarray
    visible: np.ndarray


def heads_of(paths: list[Path]) -> list[Head]:
    """The largest face of each image, cut out with the head."""
    detector = YuNet(fetch("yunet"), 0.6)
    heads = []
    for path in paths:
        pixels = decode(path.read_bytes(), 10**8)
        shrink = min(1.0, LONGEST_SIDE / max(pixels.shape[:2]))
        pixels = cv2.resize(pixels, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        found = detector(pixels)
        if not found:
            raise SystemExit(f"{path} shows no face: name portraits only")
        box = np.array(max(found, key=lambda face: face.area).box, np.float64)
        mask = np.zeros(pixels.shape[:2], np.float32)
        centre = (box[:2] + box[2:] / 2 - (0, 0.08 * box[3])).round().astype(int)
        axes = (box[2:] * HEAD).round().astype(int)
        cv2.ellipse(mask, centre.tolist(), axes.tolist(), 0, 0, 360, 1, cv2.FILLED, cv2.LINE_AA)
        heads.append(Head(pixels, cv2.GaussianBlur(mask, (0, 0), 2), box))
    return heads


def way(*stops: tuple[float, float, float, float]) -> Way:
    """A way through stops: time, x, y, scale. Between two of them the speed rises and falls smoothly."""
    times, *values = zip(*stops, strict=True)

    def at(time: float) -> tuple[float, float, float]:
        after = int(np.clip(np.searchsorted(times, time), 1, len(times) - 1))
        share = np.clip((time - times[after - 1]) / (times[after] - times[after - 1]), 0, 1)
        share = 0.5 * share + 0.5 * share * share * (3 - 2 * share)
        x, y, scale = (value[after - 1] + share * (value[after] - value[after - 1]) for value in values)
        return float(x), float(y), float(scale)

    return at


SCENARIOS: dict[str, list[Way]] = {
    "cross": [
        way((0, 0.15, 0.5, 1.1), (1, 0.85, 0.48, 1.1)),
        way((0, 0.85, 0.46, 0.95), (1, 0.15, 0.5, 0.95)),
    ],
    "turn back": [
        way((0, 0.15, 0.5, 1.05), (0.5, 0.47, 0.5, 1.05), (1, 0.15, 0.52, 1.05)),
        way((0, 0.85, 0.45, 0.95), (0.5, 0.53, 0.47, 0.95), (1, 0.85, 0.45, 0.95)),
    ],
    "return": [
        way((0, 0.35, 0.5, 1.0), (1, 0.42, 0.5, 1.05)),
        way((0, 0.7, 0.45, 1.0), (0.3, 1.2, 0.45, 1.0), (0.65, 1.2, 0.6, 1.0), (1, 0.75, 0.6, 1.1)),
    ],
    "three": [
        way((0, 0.1, 0.45, 1.15), (1, 0.9, 0.5, 1.15)),
        way((0, 0.9, 0.52, 1.0), (1, 0.1, 0.48, 1.0)),
        way((0, 0.5, 0.5, 0.9), (0.5, 0.35, 0.45, 0.9), (1, 0.55, 0.5, 0.9)),
    ],
}
"""The people of each scenario, the front one first."""


def film(heads: list[Head], ways: list[Way], seed: int) -> tuple[np.ndarray, list[Truth]]:
    """Frames (N, H, W, 3) uint8 RGB of heads that move, the front one first, and the truth of each frame."""
    rng = np.random.default_rng(seed)
    colours = rng.uniform(40, 200, (5, 9, 3)).astype(np.float32)
    background = cv2.resize(colours, SIZE, interpolation=cv2.INTER_CUBIC)
    phases = rng.uniform(0, 2 * np.pi, (len(heads), 3))
    ways = [_varied(way, rng) for way in ways]
    frames, truth = [], []
    for time in np.linspace(0, 1, FPS * SECONDS):
        placed = [
            _placed(head, way(time), np.sin(2 * np.pi * np.array([1, 1.5, 2]) * time + phase))
            for head, way, phase in zip(heads, ways, phases, strict=True)
        ]
        shown = background
        for pixels, cover, _ in reversed(placed):
            shown = shown * (1 - cover[..., None]) + pixels * cover[..., None]
        noisy = shown + rng.normal(0, NOISE, shown.shape)
        frames.append(np.clip(noisy.round(), 0, 255).astype(np.uint8))
        boxes = [box for _, _, box in placed]
        truth.append(Truth(np.array(boxes), _visible(boxes, [cover for _, cover, _ in placed])))
    return np.stack(frames), truth


def _varied(way: Way, rng: np.random.Generator) -> Way:
    """A way that is higher or lower, with a larger or smaller face, and faster at its begin or its end."""
    power = np.exp(rng.uniform(-EARLIER, EARLIER))
    shift, scale = rng.uniform(-HIGHER, HIGHER), np.exp(rng.uniform(-LARGER, LARGER))

    def varied(time: float) -> tuple[float, float, float]:
        x, y, size = way(time**power)
        return x, y + shift, size * scale

    return varied


def _placed(
    head: Head, at: tuple[float, float, float], change: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head in a frame: pixels, mask and the face's box. change: of light, rotation and size, -1 to 1."""
    x, y, scale = at[0] * SIZE[0], at[1] * SIZE[1], at[2]
    light, turn, grow = change
    scale *= FACE / head.box[3] * (1 + GROW * grow)
    centre = head.box[:2] + head.box[2:] / 2
    move = cv2.getRotationMatrix2D(centre.tolist(), TURN * turn, scale)
    move[:, 2] = move[:, 2] + np.array([x, y]) - centre
    mask = cv2.warpAffine(head.mask, move, SIZE, flags=cv2.INTER_AREA)
    pixels = cv2.warpAffine(head.pixels, move, SIZE, flags=cv2.INTER_AREA).astype(np.float32)
    size = head.box[2:] * scale
    return pixels * (1 + LIGHT * light), mask, np.concatenate([np.array([x, y]) - size / 2, size])


def _visible(boxes: list[np.ndarray], masks: list[np.ndarray]) -> np.ndarray:
    """The share of the ellipse in each box that is in the frame and not hidden by a head in front."""
    shares = []
    hidden = np.zeros(masks[0].shape, bool)
    for box, mask in zip(boxes, masks, strict=True):
        face = np.zeros(mask.shape, np.uint8)
        centre, axes = (box[:2] + box[2:] / 2).round().astype(int), (box[2:] / 2).round().astype(int)
        cv2.ellipse(face, centre.tolist(), axes.tolist(), 0, 0, 360, 1, cv2.FILLED)
        shares.append(float((face.astype(bool) & ~hidden).sum() / (np.pi * axes.prod())))
        hidden |= mask > 0.5
    return np.array(shares)


def encoded(frames: np.ndarray, path: Path) -> list[np.ndarray]:
    """The frames as H.264 leaves them. They are written to `path`."""
    with write(path, frames).open("rb") as file:
        return [frame.pixels() for frame in video.read(file)]
