"""Measure how well shots are found: join parts of videos by cuts, fades and dissolves, and look for them.

    python -m jobs.benchmarks.measure_shots VIDEOS… [--joined 30]

VIDEOS are videos of one shot each. Parts of them are joined in random order, encoded as H.264, and read as a
job reads them. For each kind of transition the table counts those that are found: a boundary at most one
frame outside of it. A "jump" is a cut between two parts of the same video. Any other boundary is a false
alarm and lowers the precision. The last line compares the CPU time in which a read task reads some of the
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
TIMED = 3  # joined videos that are read to measure the time
TIMES = 5

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
    options = parser.parse_args()
    sources = [scaled(path) for path in options.videos]
    there: Counter[str] = Counter()
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for seed in range(options.joined):
            frames, truth = joined(sources, np.random.default_rng(seed))
            paths.append(write(Path(folder) / f"{seed}.mp4", frames))
            there.update(each.kind for each in truth)
            found.update(compared(boundaries(paths[-1]), truth))
        show(there, found)
        plain, with_shots = timed(paths[:TIMED])
    print(f"reading takes {with_shots / plain:.3f} of the CPU time without shots")


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


def boundaries(path: Path) -> list[int]:
    """The first frames of all shots but the first."""
    with path.open("rb") as file:
        numbers = [frame.shot for frame in video.numbered(video.read(file))]
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


def show(there: Counter[str], found: Counter[str]) -> None:
    """Print the table."""
    shown = rich.table.Table(box=None, pad_edge=False)
    for title in ("transition", "found", "of"):
        shown.add_column(title, justify="left" if title == "transition" else "right")
    for kind, count in sorted(there.items()):
        shown.add_row(kind, str(found[kind]), str(count))
    rich.console.Console().print(shown)
    right = sum(found[kind] for kind in there)
    print(f"precision {right / max(1, right + found['false']):.3f}")


def timed(paths: list[Path]) -> tuple[float, float]:
    """CPU seconds in which a read task reads the videos without and with shots, the best of TIMES in turn."""
    best = [math.inf] * 2
    for _ in range(TIMES):
        for at, how in enumerate(("none", "content")):
            begin = time.process_time()
            shards = list_shards(map(str, paths), S3Settings())
            frames = read_shards(shards, S3Settings(), sampling=Video(shots=how))
            for batch in in_batches(frames):
                to_table(batch)
            best[at] = min(best[at], time.process_time() - begin)
    return best[0], best[1]


if __name__ == "__main__":
    main()
