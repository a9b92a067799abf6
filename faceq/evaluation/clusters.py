"""Compare a clustering with known identities. Pure functions.

Sources: pairwise precision and recall; BCubed: Bagga, Baldwin, "Entity-Based Cross-Document Coreferencing
Using the Vector Space Model", ACL 1998; Amigó et al., "A Comparison of Extrinsic Clustering Evaluation
Metrics Based on Formal Constraints", Information Retrieval 12, 2009.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """Precision and recall, 0 to 1. NaN if there is no pair."""

    precision: float
    recall: float

    @property
    def f(self) -> float:
        """Their harmonic mean."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def pairwise(clusters: np.ndarray, people: np.ndarray) -> Agreement:
    """Agreement over pairs of faces.

    Precision: the share of pairs in one cluster that show one person. Recall: the share of pairs of one
    person that are in one cluster. A person with many photos counts by the square of their number.

    Args:
        clusters: (N,) integers; negative: the face is in no cluster, which counts as one of its own.
        people: (N,) integers, 0 or more.

    Example:
        >>> found = pairwise(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
        >>> round(found.precision, 3), found.recall
        (0.333, 0.5)
    """
    together, found, real = (sizes * (sizes - 1.0) for sizes in _sizes(clusters, people)[:3])
    return Agreement(*(_share(float(together.sum()), float(pairs.sum())) for pairs in (found, real)))


def bcubed(clusters: np.ndarray, people: np.ndarray) -> Agreement:
    """Agreement per face, averaged over the faces.

    Precision of a face: the share of its cluster that shows its person. Recall: the share of its person's
    faces that are in its cluster. The face itself counts.

    Args:
        clusters, people: see `pairwise`.

    Example:
        >>> found = bcubed(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
        >>> round(found.precision, 3), found.recall
        (0.667, 0.75)
    """
    together, found, real, row, column = _sizes(clusters, people)
    total = float(together.sum())
    return Agreement(*(_share(float((together**2 / of).sum()), total) for of in (found[row], real[column])))


def _sizes(clusters: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, ...]:
    """Numbers of faces, float64: of each person within each cluster (K,), of each cluster (C,), of each
    person (P,). Then for each of the K its cluster and its person, int64."""
    alone = clusters < 0
    own = clusters.astype(np.int64)
    own[alone] = clusters.max(initial=0) + 1 + np.arange(alone.sum())
    _, row = np.unique(own, return_inverse=True)
    _, column = np.unique(people, return_inverse=True)
    count = column.max(initial=0) + 1
    cells, together = np.unique(row * count + column, return_counts=True)
    sizes = (together, np.bincount(row), np.bincount(column))
    return *(each.astype(np.float64) for each in sizes), cells // count, cells % count


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
