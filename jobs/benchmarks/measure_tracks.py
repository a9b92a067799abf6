"""Measure how well the people of a shot are told apart: make videos of people who cross, and follow them.

    python -m jobs.benchmarks.measure_tracks PORTRAITS… [--videos 3]

PORTRAITS are images of different people, three for each video. The videos are scored with `faces: all`, and
sampled at several frame rates from each possible first frame. Each cell has IDF1 and the number of identity
switches. `embeddings`, `hashes` and `boxes`: what `faceq.faces.tracks` was given. `overlap`: a plain baseline
that matches each box with the last ones by IoU. `possible`: the tracks are the truth, so that only faces are
missing that were not detected. A face counts as there while half of it is visible. Three videos of each
scenario take about two minutes of CPU time.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rich.console
import rich.table
from scipy.optimize import linear_sum_assignment

import faceq
from faceq.faces.tracks import track_numbers
from jobs.benchmarks.moving_faces import FPS, SCENARIOS, SEEN, Truth, encoded, film, heads_of
from jobs.benchmarks.track_agreement import Agreement, agreement, iou

STEPS = {25: 1, 5: 5, 2: 12}
"""Frames from one sample to the next, by samples per second."""

MATCH = 0.5  # least IoU of a detection with the truth
OVERLAP, OVERLAP_SECONDS = 0.3, 1.0  # of the baseline; 0.3 is that of SORT


@dataclass(frozen=True)
class Faces:
    """The faces of a video: the arguments of `track_numbers`."""

    frames: np.ndarray
    times: np.ndarray
    boxes: np.ndarray
    hashes: np.ma.MaskedArray
    embeddings: np.ndarray

    def sampled(self, first: int, step: int) -> "Faces":
        """Those of each `step`-th frame."""
        kept = self.frames % step == first
        return Faces(
            self.frames[kept], self.times[kept], self.boxes[kept], self.hashes[kept], self.embeddings[kept]
        )


METHODS: dict[str, Callable[[Faces], np.ndarray]] = {
    "embeddings": lambda of: track_numbers(of.frames, of.times, of.boxes, of.hashes, of.embeddings),
    "hashes": lambda of: track_numbers(of.frames, of.times, of.boxes, of.hashes),
    "boxes": lambda of: track_numbers(of.frames, of.times, of.boxes),
    "overlap": lambda of: overlapping(of.frames, of.times, of.boxes),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("portraits", nargs="+", type=Path, help="images of different people")
    parser.add_argument("--videos", type=int, default=3, help="videos of each scenario (3)")
    options = parser.parse_args()
    most = max(map(len, SCENARIOS.values()))
    if len(options.portraits) < most * options.videos:
        parser.error(f"{options.videos} videos of {most} people need {most * options.videos} portraits")
    scorer = faceq.Scorer(faces="all", embeddings=True, fiq_threshold=1)  # nothing needs the scores
    counts: dict[tuple[str, int, str], Agreement] = defaultdict(Agreement)
    seconds: dict[str, float] = defaultdict(float)
    followed = 0
    for number in range(options.videos):
        heads = heads_of(options.portraits[most * number : most * (number + 1)])
        for scenario, ways in SCENARIOS.items():
            frames, truth = film(heads[: len(ways)], ways, number)
            with tempfile.TemporaryDirectory() as folder:
                shown = encoded(frames, Path(folder) / "video.mp4")
            faces = faces_of(scorer, shown)
            for fps, step in STEPS.items():
                for first in range(step):
                    some, there = faces.sampled(first, step), truth[first::step]
                    people = people_of(some, truth)
                    followed += len(some.frames)
                    for method, follow in METHODS.items():
                        begin = time.process_time()
                        tracks = follow(some)
                        seconds[method] += time.process_time() - begin
                        counts[scenario, fps, method] += compared(some, people, tracks, there, first, step)
                    counts[scenario, fps, "possible"] += compared(some, people, people, there, first, step)
    show(counts)
    print("CPU time per face in these videos, and where one face moves alone:")
    for method in ("embeddings", "hashes", "boxes"):
        here, usual = seconds[method] / followed, alone(METHODS[method])
        print(f"{method}: {here * 1e6:.1f} and {usual * 1e6:.1f} µs")


def faces_of(scorer: faceq.Scorer, frames: list[np.ndarray]) -> Faces:
    """The faces that faceq finds in the frames."""
    found = [
        (number, face)
        for number, faces in enumerate(scorer.score(frames)["faces"].to_pylist())
        for face in faces
    ]
    numbers = np.array([number for number, _ in found])
    size = max(len(face["embedding"]) for _, face in found if face["embedding"])
    none = [np.nan] * size
    return Faces(
        numbers,
        numbers / FPS,
        np.array([[face[f"face_{side}"] for side in "xywh"] for _, face in found], np.float32),
        np.ma.masked_array(
            [face["dhash"] or 0 for _, face in found], [face["dhash"] is None for _, face in found]
        ),
        np.array([face["embedding"] or none for _, face in found], np.float32),
    )


def alone(follow: Callable[[Faces], np.ndarray], count: int = 20_000) -> float:
    """CPU seconds per face in a shot of one person."""
    rng = np.random.default_rng(0)
    frames = np.arange(count)
    boxes = rng.normal((200, 100, 80, 100), 1, (count, 4)).astype(np.float32)
    vectors = rng.normal(1, 0.3, (count, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hashes = np.ma.masked_array(1 << rng.integers(0, 63, count), np.zeros(count, bool))
    faces = Faces(frames, frames / FPS, boxes, hashes, vectors)
    begin = time.process_time()
    follow(faces)
    return (time.process_time() - begin) / count


def overlapping(frames: np.ndarray, times: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Tracks by the IoU with the last boxes, without a prediction."""
    numbers = np.empty(len(frames), np.int64)
    last: dict[int, tuple[np.ndarray, float]] = {}
    count = 0
    for frame in np.unique(frames):
        rows = np.flatnonzero(frames == frame)
        now = times[rows[0]]
        near = {track: box for track, (box, seen) in last.items() if now - seen <= OVERLAP_SECONDS}
        found = {}
        if near:
            overlap = iou(np.stack(list(near.values())), boxes[rows])
            overlap[overlap < OVERLAP] = 0
            for track, at in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
                if overlap[track, at]:
                    found[rows[at]] = list(near)[track]
        for row in rows:
            if row not in found:
                found[row] = count
                count += 1
            numbers[row] = found[row]
            last[numbers[row]] = boxes[row], now
    return numbers


def people_of(faces: Faces, truth: list[Truth]) -> np.ndarray:
    """The person of each face; -1 for nobody."""
    people = np.full(len(faces.frames), -1)
    for frame in np.unique(faces.frames):
        rows, there = np.flatnonzero(faces.frames == frame), truth[frame]
        overlap = iou(there.boxes, faces.boxes[rows])
        # Rather on somebody who is visible than on somebody who is hidden.
        worth = np.where(overlap >= MATCH, overlap + (there.visible >= SEEN)[:, None], 0)
        for person, at in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            if worth[person, at]:
                people[rows[at]] = person
    return people


def compared(
    faces: Faces, people: np.ndarray, tracks: np.ndarray, truth: list[Truth], first: int, step: int
) -> Agreement:
    """The tracks of some frames and the truth of the same. people: see `people_of`."""

    def frames() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, there in enumerate(truth):
            rows = np.flatnonzero((faces.frames == first + number * step) & (people >= 0))
            found = np.full(len(there.boxes), -1)
            found[people[rows]] = tracks[rows]
            seen = np.flatnonzero(there.visible >= SEEN)
            yield seen, found[seen]

    return agreement(frames(), len(truth[0].boxes))


def show(counts: dict[tuple[str, int, str], Agreement]) -> None:
    """Print the table."""
    methods = [*METHODS, "possible"]
    shown = rich.table.Table(box=None, pad_edge=False)
    for title in ("scenario", "fps", *methods):
        shown.add_column(title, justify="left" if title == "scenario" else "right")
    for scenario in (*SCENARIOS, "all"):
        for fps in STEPS:
            cells = []
            for method in methods:
                parts = [counts[each, fps, method] for each in SCENARIOS if scenario in (each, "all")]
                sums = sum(parts, Agreement())
                cells.append(f"{sums.idf1:.3f} {sums.switches:3d}")
            shown.add_row(scenario, str(fps), *cells)
    rich.console.Console().print(shown)


if __name__ == "__main__":
    main()
