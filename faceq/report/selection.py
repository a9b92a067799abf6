"""What a selection took and left: the groups, the poses, and a contact sheet of the chosen faces."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faceq.errors import UsageError
from faceq.messages.one_line import one_line
from faceq.query.faces import BOX, FACE_ID, needs_tracks
from faceq.query.rows import Rows
from faceq.report.charts import Chart, cells
from faceq.report.embedded import pictures_of
from faceq.report.faces import thumbnail
from faceq.selection.candidates import is_candidate, label, passing, read_clusters
from faceq.selection.select import METADATA_KEY
from faceq.selection.select_options import bin_names, bin_number, options
from faceq.sources.reread import COLUMNS
from faceq.storage.faults import failure
from faceq.storage.filesystem import filesystem, path_of, storage_errors
from faceq.storage.parquet import ParquetFile
from faceq.storage.settings import S3Settings

GROUPS_SHOWN = 20
"""Maximum number of groups in the table of groups."""

SHEETS = 4
"""Maximum number of groups with a contact sheet."""

PICTURES = 48
"""Maximum number of faces in all contact sheets."""

SIDE = 112
"""Side of a face in the page, in pixels."""

_SOURCES = 8
"""Maximum number of shards and videos that are read for the contact sheets."""

_EDGES = {"yaw": np.arange(-90, 91, 10), "pitch": np.arange(-60, 61, 10)}
_VALUES = ("serfiq", "dbcnn", *BOX)


@dataclass(frozen=True)
class Group:
    """A group or a bin: its name, and the numbers of its candidates and of its chosen frames."""

    name: str
    candidates: int
    chosen: int


@dataclass(frozen=True)
class Chosen:
    """A chosen face: its rank in the group, its scores, and its image as a data URI."""

    rank: int
    serfiq: float | None
    dbcnn: float | None
    picture: str


@dataclass(frozen=True)
class Sheet:
    """The best chosen faces of a group, of `chosen` in all. lost: number of those that can no longer be
    read."""

    name: str
    chosen: int
    faces: list[Chosen]
    lost: int


@dataclass(frozen=True)
class SelectionSection:
    """The section. record: the options and numbers that `faceq select` has recorded. before, after: the poses
    of the candidates and of the chosen frames."""

    record: dict[str, Any]
    groups: list[Group]
    bins: list[Group]
    before: Chart
    after: Chart
    sheets: list[Sheet]

    @property
    def pictures(self) -> int:
        return sum(len(sheet.faces) for sheet in self.sheets)

    @property
    def lost(self) -> int:
        return sum(sheet.lost for sheet in self.sheets)


def selection_section(rows: Rows, path: str, s3: S3Settings, with_pictures: bool) -> SelectionSection:
    """The section about a selection.

    Args:
        rows: the table. A selection of faces may be shown beside rows of frames, but not the reverse.
        path: the Parquet file that `faceq select` wrote.
        s3: settings of the file system, also for the sources.
        with_pictures: whether to make contact sheets.

    Raises:
        UsageError: the file is not a selection, or one of another table, or of frames beside rows of faces.
        StorageError: it cannot be read.
    """
    record, chosen = _read(path, s3)
    if not record.get("faces"):
        if rows.of_faces:
            raise UsageError(f"{path}: is a selection of frames: leave out --faces")
        return _section(rows, record, chosen, path, s3, with_pictures)
    tracks = needs_tracks(record["where"], record["by"], record["per"] or "")
    with Rows(rows.table.uri, s3, faces=True, tracks=tracks) as faces:
        return _section(faces, record, chosen, path, s3, with_pictures)


def _section(
    rows: Rows, record: dict[str, Any], chosen: pa.Table, path: str, s3: S3Settings, with_pictures: bool
) -> SelectionSection:
    """The section about frames or faces. chosen: their ids, groups and ranks."""
    names = ("per", "top", "by", "distinct", "balance", "total", "seed", "clusters")
    wanted = options(**{name: record[name] for name in names}, faces=rows.of_faces)
    people = rows.name_of(read_clusters(rows, record["clusters"], s3)) if record["clusters"] else None
    known = rows.name_of(chosen)
    found = (
        f"SELECT p.*, c.rank FROM ({passing(rows, record['where'], people, wanted.by)}) AS p "
        f"LEFT JOIN {known} AS c USING ({rows.key}) WHERE {is_candidate(wanted)}"
    )
    here = rows.sql(f"SELECT count(*) FROM {rows.view} SEMI JOIN {known} USING ({rows.key})")
    missing = len(chosen) - rows.arrow(here)[0][0].as_py()
    if missing:
        raise UsageError(
            f"{path}: {missing:,} of its {len(chosen):,} {rows.view} are not in {rows.table.uri}: it is a "
            f"selection of another table, {record['table']}, or the table has changed: run faceq select again"
        )
    groups = _groups(rows, found, label(wanted.per), f"LIMIT {GROUPS_SHOWN}")
    numbered = _groups(rows, found, bin_number(wanted.balance), "") if wanted.balance else []
    titles = bin_names(wanted.balance)
    bins = [Group(titles[int(each.name)], each.candidates, each.chosen) for each in numbered]
    return SelectionSection(
        record,
        groups,
        bins,
        _poses(rows, found, "candidates"),
        _poses(rows, f"{found} AND c.rank IS NOT NULL", f"chosen {rows.view}"),
        _sheets(rows, chosen, groups, s3) if with_pictures else [],
    )


def _read(path: str, s3: S3Settings) -> tuple[dict[str, Any], pa.Table]:
    """The record of a selection, and frame_id or face_id, group and rank of what was chosen."""
    wrong = f"{path}: is not a selection: give the .parquet file that faceq select --out has written"
    try:
        with filesystem(path, s3).open(path_of(path), "rb") as file:
            stored = ParquetFile(file)
            record = (stored.schema_arrow.metadata or {}).get(METADATA_KEY)
            if record is None:
                raise UsageError(wrong)
            found = json.loads(record)
            key = FACE_ID if found.get("faces") else "frame_id"
            return found, stored.read([key, "group", "rank"])
    except pa.ArrowInvalid as error:
        raise UsageError(f"{wrong} ({one_line(error)})") from None
    except (OSError, *storage_errors()) as error:
        raise failure(f"{path}: cannot be read", error) from None


def _groups(rows: Rows, found: str, name: str, limit: str) -> list[Group]:
    """Groups and their numbers of frames, the largest ones first. name: SQL."""
    statement = (
        f"SELECT coalesce(({name})::VARCHAR, 'whole table') AS name, count(*) AS candidates, "
        f"count(rank) AS chosen FROM ({found}) GROUP BY ALL ORDER BY candidates DESC, name {limit}"
    )
    return [Group(**each) for each in rows.arrow(rows.sql(statement)).to_pylist()]


def _poses(rows: Rows, found: str, what: str) -> Chart:
    """How many frames have each yaw and pitch. The outermost cells include all beyond them."""
    numbers = []
    for angle, edges in _EDGES.items():
        at = f"floor(({angle}::DOUBLE - {edges[0]}) / {edges[1] - edges[0]})"
        numbers.append(f"least(greatest({at}, 0), {len(edges) - 2})::INTEGER AS {angle}_bin")
    statement = (
        f"SELECT {', '.join(numbers)}, count(*) AS n FROM ({found}) "
        "WHERE yaw IS NOT NULL AND pitch IS NOT NULL GROUP BY ALL"
    )
    cell = rows.arrow(rows.sql(statement))
    counts = np.zeros([len(edges) - 1 for edges in _EDGES.values()], np.int64)
    counts[cell["yaw_bin"].to_numpy(), cell["pitch_bin"].to_numpy()] = cell["n"].to_numpy()
    both = (_EDGES["yaw"].tolist(), _EDGES["pitch"].tolist())
    name = f"Yaw and pitch of {counts.sum():,} {what}; stronger cells have more {rows.view}"
    return cells(both, counts, ("yaw, degrees", "pitch, degrees"), name, [])


def _sheets(rows: Rows, chosen: pa.Table, groups: list[Group], s3: S3Settings) -> list[Sheet]:
    """Contact sheets of the first groups that have chosen frames."""
    shown = [group for group in groups if group.chosen][:SHEETS]
    if not shown:
        return []
    each = PICTURES // len(shown)
    named = chosen.set_column(1, "group", pc.fill_null(chosen["group"].cast(pa.string()), "whole table"))
    wanted = named.filter(pc.is_in(named["group"], pa.array([group.name for group in shown])))
    wanted = wanted.filter(pc.less_equal(wanted["rank"], each))
    columns = ", ".join(f"{rows.view}.{name}" for name in (*COLUMNS, *_VALUES))
    frames = rows.arrow(
        rows.sql(
            f'SELECT {columns}, c."group", c.rank FROM {rows.view} JOIN {rows.name_of(wanted)} AS c '
            f"USING ({rows.key}) ORDER BY {rows.order}"
        )
    )
    frames = frames.filter(_in_few_sources(frames))
    values = frames.select(["group", "rank", *_VALUES]).to_pylist()
    faces: dict[str, list[Chosen]] = {group.name: [] for group in shown}
    for number, picture in pictures_of(frames, s3):
        row = values[number]
        box = [row[f"face_{side}"] for side in "xywh"]
        shown_box = box if None not in box else [0, 0, *picture.shape[1::-1]]
        image = thumbnail(picture, shown_box, SIDE, centred=rows.of_faces)
        faces[row["group"]].append(Chosen(row["rank"], row["serfiq"], row["dbcnn"], image))
    tried = [row["group"] for row in values]
    return [
        Sheet(
            group.name,
            group.chosen,
            sorted(faces[group.name], key=lambda face: face.rank),
            tried.count(group.name) - len(faces[group.name]),
        )
        for group in shown
    ]


def _in_few_sources(frames: pa.Table) -> pa.Array:
    """Which frames are single images or in one of the _SOURCES shards and videos with the best frames."""
    single = pc.and_(pc.is_null(frames["member"]), pc.is_null(frames["timestamp_s"]))
    ranked = frames.filter(pc.invert(single)).sort_by([("rank", "ascending"), ("frame_id", "ascending")])
    few = ranked["source"].unique()[:_SOURCES]
    return pc.or_(single, pc.is_in(frames["source"], few))
