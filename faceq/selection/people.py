"""People: the faces of a table, grouped by person without knowing who they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from faceq.errors import UsageError
from faceq.query.faces import needs_tracks
from faceq.query.recogniser import impostors_of, recogniser_of
from faceq.query.rows import Rows
from faceq.selection.average_linkage import average_linkage, equal_pairs
from faceq.selection.embeddings import Faces, read_embeddings
from faceq.selection.limited_rows import limited_rows
from faceq.selection.people_schema import people_columns
from faceq.selection.place_columns import place_names
from faceq.storage.settings import S3Settings

FMRS = (1e-6, 1e-3)
"""Lowest and highest false match rate of the default threshold."""


def cluster(
    uri: str,
    where: str | None = None,
    *,
    cosine: float | None = None,
    faces: bool = False,
    s3: S3Settings | None = None,
) -> pa.Table:
    """Group the faces of a result table by person.

    The embeddings are clustered by average linkage: the mean cosine between the faces of two people is below
    the threshold. With `faces`, two faces of one frame are never one person. The same table gives the same
    result, whatever the order of its files.

    Args:
        uri: folder or URI of a result table with embeddings.
        where: an SQL condition; only rows that fulfil it are grouped. None: all rows.
        cosine: the threshold, -1 to 1. None: the cosine at which the recogniser takes one in N pairs of
            different people for one person, where N is the number of images and videos, from 1,000 to a
            million. With `faces`, each counts as often as one of its frames has faces.
        faces: group all faces of each frame, in tables made with `faces: all`. See "Rows of faces" in the
            reference.
        s3: settings for S3, if the usual AWS environment variables and profiles are not enough.

    Returns:
        One row per face with an embedding, sorted by person. Columns: see "Duplicates and people" in the
        reference. `cluster` is null if a face belongs to nobody.

    Raises:
        UsageError: there is no such table, it has no embeddings, its recogniser's error rate is not known and
            `cosine` is None, or the condition is not valid.
        StorageError: the table cannot be read.
    """
    check_cosine(cosine)
    tracks = needs_tracks(where or "")
    with limited_rows(uri, s3 or S3Settings(), faces=faces, tracks=tracks) as rows:
        return rows.arrow(find(rows, where, cosine).rows)


@dataclass(frozen=True)
class Found:
    """The people of a table.

    rows: a DuckDB relation with the columns of `people_schema`, sorted. faces: number of faces. people:
    number of people with at least two faces. alone: number of faces that belong to nobody. cosine: the
    threshold. fmr: the false match rate that it was derived from; None if it was given.
    """

    rows: Any
    faces: int
    people: int
    alone: int
    cosine: float
    fmr: float | None


def check_cosine(cosine: float | None) -> None:
    """Raises UsageError for a threshold that is no cosine."""
    if cosine is not None and not -1 <= cosine <= 1:
        raise UsageError(f"cluster: --cosine {cosine:g} must be between -1 and 1")


def find(rows: Rows, where: str | None, cosine: float | None) -> Found:
    """The people of a table. See `cluster`."""
    faces = read_embeddings(rows, where, rows.key, "cluster")
    recogniser = recogniser_of(rows.table)
    fmr = None
    if cosine is None:
        fmr = 1 / min(max(_places(rows, where), 1 / FMRS[1]), 1 / FMRS[0])
        cosine = threshold(recogniser, fmr)
    people, similarity, sizes = _people(faces, cosine)
    alone = people < 0
    known = rows.name_of(
        pa.table(
            {
                "id": faces.ids,
                "cluster": pa.array(people, pa.int32(), mask=alone),
                "faces": pa.array(sizes, pa.int32(), mask=alone),
                "cosine": pa.array(similarity, pa.float32(), mask=alone),
            }
        )
    )
    columns = ", ".join(f"found.{name}" for name in place_names(rows.of_faces))
    found = rows.sql(
        f"SELECT {columns}, cluster, known.faces, cosine FROM {known} AS known "
        f"JOIN {rows.view} AS found ON found.{rows.key} = known.id ORDER BY cluster NULLS LAST, {rows.order}"
    )
    assert found.columns == [column.name for column in people_columns(rows.of_faces)]
    return Found(found, len(people), int(people.max(initial=-1)) + 1, int(alone.sum()), cosine, fmr)


def threshold(recogniser: str | None, fmr: float) -> float:
    """The cosine at which a recogniser takes a share `fmr` of the pairs of different people for one person.

    Raises:
        UsageError: its error rate is not known.
    """
    impostors = impostors_of(recogniser)
    if impostors is None:
        raise UsageError(
            f"cluster: the false match rate of the recogniser {recogniser} is not known: give --cosine; "
            "`faceq evaluate edc` shows the threshold at each false match rate"
        )
    return impostors.cosine_at(fmr)


def _places(rows: Rows, where: str | None) -> int:
    """Number of images and videos with a face, each as often as one of its frames has faces. Frames of a
    video are not independent photos."""
    of_frames = (
        "SELECT source, member, count(*) AS n FROM {rows} WHERE embedding IS NOT NULL "
        "GROUP BY source, member, frame_id"
    )
    kept = rows.over(rows.chosen(where), of_frames)
    most = rows.over(kept, "SELECT max(n) AS n FROM {rows} GROUP BY source, member")
    return rows.arrow(rows.over(most, "SELECT coalesce(sum(n), 0)::BIGINT AS n FROM {rows}"))["n"][0].as_py()


def _people(faces: Faces, cosine: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each face (N,): its person, int64, -1 for nobody; its mean cosine with the person's other faces,
    float32; and their number with itself, int64."""
    labels = average_linkage(faces.vectors, cosine, apart=equal_pairs(faces.frames))
    names, own, counts = np.unique(labels, return_inverse=True, return_counts=True)
    sizes = counts[own]
    order = np.lexsort((names, -counts))
    number = np.empty(len(names), np.int64)
    number[order] = np.arange(len(names))
    sums = np.zeros((len(names), faces.vectors.shape[1]), np.float64)
    np.add.at(sums, own, faces.vectors)
    similarity = np.empty(len(own), np.float32)
    for start in range(0, len(own), 1 << 15):  # limits the copies of sums
        some = slice(start, start + (1 << 15))
        total = np.einsum("nd,nd->n", sums[own[some]], faces.vectors[some].astype(np.float64))
        similarity[some] = (total - 1) / np.maximum(sizes[some] - 1, 1)
    return np.where(sizes > 1, number[own], -1), similarity, sizes
