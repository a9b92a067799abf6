"""Near-duplicates: pairs and groups of frames whose faces look the same, or of faces that do."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from faceq.errors import UsageError
from faceq.query.faces import needs_tracks
from faceq.query.recogniser import recogniser_of
from faceq.query.rows import Rows
from faceq.selection.components import Components
from faceq.selection.duplicate_schema import group_columns, pair_columns
from faceq.selection.embedding_pairs import dots, near_embeddings
from faceq.selection.embeddings import best_first, read_embeddings
from faceq.selection.hash_pairs import MOST_BITS, near_hashes
from faceq.selection.kind_and_limit import kind_and_limit
from faceq.selection.limited_rows import limited_rows
from faceq.selection.place_columns import place_names
from faceq.storage.settings import S3Settings

log = logging.getLogger(__name__)

MOST_PAIRS = 50_000_000
"""Maximum number of pairs, which are in memory: about 2 GB with what it takes to sort and name them."""

BITS = 2
"""Default distance of hashes: most neighbouring frames of a talking-head video are as near, and 3 in a
million pairs of different photos."""

COSINE = 0.95
"""Default cosine of embeddings: nearly all neighbouring frames of a talking-head video are as near; of
different photos, only copies of one."""


@dataclass(frozen=True)
class Likeness:
    """When two frames are duplicates: their hashes differ in at most `limit` bits, or the cosine of their
    embeddings is at least `limit`."""

    by: Literal["hash", "embedding"]
    limit: float


def likeness(text: str) -> Likeness:
    """`hash`, `hash:BITS`, `embedding` or `embedding:COSINE`. Raises UsageError for other texts."""
    by, limit = kind_and_limit(text, {"hash": BITS, "embedding": COSINE})
    if by == "hash" and limit in range(MOST_BITS + 1):
        return Likeness("hash", limit)
    if by == "embedding" and -1 < limit < 1:
        return Likeness("embedding", limit)
    raise UsageError(
        f"duplicates: --by {text}: expected hash:BITS with 0 to {MOST_BITS} bits, such as hash:{BITS}, or "
        f"embedding:COSINE with a cosine below 1, such as embedding:{COSINE}"
    )


def duplicates(
    uri: str,
    where: str | None = None,
    *,
    by: str = "hash",
    group: bool = False,
    faces: bool = False,
    s3: S3Settings | None = None,
) -> pa.Table:
    """Find the near-duplicates of a result table: frames whose faces look the same.

    Args:
        uri: folder or URI of a result table.
        where: an SQL condition; only rows that fulfil it are compared. None: all rows.
        by: `hash:BITS`: the difference hashes (`dhash`) differ in at most BITS bits, 0 to 16; `hash` is
            `hash:2`. `embedding:COSINE`: the cosine of the embeddings is at least COSINE; `embedding` is
            `embedding:0.95`.
        group: return groups instead of pairs. A group is connected: each of its frames has a duplicate in it,
            but its farthest frames may be less alike.
        faces: compare faces instead of frames, in tables made with `faces: all`. See "Rows of faces" in the
            reference. Faces of one frame are compared, too.
        s3: settings for S3, if the usual AWS environment variables and profiles are not enough.

    Returns:
        One row per pair, or one row per frame or face that has a duplicate. Columns: see "Duplicates and
        people" in the reference.

    Raises:
        UsageError: there is no such table, it has no hashes or embeddings, there are more than 50 million
            pairs, or the condition or `by` is not valid.
        StorageError: the table cannot be read.
    """
    tracks = needs_tracks(where or "")
    with limited_rows(uri, s3 or S3Settings(), faces=faces, tracks=tracks) as rows:
        return rows.arrow(find(rows, where, likeness(by), group).rows)


@dataclass(frozen=True)
class Found:
    """The duplicates of a table.

    rows: a DuckDB relation with the columns of pairs or groups, sorted. compared: number of frames or faces
    that were compared. count: number of pairs or groups. grouped: number of frames or faces in groups; 0 for
    pairs. widest: the largest distance to a representative.
    """

    rows: Any
    compared: int
    count: int
    grouped: int = 0
    widest: float = 0.0


def find(rows: Rows, where: str | None, alike: Likeness, group: bool) -> Found:
    """The duplicates of a table. See `duplicates`."""
    items = _hashes(rows, where, alike) if alike.by == "hash" else _embeddings(rows, where, alike)
    return _groups(rows, items) if group else _pairs(rows, items)


class _Hashes:
    """Frames and their hashes, the best frame first.

    ids: (N,) int64. values: (N,) uint64. Of frames with equal hashes, only the best one, their head, is
    compared with others: a still video has as many equal frames as it is long.
    """

    def __init__(self, ids: np.ndarray, values: np.ndarray, bits: int):
        self.ids, self._values, self._bits = ids, values, bits
        order = np.argsort(values, kind="stable")
        ranked = values[order]
        starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])) if len(ranked) else order
        self._distinct, self._heads = ranked[starts], order[starts]
        heads = np.repeat(self._heads, np.diff(np.append(starts, len(order))))
        copies = np.delete(np.arange(len(order)), starts)
        self._copies, self._of = order[copies], heads[copies]

    def near(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions of the two frames of some pairs."""
        yield self._of, self._copies
        for first, second in near_hashes(self._distinct, self._bits):
            yield self._heads[first], self._heads[second]

    def distance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(P,) float32, the number of different bits."""
        return np.bitwise_count(self._values[first] ^ self._values[second]).astype(np.float32)


class _Embeddings:
    """Frames and their embeddings (N, D), the best frame first."""

    def __init__(self, ids: np.ndarray, vectors: np.ndarray, cosine: float):
        self.ids, self._vectors, self._cosine = ids, vectors, cosine

    def near(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Positions of the two frames of some pairs."""
        yield from near_embeddings(self._vectors, self._cosine)

    def distance(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """(P,) float32, 1 - cosine."""
        distance = np.maximum(np.float32(1) - dots(self._vectors, first, second), np.float32(0))
        return np.where(first == second, np.float32(0), distance)


def _hashes(rows: Rows, where: str | None, alike: Likeness) -> _Hashes:
    if "dhash" not in rows.stored:
        raise UsageError(
            f"duplicates: {rows.table.uri} has no hashes (column dhash): it was written by an older "
            "version of faceq: score the input again into a new table"
        )
    kept = rows.chosen(where)
    missing = rows.count(rows.over(kept, "FROM {rows} WHERE dhash IS NULL"))
    if missing:
        log.info("duplicates: %s rows without a hash are left out", f"{missing:,}")
    found = rows.arrow(
        rows.over(
            kept,
            f"SELECT {rows.key} AS id, dhash FROM {{rows}} WHERE dhash IS NOT NULL "
            f"ORDER BY {best_first(rows)}",
        )
    )
    return _Hashes(found["id"].to_numpy(), found["dhash"].to_numpy().view(np.uint64), int(alike.limit))


def _embeddings(rows: Rows, where: str | None, alike: Likeness) -> _Embeddings:
    faces = read_embeddings(rows, where, best_first(rows), "duplicates")
    recogniser_of(rows.table)  # raises if there are several
    return _Embeddings(faces.ids, faces.vectors, alike.limit)


def _pairs(rows: Rows, items: _Hashes | _Embeddings) -> Found:
    parts = [np.empty((2, 0), np.int32)]
    count = 0
    for pair in items.near():
        parts.append(np.sort(np.stack(pair), axis=0).astype(np.int32))
        count += parts[-1].shape[1]
        if count > MOST_PAIRS:
            raise UsageError(
                f"duplicates: there are more than {MOST_PAIRS:,} pairs: use --group, which does not list "
                "them, a stricter --by, or a condition"
            )
    best, worse = np.concatenate(parts, axis=1)
    parts.clear()
    order = np.lexsort((worse, best))
    best, worse = best[order], worse[order]
    known = rows.name_of(
        pa.table(
            {
                "place": np.arange(count),
                "id_a": items.ids[best],
                "id_b": items.ids[worse],
                "distance": items.distance(best, worse),
            }
        )
    )
    columns = ", ".join(
        f"{side}.{name} AS {name}_{side}" for side in "ab" for name in place_names(rows.of_faces)
    )
    statement = f"""
    SELECT {columns}, known.distance FROM {known} AS known
    JOIN {rows.view} AS a ON a.{rows.key} = known.id_a JOIN {rows.view} AS b ON b.{rows.key} = known.id_b
    ORDER BY known.place
    """
    return Found(_checked(rows.sql(statement), pair_columns(rows.of_faces)), len(items.ids), count)


def _groups(rows: Rows, items: _Hashes | _Embeddings) -> Found:
    components = Components(len(items.ids))
    for first, second in items.near():
        components.join(first, second)
    best = components.labels()
    size = np.bincount(best, minlength=len(best))[best]
    members = np.flatnonzero(size > 1)
    best, size = best[members], size[members]
    distance = items.distance(best, members)
    order = np.lexsort((members, distance, best, -size))
    representative = best[order]
    starts = np.append(True, representative[1:] != representative[:-1]) if len(order) else np.empty(0, bool)
    known = rows.name_of(
        pa.table(
            {
                "place": np.arange(len(order)),
                "id": items.ids[members[order]],
                "group": np.cumsum(starts) - 1,
                "size": size[order].astype(np.int32),
                "representative": items.ids[representative],
                "distance": distance[order],
            }
        )
    )
    columns = ", ".join(f"found.{name}" for name in place_names(rows.of_faces))
    statement = f"""
    SELECT {columns}, known."group", known.size AS {rows.view}, known.representative, known.distance
    FROM {known} AS known JOIN {rows.view} AS found ON found.{rows.key} = known.id ORDER BY known.place
    """
    count = int(starts.sum())
    widest = float(distance.max(initial=0))
    found = _checked(rows.sql(statement), group_columns(rows.of_faces))
    return Found(found, len(items.ids), count, len(order), widest)


def _checked(found: Any, columns: Any) -> Any:
    assert found.columns == [column.name for column in columns]
    return found
