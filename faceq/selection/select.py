"""Select the best different frames of each group of a table."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from faceq import __version__
from faceq.query.rows import Rows
from faceq.selection.candidates import candidates, label, read_clusters
from faceq.selection.choice import Choice, choose
from faceq.selection.embeddings import check_embeddings
from faceq.selection.limited_rows import limited_rows
from faceq.selection.select_options import Options, options
from faceq.storage.filesystem import absolute
from faceq.storage.settings import S3Settings
from faceq.table.recommended import FILTER

METADATA_KEY = b"faceq_selection"
"""Key of the record of a selection in the metadata of its Parquet file."""


@dataclass(frozen=True)
class Selected:
    """A selection. choice: the chosen frames or faces, and the numbers of others. rows: the chosen rows (a
    relation of DuckDB) with the columns of the table, `group`, `rank` and `bin`, sorted by group and rank.
    record: the table and the options, as JSON values."""

    choice: Choice
    rows: Any
    record: dict[str, Any]

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The record as metadata of a Parquet file."""
        return {METADATA_KEY: json.dumps(self.record).encode()}

    @property
    def key(self) -> str:
        """A text that differs between selections of different frames or with different options."""
        ids = np.sort(self.choice.frames[0].to_numpy()).astype("<i8").tobytes()
        asked = json.dumps({name: self.record[name] for name in _ASKED}, sort_keys=True)
        return f"{asked}: {len(self.choice.frames)} frames, {hashlib.sha256(ids).hexdigest()[:16]}"


_ASKED = ("per", "top", "by", "distinct", "balance", "total", "seed")


def select(
    uri: str,
    where: str | None = None,
    *,
    per: str | None = None,
    top: int | None = None,
    by: str | None = None,
    distinct: str | None = None,
    balance: str | None = None,
    total: int | None = None,
    seed: int = 0,
    clusters: str | None = None,
    faces: bool = False,
    s3: S3Settings | None = None,
) -> pa.Table:
    """Select the best frames of each group that differ from each other.

    In each group, frames are chosen one after the other: each time the one with the highest score that is
    distinct from all chosen ones of its group. With `balance`, each time from the bins with the fewest chosen
    ones, until `top` are chosen. So a frame that is left out is too similar to a chosen one, or all chosen
    ones of its group (with `balance`: of its bin) have at least its score. The same table gives the same
    choice, whatever the number of its files, the order of its rows or the number of threads.

    Args:
        uri: folder or URI of a result table.
        where: an SQL condition that a frame must fulfil; None: the recommended filter.
        per: what a group is: `source`, `shot`, `extra.KEY`, `cluster` or, with `faces`, `track`; None: the
            whole table is one group. A video inside a shard is a source of its own.
        top: maximum number of frames per group.
        by: an SQL expression, higher is better. None: the geometric mean of both scores,
            `sqrt(serfiq * dbcnn / 100)`. A frame for which it is null or NaN is left out.
        distinct: `hash:BITS`: two chosen frames of a group differ in at least BITS bits of `dhash`;
            `embedding:COSINE`: the cosine of their embeddings is at most COSINE. `hash` is `hash:8`,
            `embedding` is `embedding:0.95`. None: frames may be alike.
        balance: such as `yaw:5,pitch:3`: the number of bins of each angle. They divide -75 to 75 degrees of
            `yaw`, and -45 to 45 of `pitch` and `roll`, into equal parts; the outermost bins also contain all
            angles beyond.
        total: maximum number of frames of all groups: first the best one of each group, then the second one
            of each, and so on; from the last round, only those with the highest scores.
        seed: frames with equal scores are in the order of a hash of `frame_id` (of faces: `face_id`) and this
            number.
        clusters: with `per="cluster"`: the Parquet file that `faceq cluster` has written.
        faces: select faces instead of frames, in tables made with `faces: all`. Then the condition, `by` and
            all else are about faces. See "Rows of faces" in the reference.
        s3: settings for S3, if the usual AWS environment variables and profiles are not enough.

    Returns:
        The chosen rows with all columns of the table, `group`, `rank` and `bin`, sorted by group and rank.
        See "Selections" in the reference.

    Raises:
        UsageError: there is no such table, an option is not valid, or the table lacks what it needs.
        StorageError: the table cannot be read.
    """
    settings = s3 or S3Settings()
    wanted = options(per, top, by, distinct, balance, total, seed, clusters, faces)
    with limited_rows(uri, settings, faces=faces, tracks=faces) as rows:
        return rows.arrow(find(rows, where, wanted, clusters, settings).rows)


def find(rows: Rows, where: str | None, wanted: Options, clusters: str | None, s3: S3Settings) -> Selected:
    """The selection of frames or faces of a table. See `select`."""
    if wanted.distinct is not None and wanted.distinct.by == "embedding":
        check_embeddings(rows, "select", "score it with --embeddings, or use --distinct hash")
    people = rows.name_of(read_clusters(rows, clusters, s3)) if clusters is not None else None
    choice = choose(rows, candidates(rows, where, wanted, people), wanted)
    chosen = rows.name_of(choice.frames)
    grouped = f"LEFT JOIN {people} USING ({rows.key})" if people else ""
    found = rows.sql(
        f'SELECT {rows.view}.*, {label(wanted.per)} AS "group", c.rank, c.bin '
        f"FROM {rows.view} JOIN {chosen} AS c USING ({rows.key}) {grouped} "
        'ORDER BY "group", rank'
    )
    record = {
        "version": __version__,
        "table": rows.table.uri,
        "faces": rows.of_faces,
        "where": where or FILTER,
        "per": wanted.per,
        "top": wanted.top,
        "by": wanted.by,
        "distinct": str(wanted.distinct) if wanted.distinct else None,
        "balance": ",".join(f"{angle}:{bins}" for angle, bins in wanted.balance) or None,
        "total": wanted.total,
        "seed": wanted.seed,
        "clusters": absolute(clusters) if clusters is not None else None,
        "groups": choice.groups,
        "candidates": choice.candidates,
        "chosen": len(choice.frames),
        "short": choice.short,
        "similar": choice.similar,
        "beyond": choice.beyond,
        "without": choice.without,
    }
    return Selected(choice, found, record)
