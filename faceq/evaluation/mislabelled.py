"""Photos whose embedding disagrees with their label: candidates for a wrong identity."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from faceq.evaluation.identities import Known
from faceq.table.column import Column

_ROWS, _LABELS = 2048, 8192
"""Size of a block of similarities: 64 MB."""

COLUMNS = (
    Column("frame_id", pa.int64(), "`frame_id` of the photo."),
    Column("source", pa.string(), "`source` of the photo."),
    Column("member", pa.string(), "`member` of the photo.", null="the photo is not inside a shard"),
    Column("frame_index", pa.int32(), "`frame_index` of the photo.", range="≥ 0"),
    Column(
        "face",
        pa.int32(),
        "Position of the face in `faces` of the photo. Only with `--faces`.",
        range="≥ 0",
    ),
    Column("label", pa.string(), "Its label."),
    Column("resembles", pa.string(), "The other label whose photos it resembles most."),
    Column(
        "cosine_label",
        pa.float32(),
        "Mean cosine between its embedding and those of the other photos with its label.",
        range="-1 to 1",
    ),
    Column(
        "cosine_resembles",
        pa.float32(),
        "Mean cosine between its embedding and those of the photos labelled `resembles`.",
        range="-1 to 1",
    ),
    Column(
        "suspicion",
        pa.float32(),
        "`cosine_resembles` - `cosine_label`. Above 0: the photo resembles another label more than its own.",
        range="-2 to 2",
    ),
)
"""The columns of the list of photos. `face` is missing if the labels are those of photos, not of faces."""


PLACE = ("frame_id", "source", "member", "frame_index", "face")
"""Those of COLUMNS that say which face a row is about."""


@dataclass(frozen=True)
class Suspects:
    """photos: one row per photo, or per labelled face, with COLUMNS, the most suspicious first. alone: number
    of photos whose label no other photo has; nothing can be said about them."""

    photos: pa.Table
    alone: int

    @property
    def disagreeing(self) -> int:
        """Number of photos that resemble another label more than their own."""
        return int((self.photos["suspicion"].to_numpy() > 0).sum())


def suspects(known: Known, embeddings: np.ndarray) -> Suspects:
    """The photos by how much their embedding disagrees with their label.

    Args:
        known: photos whose labels are known.
        embeddings: (N, E) float32, L2 norm 1, one per photo.
    """
    own, other, resembles = similarities(known.people, embeddings)
    judged = np.flatnonzero(~np.isnan(own))
    suspicion = (other - own)[judged]
    order = judged[np.lexsort((known.rows["frame_id"].to_numpy()[judged], -suspicion))]
    names = np.array(known.names, object)
    photos = known.rows.take(order)
    columns = {
        **{name: photos[name] for name in PLACE if name in photos.column_names},
        "label": names[known.people[order]],
        "resembles": names[resembles[order]],
        "cosine_label": own[order],
        "cosine_resembles": other[order],
        "suspicion": (other - own)[order],
    }
    types = pa.schema([column.field for column in COLUMNS if column.name in columns])
    return Suspects(pa.table(columns).cast(types), len(own) - len(judged))


def similarities(people: np.ndarray, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How similar each photo is to its label and to the other label that it resembles most.

    The similarity to a label is the mean cosine to its photos, without the photo itself.

    Args:
        people: (N,) int64, 0...M-1, the label of each photo; M is at least 2.
        embeddings: (N, E) float32, L2 norm 1.

    Returns:
        (N,) float32: similarity to the own label, NaN if no other photo has it; (N,) float32: similarity to
        the most similar other label; (N,) int64: that label.

    Example:
        >>> people = np.array([0, 0, 1, 1])
        >>> towards = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
        >>> own, other, resembles = similarities(people, towards)
        >>> own.tolist(), other.tolist(), resembles.tolist()
        ([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.5, 0.5], [1, 1, 0, 0])
    """
    counts = np.bincount(people)
    sums = np.zeros((len(counts), embeddings.shape[1]), np.float64)
    np.add.at(sums, people, embeddings)
    means = (sums / counts[:, None]).astype(np.float32)
    rest = np.einsum("nd,nd->n", sums[people] - embeddings, embeddings.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        own = np.where(counts[people] > 1, rest / (counts[people] - 1), np.nan).astype(np.float32)
    other = np.full(len(people), -np.inf, np.float32)
    resembles = np.zeros(len(people), np.int64)
    for top in range(0, len(people), _ROWS):
        rows = np.arange(top, min(top + _ROWS, len(people)))
        for left in range(0, len(counts), _LABELS):
            block = embeddings[rows] @ means[left : left + _LABELS].T
            mine = (people[rows] >= left) & (people[rows] < left + block.shape[1])
            block[np.flatnonzero(mine), people[rows][mine] - left] = -np.inf
            best = block.argmax(axis=1)
            value = block[np.arange(len(rows)), best]
            better = value > other[rows]
            other[rows[better]], resembles[rows[better]] = value[better], best[better] + left
    return own, np.einsum("nd,nd->n", means[resembles], embeddings), resembles
