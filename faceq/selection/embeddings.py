"""The embeddings of a result table, in memory."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from faceq.errors import UsageError
from faceq.query.rows import Rows
from faceq.table.schema import EMBEDDING

log = logging.getLogger(__name__)

_ROWS_AT_ONCE = 20_000


def best_first(rows: Rows) -> str:
    """SQL: a repeatable order of rows in which the best face is the first."""
    return f"dbcnn DESC NULLS LAST, serfiq DESC NULLS LAST, {rows.key}"


@dataclass(frozen=True)
class Faces:
    """Faces with an embedding.

    ids: (N,) int64, `frame_id`, or `face_id` if the rows are of faces. frames: (N,) int64, `frame_id`.
    vectors: (N, D) float32, L2 norm 1.
    """

    ids: np.ndarray
    frames: np.ndarray
    vectors: np.ndarray


def check_embeddings(rows: Rows, command: str, advice: str) -> None:
    """Raises UsageError, with what to do, if the table has no embeddings. command: for the message."""
    if EMBEDDING.name not in rows.stored:
        raise UsageError(f"{command}: {rows.table.uri} has no embeddings: {advice}")


def check_one_length(rows: Rows, count_of: Mapping[int, int], command: str) -> None:
    """Raises UsageError if there are embeddings of different lengths. count_of: number of rows by length."""
    if len(count_of) > 1:
        both = " and ".join(f"{size} numbers ({count:,} rows)" for size, count in sorted(count_of.items()))
        most = max(count_of, key=count_of.__getitem__)
        raise UsageError(
            f"{command}: {rows.table.uri} has embeddings of different recognisers, of {both}: name those of "
            f'one in the condition, such as "len({EMBEDDING.name}) = {most}"'
        )


def read_embeddings(rows: Rows, where: str | None, order: str, command: str) -> Faces:
    """The embeddings of the rows that fulfil a condition. The number of rows without one is logged.

    Args:
        rows: the table.
        where: an SQL condition; None: all rows.
        order: SQL, the order of the faces. It must be total, so that the result is repeatable.
        command: for messages.

    Raises:
        UsageError: the table has no embeddings, or those of several recognisers.
    """
    check_embeddings(rows, command, "score the input again with --embeddings into a new table")
    kept = rows.chosen(where)
    known = rows.over(kept, f"SELECT * FROM {{rows}} WHERE {EMBEDDING.name} IS NOT NULL")
    sizes = rows.arrow(
        rows.over(kept, f"SELECT len({EMBEDDING.name}) AS size, count(*) AS n FROM {{rows}} GROUP BY size")
    )
    count_of = dict(zip(*(sizes[name].to_pylist() for name in ("size", "n")), strict=True))
    missing = count_of.pop(None, 0)
    if missing:
        log.info("%s: %s rows without an embedding are left out", command, f"{missing:,}")
    check_one_length(rows, count_of, command)
    if not count_of:
        return Faces(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 1), np.float32))
    ordered = rows.over(known, f"SELECT {rows.key} AS id, frame_id AS frame FROM {{rows}} ORDER BY {order}")
    ids, frames = (column.to_numpy() for column in rows.arrow(ordered).columns)
    sorter = np.argsort(ids)
    ranked = ids[sorter]
    vectors = np.empty((len(ids), *count_of), np.float32)
    parts = rows.over(known, f"SELECT {rows.key} AS id, {EMBEDDING.name} AS vector FROM {{rows}}")
    for part in rows.batches(parts, _ROWS_AT_ONCE):
        place = sorter[np.searchsorted(ranked, part["id"].to_numpy())]
        vectors[place] = part["vector"].combine_chunks().flatten().to_numpy().reshape(len(part), -1)
    return _usable(Faces(ids, frames, vectors), command)


def norms_of(vectors: np.ndarray) -> np.ndarray:
    """(N,) float32, the L2 norms of embeddings (N, D); 0 for those that have no direction, because they are
    zero or not finite."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return np.where(np.isfinite(norms), norms, 0)


def _usable(faces: Faces, command: str) -> Faces:
    """The faces whose embedding has a direction, scaled to unit length."""
    norms = norms_of(faces.vectors)
    good = norms > 0
    if not good.all():
        log.warning(
            "%s: %s embeddings are zero or not finite and are left out", command, f"{(~good).sum():,}"
        )
        faces = Faces(faces.ids[good], faces.frames[good], faces.vectors[good])
        norms = norms[good]
    np.divide(faces.vectors, norms[:, None], out=faces.vectors)
    return faces
