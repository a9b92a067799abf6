"""The frames among which a selection chooses, and their groups."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from faceq.errors import UsageError
from faceq.messages.one_line import one_line
from faceq.query.extra_values import COLUMN as EXTRA
from faceq.query.extra_values import extra_value
from faceq.query.faces import FACE_ID
from faceq.query.rows import Rows
from faceq.selection.select_options import Options, bin_number
from faceq.storage.faults import failure
from faceq.storage.filesystem import filesystem, path_of, storage_errors
from faceq.storage.parquet import ParquetFile
from faceq.storage.settings import S3Settings
from faceq.table.recommended import FILTER
from faceq.table.schema import BREAK

_ROWS_AT_ONCE = 1 << 20

_KEYS_SHOWN = 20

_IN_SHARD = "CASE WHEN timestamp_s IS NOT NULL THEN member END"
"""SQL: the member of a video inside a shard; null for images and for videos that are files."""

_IDENTITY = {
    "source": f"source || chr(0) || coalesce({_IN_SHARD}, '')",
    "shot": "source || chr(0) || coalesce(member, '') || chr(0) || shot",
    "cluster": "cluster::VARCHAR",
    "track": "source || chr(0) || coalesce(member, '') || chr(0) || track",
}
"""SQL: a text that differs between any two groups; null if a frame belongs to none."""

_LABELS = {
    "source": f"concat_ws(': ', source, {_IN_SHARD})",
    "shot": "concat_ws(': ', source, member, 'shot ' || shot)",
    "cluster": "cluster::VARCHAR",
    "track": "concat_ws(': ', source, member, 'track ' || track)",
}
"""SQL: the name of a group for people."""

_WITHOUT = {
    "code": "group (--per)",
    "score": "score (--by)",
    "hash": "hash",
    "bin": "pose",
}
"""What a frame lacks, for people."""

_TYPES = {"id": np.int64, "code": np.uint64, "score": np.float64, "hash": np.int64, "bin": np.int32}


@dataclass(frozen=True)
class Candidates:
    """Frames or faces, sorted by group and then best first. Those with equal scores are in the order of
    `mixed`.

    ids: (N,) int64, `frame_id` or `face_id`. scores: (N,) float64. starts: (G + 1,) int64, where each group
    begins, and N. bins: (N,) int32; None without `--balance`. hashes: (N,) uint64; None without
    `--distinct hash`.
    without: number of frames that were left out because they have no value, by the name of the value.
    """

    ids: np.ndarray
    scores: np.ndarray
    starts: np.ndarray
    bins: np.ndarray | None
    hashes: np.ndarray | None
    without: dict[str, int]

    @property
    def sizes(self) -> np.ndarray:
        """(G,) int64, the number of candidates of each group."""
        return np.diff(self.starts)


def candidates(rows: Rows, where: str | None, wanted: Options, clusters: str | None) -> Candidates:
    """Read the candidates of a table.

    Args:
        rows: the table.
        where: an SQL condition; None: the recommended filter.
        wanted: the options of the selection.
        clusters: the name of a table in memory, from `read_clusters`; None without `--per cluster`.

    Raises:
        UsageError: the condition or the score is not valid, or no frame that fulfils the condition has a
        group.
    """
    _check_score(rows, wanted.by)
    by_hash = wanted.distinct is not None and wanted.distinct.by == "hash"
    columns = {
        "id": rows.key,
        "code": f"md5_number_lower({identity(wanted.per)})" if wanted.per else None,
        "score": "_score",
        "hash": "dhash" if by_hash else None,
        "bin": bin_number(wanted.balance) if wanted.balance else None,
    }
    asked = ", ".join(f"{sql} AS {name}" for name, sql in columns.items() if sql)
    found = rows.sql(f"SELECT {asked} FROM ({passing(rows, where, clusters, wanted.by)})")
    parts: dict[str, list[np.ndarray]] = {}
    without = dict.fromkeys((_WITHOUT[name] for name, sql in columns.items() if sql and name in _WITHOUT), 0)
    passed = 0
    for batch in rows.batches(found, _ROWS_AT_ONCE):
        passed += len(batch)
        for name, values in _complete(batch, without):
            parts.setdefault(name, []).append(values)
    arrays = {
        name: np.concatenate([np.empty(0, _TYPES[name]), *parts.get(name, [])])
        for name, sql in columns.items()
        if sql
    }
    if passed and wanted.per and without[_WITHOUT["code"]] == passed:
        raise UsageError(f"select: --per {wanted.per}: {_why_no_group(rows, wanted.per)}")
    return _sorted(arrays, wanted.seed, without)


def passing(rows: Rows, where: str | None, clusters: str | None, by: str) -> str:
    """SQL: the rows that fulfil the condition, with all columns, `_score`, and `cluster` if asked for."""
    condition = where or FILTER
    rows.chosen(condition)  # rejects text that is not a complete condition, such as `true) or (true`
    frames = (
        f"SELECT *, ({by}\n)::DOUBLE AS _score FROM {rows.view} WHERE ({condition}\n) AND frame_index <> "
        f"{BREAK}"
    )
    return f"FROM ({frames}) LEFT JOIN {clusters} USING ({rows.key})" if clusters else frames


def is_candidate(wanted: Options) -> str:
    """SQL: whether a row of `passing` has all values that a selection needs, but for its embedding."""
    needed = ["_score IS NOT NULL", "NOT isnan(_score)"]
    if wanted.per:
        needed.append(f"({identity(wanted.per)}) IS NOT NULL")
    if wanted.distinct is not None and wanted.distinct.by == "hash":
        needed.append("dhash IS NOT NULL")
    if wanted.balance:
        needed.append(f"{bin_number(wanted.balance)} IS NOT NULL")
    return " AND ".join(needed)


def identity(per: str) -> str:
    """SQL: a text that differs between any two groups; null if a frame belongs to none."""
    return _IDENTITY[per] if per in _IDENTITY else extra_value(per)


def label(per: str | None) -> str:
    """SQL: the name of a frame's group for people; null if the whole table is one group."""
    if per is None:
        return "NULL::VARCHAR"
    return _LABELS[per] if per in _LABELS else extra_value(per)


def read_clusters(rows: Rows, uri: str, s3: S3Settings) -> pa.Table:
    """The columns frame_id and cluster of a file that `faceq cluster` wrote; face_id and cluster for rows of
    faces.

    Raises:
        UsageError: there is no such file, it is not such a file, or a frame or face is in it twice.
        StorageError: it cannot be read.
    """
    names = [rows.key, "cluster"]
    faces = " --faces" if rows.of_faces else ""
    try:
        with filesystem(uri, s3).open(path_of(uri), "rb") as file:
            stored = ParquetFile(file)
            types = [field.type for field in stored.schema_arrow if field.name in names]
            if len(types) != len(names) or not all(map(pa.types.is_integer, types)):
                raise UsageError(
                    f"{uri}: has no integer columns {rows.key} and cluster: give the file that faceq cluster "
                    f"TABLE{faces} --out FILE writes"
                )
            if not rows.of_faces and FACE_ID in stored.schema_arrow.names:
                raise UsageError(f"{uri}: is a list of all faces: add --faces")
            found = stored.read(names)
    except pa.ArrowInvalid as error:
        raise UsageError(f"{uri}: is not a Parquet file: {one_line(error)}") from None
    except (OSError, *storage_errors()) as error:
        raise failure(f"{uri}: cannot be read", error) from None
    ids = np.sort(found[rows.key].to_numpy())
    if (ids[1:] == ids[:-1]).any():
        raise UsageError(f"{uri}: has two rows for one {rows.noun}")
    return found


def _check_score(rows: Rows, by: str) -> None:
    """UsageError unless it is one expression that gives a number for each frame."""
    found = rows.sql(f"SELECT ({by}\n) FROM {rows.view}")
    kind = found.types[0].id if len(found.types) == 1 else None
    if kind is None:
        raise UsageError(f"select: --by {by}: expected one expression")
    if kind not in _NUMBERS:
        raise UsageError(f"select: --by {by}: expected a number for each {rows.noun}, not {kind.upper()}")


_NUMBERS = {
    *("tinyint", "smallint", "integer", "bigint", "hugeint", "float", "double", "decimal", "boolean"),
    *("utinyint", "usmallint", "uinteger", "ubigint", "uhugeint"),
}


def _complete(batch: pa.Table, without: dict[str, int]) -> Iterator[tuple[str, np.ndarray]]:
    """The columns of the rows that have all values. The others are counted by the first value they lack."""
    kept = np.ones(len(batch), bool)
    columns = {}
    for name in batch.column_names:
        column = batch[name].combine_chunks()
        has = column.is_valid().to_numpy(zero_copy_only=False)
        columns[name] = column.fill_null(0).to_numpy(zero_copy_only=False)
        if name == "score":
            has &= ~np.isnan(columns[name])
        if name in _WITHOUT:
            without[_WITHOUT[name]] += int((kept & ~has).sum())
        kept &= has
    return ((name, column[kept]) for name, column in columns.items())


def _sorted(arrays: dict[str, np.ndarray], seed: int, without: dict[str, int]) -> Candidates:
    ids, scores, codes = arrays["id"], arrays["score"], arrays.get("code")
    keys = [mixed(ids, seed), -scores]
    order = np.lexsort(keys if codes is None else [*keys, codes])
    starts = np.array([0, len(ids)] if len(ids) else [0])
    if codes is not None:
        codes = codes[order]
        starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1], True]) if len(ids) else starts
    bins, hashes = arrays.get("bin"), arrays.get("hash")
    return Candidates(
        ids[order],
        scores[order],
        starts,
        None if bins is None else bins[order],
        None if hashes is None else hashes[order].view(np.uint64),
        without,
    )


def mixed(ids: np.ndarray, seed: int) -> np.ndarray:
    """Numbers that put frames with equal scores into an order of no meaning, another one for each seed.

    Args:
        ids: (N,) int64, different from each other.
        seed: any whole number.

    Returns:
        (N,) uint64, different from each other: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA
        2014).
    """
    start = np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    found = ids.view(np.uint64) + start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        found ^= found >> np.uint64(shift)
        found *= np.uint64(factor)
    return found ^ (found >> np.uint64(31))


def _why_no_group(rows: Rows, per: str) -> str:
    """Why no frame has a group."""
    none = f"no {rows.noun} that fulfils the condition has"
    if per == "cluster":
        return f"{none} a cluster: is --clusters of another table?"
    if per == "shot":
        return f"{none} a shot: only frames of videos have one"
    if per == "track":
        return f"{none} a track: only faces in videos have one"
    keys = (
        f"SELECT DISTINCT unnest(json_keys({EXTRA})) AS key FROM {rows.view} WHERE {EXTRA} IS NOT NULL "
        f"ORDER BY key LIMIT {_KEYS_SHOWN}"
    )
    known = rows.arrow(rows.sql(keys))["key"].to_pylist()
    found = f"its keys are {', '.join(known)}" if known else "it is empty in the whole table"
    return f"{none} this value in `extra`: {found}"
