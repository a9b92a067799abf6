"""Measure how well shots are found: join parts of videos by cuts, fades and dissolves, and look for them.

    python -m jobs.benchmarks.measure_shots VIDEOS… [--joined 30] [--methods content transnetv2 pyscenedetect]

VIDEOS are videos of one shot each. Parts of them are joined in random order, encoded as H.264, and read as a
job reads them. For each kind of transition the table counts those that are found: a boundary at most one
frame outside of it. A "jump" is a cut between two parts of the same video. Any other boundary is a false
alarm and lowers the precision. `pyscenedetect` is the adaptive detector of PySceneDetect with its defaults,
if that package is installed. The last lines compare the CPU time in which a read task reads some of the
videos with and without shots.
"""

import argparse
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import rich.console
import rich.table

from faceq.config import Video
from faceq.sources import read_shards, video
from faceq.sources.frame import in_batches, to_table
from faceq.sources.listing import list_shards
from faceq.sources.video.shots import find_by
from faceq.storage.settings import S3Settings

SIZE = (640, 360)
FPS = 25
PARTS = 9
SHORTEST, LONGEST = 25, 90  # frames of a part
FADE = (6, 12)  # frames from full to black, least and most
BLACK = 3  # most black frames
DISSOLVE = (10, 25)  # least and most frames
KINDS = ("cut", "cut", "cut", "fade", "dissolve")
JUMPS = 0.2  # share of the parts that follow another part of the same video
TIMED = 2  # joined videos that are read to measure the time
TIMES = 3
METHODS = ("content", "transnetv2", "pyscenedetect")

Frames = np.ndarray
"""(N, H, W, 3) uint8 RGB."""


@dataclass(frozen=True)
class Transition:
    """Where one part follows another: its kind, its first frame, and its last."""

    kind: str
    first: int
    last: int


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", help="videos of one shot each")
    parser.add_argument("--joined", type=int, default=30, help="number of joined videos (30)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:2])
    options = parser.parse_args()
    methods = options.methods
    sources = [scaled(path) for path in options.videos]
    there: Counter[str] = Counter()
    found: dict[str, Counter[str]] = {method: Counter() for method in methods}
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for seed in range(options.joined):
            frames, truth = joined(sources, np.random.default_rng(seed))
            paths.append(write(Path(folder) / f"{seed}.mp4", frames))
            there.update(each.kind for each in truth)
            for method in methods:
                found[method].update(compared(boundaries(paths[-1], method), truth))
        show(there, found)
        own = [method for method in methods if method != "pyscenedetect"]
        plain, *others = timed(paths[:TIMED], ["none", *own])
    for method, seconds in zip(own, others, strict=True):
        print(f"{method}: reading takes {seconds / plain:.3f} of the CPU time without shots")


def scaled(path: str) -> Frames:
    """The frames of a video, scaled and cropped to SIZE."""
    found = []
    with open(path, "rb") as file:
        for frame in video.read(file):
            pixels = frame.pixels()
            height, width = pixels.shape[:2]
            scale = max(SIZE[0] / width, SIZE[1] / height)
            shown = cv2.resize(
                pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA
            )
            top, left = (shown.shape[0] - SIZE[1]) // 2, (shown.shape[1] - SIZE[0]) // 2
            found.append(shown[top : top + SIZE[1], left : left + SIZE[0]])
    return np.stack(found)


def joined(sources: list[Frames], rng: np.random.Generator) -> tuple[Frames, list[Transition]]:
    """Parts of the sources in a row, and the transitions between them."""
    done: list[np.ndarray] = []
    truth: list[Transition] = []
    source, end = -1, 0
    for _ in range(PARTS):
        is_jump = source >= 0 and rng.random() < JUMPS
        if not is_jump:
            source = int(rng.choice([i for i in range(len(sources)) if i != source]))
        frames = sources[source]
        length = min(int(rng.integers(SHORTEST, LONGEST)), len(frames) // 2)
        begin = (end + int(rng.integers(2 * FPS, len(frames)))) % (len(frames) - length)
        if is_jump and abs(begin - end) < FPS:
            begin = (end + 2 * FPS) % (len(frames) - length)
        part, end = list(frames[begin : begin + length]), begin + length
        if done:
            kind = str(rng.choice(KINDS))
            truth.append(_append(done, part, kind, "jump" if is_jump and kind == "cut" else kind, rng))
        else:
            done += part
    return np.stack(done), truth


def _append(
    done: list[np.ndarray], part: list[np.ndarray], kind: str, name: str, rng: np.random.Generator
) -> Transition:
    """Append a part with a transition."""
    if kind == "cut":
        done += part
        return Transition(name, len(done) - len(part), len(done) - len(part))
    if kind == "fade":
        length = int(rng.integers(*FADE, endpoint=True))
        for at in range(length):
            done[-1 - at] = (done[-1 - at] * (at / (length - 1))).astype(np.uint8)
            part[at] = (part[at] * (at / (length - 1))).astype(np.uint8)
        first = len(done) - length
        done += [np.zeros_like(part[0])] * int(rng.integers(0, BLACK, endpoint=True))
        done += part
        return Transition(name, first, len(done) - len(part) + length)
    length = int(rng.integers(*DISSOLVE, endpoint=True))
    length = min(length, len(part) - 1, len(done) - 1)
    for at in range(length):
        share = at / (length - 1)
        mixed = done[at - length] * (1 - share) + part[at] * share
        done[at - length] = mixed.round().astype(np.uint8)
    first = len(done) - length
    done += part[length:]
    return Transition(name, first, first + length)


def write(path: Path, frames: Frames) -> Path:
    """Encode frames as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "23", "preset": "veryfast", "threads": "1"}
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def boundaries(path: Path, method: str) -> list[int]:
    """The first frames of all shots but the first."""
    if method == "pyscenedetect":
        import scenedetect  # noqa: PLC0415 - need not be installed

        scenes = scenedetect.detect(str(path), scenedetect.AdaptiveDetector())
        return [start.frame_num for start, _ in scenes[1:]]
    finder = find_by(method)
    assert finder is not None
    with path.open("rb") as file:
        numbers = [shot for _, shot in video.numbered(video.read(file), finder, lambda frame: None)]
    return [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1]]


def compared(found: list[int], truth: list[Transition]) -> Iterator[str]:
    """The kind of each transition that is found, and `false` for each boundary that is none."""
    rest = list(found)
    for each in truth:
        inside = [at for at in rest if each.first - 1 <= at <= each.last + 1]
        if inside:
            rest.remove(inside[0])
            yield each.kind
    yield from ("false" for _ in rest)


def show(there: Counter[str], found: dict[str, Counter[str]]) -> None:
    """Print the table."""
    shown = rich.table.Table(box=None, pad_edge=False)
    for title in ("transition", "of", *found):
        shown.add_column(title, justify="left" if title == "transition" else "right")
    for kind, count in sorted(there.items()):
        shown.add_row(kind, str(count), *(str(each[kind]) for each in found.values()))
    right = [sum(each[kind] for kind in there) for each in found.values()]
    wrong = [each["false"] for each in found.values()]
    pairs = list(zip(right, wrong, strict=True))
    shown.add_row("recall", "", *(f"{each / there.total():.3f}" for each in right))
    shown.add_row("precision", "", *(f"{each / max(1, each + others):.3f}" for each, others in pairs))
    rich.console.Console().print(shown)


def timed(paths: list[Path], methods: list[str]) -> list[float]:
    """CPU seconds in which a read task reads the videos by each method, the best of TIMES in turn."""
    best = [math.inf] * len(methods)
    for _ in range(TIMES):
        for at, method in enumerate(methods):
            begin = time.process_time()
            shards = list_shards(map(str, paths), S3Settings())
            frames = read_shards(shards, S3Settings(), sampling=Video.model_validate({"shots": method}))
            for batch in in_batches(frames):
                to_table(batch)
            best[at] = min(best[at], time.process_time() - begin)
    return best


if __name__ == "__main__":
    main()
