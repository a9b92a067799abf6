"""The frames that the benchmark makes if it is given no input: three workloads, from photos in installed
packages.

The frames of a workload are in shards of equal length, as many for each core: then no process has to wait for
another one that has more to do.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import skimage

from faceq.runtime import device
from jobs import demo

FRAMES_PER_SHARD = 64
"""About as many frames are in a shard, if there are enough of them for every core."""

PORTRAIT_SIDE = 1024
PORTRAIT_QUALITY = 85
PORTRAIT_ZOOM = (1.0, 1.25)
"""Smallest and largest factor by which a part of one of the demo's frames is enlarged beyond the size of the
frame. Faces then cover 0.4 to 0.6 of a portrait's height."""

GRAIN = 5.0
"""Standard deviation of the noise on portraits and behind videos, grey levels of 255. Enlarged photos are
smooth, and a smooth JPEG is decoded quickly. With this noise, a portrait has 180 KB and is decoded in 3.0 ms.
16 photos of the same size from CelebA-HQ have 87 KB on average and take 2.3 ms."""

VIDEO_SIZE = (1920, 1080)
VIDEO_RATE = 25
VIDEO_FACES = (520, 900)
"""Smallest and largest side of the demo's frame in the scene of a video, in pixels; the faces have 0.4 of it,
210 to 360 pixels."""

CLIPS = 4
"""Number of different videos. Further ones are copies."""


@dataclass(frozen=True)
class Workload:
    """Frames of one kind.

    title: what they are. frames: number of frames for each core, unless the caller asks for another number.
    base: number of frames for each core of the short job (see `jobs.benchmarks.job`). write: writes shards of
    frames into a new folder.
    """

    title: str
    frames: int
    base: int
    write: Callable[[Path, int, int], None]


def write(workload: Workload, folder: Path, count: int) -> str:
    """Write about `count` frames of a workload. Returns their folder.

    The number is rounded down to shards of equal length.
    """
    cores = device.usable_cpus()
    shards = cores * max(1, round(count / cores / FRAMES_PER_SHARD))
    workload.write(folder, min(shards, count), max(1, count // shards))
    return str(folder)


# --- 384x384 JPEG frames -------------------------------------------------------------------------


def write_frames(folder: Path, count: int, each: int = FRAMES_PER_SHARD) -> str:
    """Write `count` 384x384 frames of the demo's eight faces as tar shards. Returns their folder."""
    demo.write_shards(folder, itertools.islice(_frames(), count), each)
    return str(folder)


def _frames() -> Iterator[tuple[str, bytes]]:
    """Endlessly many different frames: each is shifted, mirrored and lit slightly differently."""
    chance = np.random.default_rng(0)
    for index, face in enumerate(itertools.cycle(demo.source_faces().values())):
        moved = np.roll(face, chance.integers(-24, 25, 2), (0, 1))
        turned = moved[:, ::-1] if chance.random() < 0.5 else moved
        lit = np.clip(turned * chance.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
        yield f"{index:06}.jpg", demo._jpeg(lit)


# --- 1024x1024 portraits -------------------------------------------------------------------------


def _write_portraits(folder: Path, shards: int, each: int) -> None:
    demo.write_shards(folder, itertools.islice(_portraits(), shards * each), each)


def _portraits() -> Iterator[tuple[str, bytes]]:
    """Endlessly many different portraits: enlarged frames with noise."""
    chance = np.random.default_rng(0)
    # Drawn once: a million random numbers take longer than encoding the picture.
    grain = chance.normal(0, GRAIN, (2 * PORTRAIT_SIDE, 2 * PORTRAIT_SIDE, 1)).astype(np.float32)
    for index, face in enumerate(itertools.cycle(demo.source_faces().values())):
        side = round(demo.FRAME_SIZE / chance.uniform(*PORTRAIT_ZOOM))
        left, top = chance.integers(0, demo.FRAME_SIZE - side + 1, 2) // 2 + (demo.FRAME_SIZE - side) // 4
        part = face[top : top + side, left : left + side]
        large = cv2.resize(part, (PORTRAIT_SIDE, PORTRAIT_SIDE), interpolation=cv2.INTER_CUBIC)
        x, y = chance.integers(0, PORTRAIT_SIDE, 2)
        noisy = large + grain[y : y + PORTRAIT_SIDE, x : x + PORTRAIT_SIDE]
        lit = np.clip(noisy * chance.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
        yield f"{index:06}.jpg", demo._jpeg(lit, PORTRAIT_QUALITY)


# --- 1080p video ---------------------------------------------------------------------------------


def _write_videos(folder: Path, shards: int, each: int) -> None:
    folder.mkdir(parents=True)
    faces = list(demo.source_faces().values())
    for index in range(min(shards, CLIPS)):
        _write_video(folder / f"{index:04}.mp4", faces[index], each, seed=index)
    for index in range(CLIPS, shards):
        shutil.copyfile(folder / f"{index % CLIPS:04}.mp4", folder / f"{index:04}.mp4")


def _write_video(path: Path, face: np.ndarray, count: int, seed: int) -> None:
    """Write an H.264 video in which a face moves through a scene and comes nearer."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", VIDEO_RATE, options={"preset": "veryfast", "crf": "20"})
        stream.width, stream.height = VIDEO_SIZE
        stream.pix_fmt = "yuv420p"
        for index, picture in enumerate(_scene(face, count, seed)):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = index, Fraction(1, VIDEO_RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _scene(face: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """(1080, 1920, 3) uint8 RGB frames: a face with soft edges on a noisy photo."""
    chance = np.random.default_rng(seed)
    width, height = VIDEO_SIZE
    photo = skimage.data.coffee()
    rows = photo.shape[1] * height // width
    noise = chance.normal(0, GRAIN, (height, width, 3))
    behind = cv2.resize(photo[:rows], VIDEO_SIZE, interpolation=cv2.INTER_CUBIC) + noise
    behind = np.clip(behind, 0, 255).astype(np.uint8)
    side = demo.FRAME_SIZE
    from_centre = np.hypot(*(np.mgrid[:side, :side] - (side - 1) / 2)) / (side / 2)
    edge = np.clip((1 - from_centre) / 0.2, 0, 1).astype(np.float32)
    for index in range(count):
        turn = 2 * np.pi * index / (4 * VIDEO_RATE) + seed
        size = round(VIDEO_FACES[0] + (1 - np.cos(turn)) / 2 * (VIDEO_FACES[1] - VIDEO_FACES[0]))
        x, y = (
            (np.array(VIDEO_SIZE) - size) * (1 + 0.8 * np.array([np.sin(turn), np.cos(2 * turn)])) / 2
        ).astype(int)
        shown = cv2.resize(face, (size, size), interpolation=cv2.INTER_CUBIC)
        weight = cv2.resize(edge, (size, size))[..., None]
        picture = behind.copy()
        part = picture[y : y + size, x : x + size]
        part[:] = part + weight * (shown.astype(np.float32) - part)
        yield picture


def _write_frames(folder: Path, shards: int, each: int) -> None:
    write_frames(folder, shards * each, each)


WORKLOADS = {
    "frames": Workload("384x384 JPEGs", 450, 150, _write_frames),
    "video": Workload("1080p video", 150, 50, _write_videos),
    "portraits": Workload("1024x1024 JPEGs", 300, 100, _write_portraits),
}
