"""Compare tracks with the truth: IDF1 and identity switches. Pure functions.

Sources: IDF1: Ristani, Solera, Zou, Cucchiara, Tomasi, "Performance Measures and a Data Set for Multi-Target,
Multi-Camera Tracking", ECCV Workshops 2016. Identity switches: Bernardin, Stiefelhagen, "Evaluating Multiple
Object Tracking Performance", EURASIP Journal on Image and Video Processing 2008.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class Agreement:
    """Counts of one video, or of several added up.

    same: faces in the track that is assigned to their person. real: faces of the truth. found: faces in
    tracks. switches: how often a person's track differs from the one before.
    """

    same: int = 0
    real: int = 0
    found: int = 0
    switches: int = 0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(
            self.same + other.same,
            self.real + other.real,
            self.found + other.found,
            self.switches + other.switches,
        )

    @property
    def idf1(self) -> float:
        """2 IDTP / (2 IDTP + IDFP + IDFN), 0 to 1. NaN if there is no face at all."""
        every = self.real + self.found
        return 2 * self.same / every if every else float("nan")


def agreement(frames: Iterable[tuple[np.ndarray, np.ndarray]], people: int) -> Agreement:
    """Compare the tracks of a video with its truth.

    Each person is assigned at most one track and each track at most one person, so that most faces agree.

    Args:
        frames: for each frame the people of the truth, (R,) integers from 0 to `people` - 1; and the track
            that was found on each of them, (R,) integers, -1 if the person was not found. A track is found
            on at most one person of a frame. Faces that are on nobody do not count.
        people: number of people.

    Example:
        >>> frames = [(np.array([0, 1]), np.array([5, 6])), (np.array([0, 1]), np.array([6, -1]))]
        >>> counts = agreement(frames, 2)
        >>> counts.same, counts.real, counts.found, counts.switches, round(counts.idf1, 3)
        (2, 4, 3, 1, 0.571)
    """
    pairs: dict[tuple[int, int], int] = {}
    last: dict[int, int] = {}
    real = switches = 0
    for persons, tracks in frames:
        real += len(persons)
        for person, track in zip(persons.tolist(), tracks.tolist(), strict=True):
            if track >= 0:
                pairs[person, track] = pairs.get((person, track), 0) + 1
                switches += last.get(person, track) != track
                last[person] = track
    names = {track: at for at, track in enumerate(sorted({track for _, track in pairs}))}
    together = np.zeros((people, len(names)), np.int64)
    for (person, track), count in pairs.items():
        together[person, names[track]] = count
    same = int(together[linear_sum_assignment(together, maximize=True)].sum())
    return Agreement(same, real, int(together.sum()), switches)


def iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (N, 4) and (M, 4), x, y, w, h: (N, M) float64."""
    one, other = one[:, None].astype(np.float64), other[None].astype(np.float64)
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., :2] + one[..., 2:], other[..., :2] + other[..., 2:])
    both = np.maximum(high - low, 0).prod(-1)
    return both / (one[..., 2:].prod(-1) + other[..., 2:].prod(-1) - both)
