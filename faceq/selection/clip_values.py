"""What is known about each clip: the values of its columns."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from faceq.query.faces import FACE_VIEW
from faceq.query.rows import Rows
from faceq.query.sql import OF_VIDEO, VIEW, quoted, same_video
from faceq.selection.clip_schema import IDENTITY, SUMMARISED, schema
from faceq.selection.clip_units import VIDEO, same_unit
from faceq.table.schema import EMBEDDING

COLUMNS_AT_ONCE = 6
"""Columns that one query summarises: for the percentiles it keeps all their values in memory."""

_FRAMES_AT_ONCE = 10_000


def described(rows: Rows, videos: str, stretches: pa.Table) -> pa.Table:
    """The clips with all their columns.

    Args:
        rows: the table.
        videos: the name of a table of its videos or tracks: see `faceq.selection.clip_units.units_of`.
        stretches: the first and the last frame of each clip, sorted: video, shot, start_s, end_s,
            start_frame, end_frame, good (number of frames that fulfil the condition).
    """
    clips = stretches.append_column("clip", pa.array(range(len(stretches)), pa.int64()))
    known = rows.name_of(clips)
    inside = _inside(rows, videos, known)
    groups = (SUMMARISED[i : i + COLUMNS_AT_ONCE] for i in range(0, len(SUMMARISED), COLUMNS_AT_ONCE))
    statements = [
        _places(rows, videos, known, inside),
        _movement(known, inside),
        *(_summaries(g, inside) for g in groups),
    ]
    parts = [rows.arrow(rows.sql(statement)) for statement in statements]
    found = {name: part[name] for part in parts for name in part.column_names}
    has_embeddings = EMBEDDING.name in rows.stored
    if has_embeddings:
        found[IDENTITY.name] = _identity(rows, inside, len(clips))
    columns = schema(has_embeddings, rows.of_faces)
    return pa.table({name: found[name] for name in columns.names}).cast(columns)


def mean_scores(rows: Rows, videos: str, stretches: pa.Table) -> pa.Table:
    """The columns serfiq_mean and dbcnn_mean of clips; arguments as of `described`."""
    clips = stretches.append_column("clip", pa.array(range(len(stretches)), pa.int64()))
    inside = _inside(rows, videos, rows.name_of(clips))
    means = "avg(f.serfiq)::FLOAT AS serfiq_mean, avg(f.dbcnn)::FLOAT AS dbcnn_mean"
    return rows.arrow(rows.sql(f"SELECT c.clip, {means} {inside} GROUP BY c.clip ORDER BY c.clip"))


def _inside(rows: Rows, videos: str, clips: str) -> str:
    """SQL: the frames or faces of the clips, `f`, and their clips, `c`. The last clip of a video or track
    that begins before a frame is the only one that can contain it."""
    view = rows.view
    return f"""
    FROM (
        SELECT {view}.*, v.video FROM {view} JOIN {videos} AS v
        ON {same_unit(rows, view, "v")}
        WHERE {OF_VIDEO}
    ) AS f ASOF JOIN {clips} AS c ON f.video = c.video AND f.frame_index >= c.start_frame
    WHERE f.frame_index <= c.end_frame
    """


def _places(rows: Rows, videos: str, clips: str, inside: str) -> str:
    """SQL: where each clip is, and what it shows."""
    end = "'-' || end_frame || '-' || track" if rows.of_faces else "'-' || end_frame"
    others = f"JOIN ({_tracks(videos)}) AS t USING (video)" if rows.of_faces else ""
    return f"""
    WITH found AS (
        SELECT c.clip, count(*) AS frames,
            min(least(f.face_w, f.face_h)) AS smallest_face,
            min(f.yaw) AS yaw_min, max(f.yaw) AS yaw_max,
            min(f.pitch) AS pitch_min, max(f.pitch) AS pitch_max,
            min(f.roll) AS roll_min, max(f.roll) AS roll_max,
            avg((f.n_faces IS NOT DISTINCT FROM 1)::INTEGER)::FLOAT AS one_face,
            arg_max(f.frame_index, (f.dbcnn, -f.frame_index)) FILTER (f.dbcnn IS NOT NULL) AS best_frame,
            arg_min(f.frame_id, f.frame_index) AS first_id
        {inside} GROUP BY c.clip
    )
    SELECT clip,
        lower(hex(first_id::BIGINT::BIT::BLOB)) || {end} AS clip_id,
        source, member, shot, {"track, track_share, track_size," if others else ""}
        start_s, end_s, start_frame, end_frame, frames,
        (good / frames)::FLOAT AS share, best_frame, one_face, smallest_face,
        yaw_min, yaw_max, pitch_min, pitch_max, roll_min, roll_max
    FROM {clips} JOIN {videos} USING (video) JOIN found USING (clip) {others} ORDER BY clip
    """


def _tracks(tracks: str) -> str:
    """SQL: for each track, the share of the frames of its shot that show it, and its mean size in pixels."""
    names = ", ".join(VIDEO)
    return f"""
    SELECT video, (seen / frames)::FLOAT AS track_share, track_size
    FROM (
        SELECT video, any_value(shown.source) AS source, any_value(shown.member) AS member,
            any_value(shot) AS shot, count(*) AS seen,
            avg(least(face_w, face_h))::FLOAT AS track_size
        FROM {FACE_VIEW} AS shown JOIN {tracks} AS v
        ON {same_video("shown", "v")} AND shown.track = v.track
        WHERE {OF_VIDEO} GROUP BY video
    ) AS found JOIN (
        SELECT {names}, shot, count(*) AS frames FROM {VIEW}
        WHERE {OF_VIDEO} AND status <> 'unreadable' GROUP BY {names}, shot
    ) AS shots
    ON {same_video("found", "shots")} AND found.shot IS NOT DISTINCT FROM shots.shot
    """


def _movement(clips: str, inside: str) -> str:
    """SQL: how fast the centre of the face moves from frame to frame, in widths of the face per second.

    A frame without a face is passed over. Between two frames with the same timestamp there is no speed.
    """
    return f"""
    WITH places AS (
        SELECT c.clip, f.timestamp_s AS time, f.face_x + f.face_w / 2 AS x, f.face_y + f.face_h / 2 AS y,
            f.face_w AS w,
            lag(time) OVER before AS time_before, lag(x) OVER before AS x_before,
            lag(y) OVER before AS y_before, lag(w) OVER before AS w_before
        {inside} AND f.face_w IS NOT NULL WINDOW before AS (PARTITION BY c.clip ORDER BY f.frame_index)
    ), speeds AS (
        SELECT clip, CASE WHEN time > time_before AND w + w_before > 0 THEN
            sqrt((x - x_before) ** 2 + (y - y_before) ** 2) / ((w + w_before) / 2) / (time - time_before)
            END AS speed
        FROM places
    )
    SELECT clip, avg(speed)::FLOAT AS motion_mean, max(speed)::FLOAT AS motion_max
    FROM {clips} LEFT JOIN speeds USING (clip) GROUP BY clip ORDER BY clip
    """


def _summaries(names: Sequence[str], inside: str) -> str:
    """SQL: mean, minimum and 10th percentile of columns."""
    wanted = ", ".join(
        f"avg(f.{quoted(name)})::FLOAT AS {name}_mean, min(f.{quoted(name)}) AS {name}_min, "
        f"quantile_cont(f.{quoted(name)}, 0.1) AS {name}_p10"
        for name in names
    )
    return f"SELECT c.clip, {wanted} {inside} GROUP BY c.clip ORDER BY c.clip"


def _identity(rows: Rows, inside: str, clips: int) -> pa.Array:
    """For each clip, the lowest cosine between the embedding of a frame and the mean of all; null without
    embeddings."""
    total = np.zeros(0)
    for clip, embeddings in _embeddings(rows, inside):
        if not total.size:
            total = np.zeros((clips, embeddings.shape[1]))
        np.add.at(total, clip, embeddings)
    if not total.size:
        return pa.nulls(clips, pa.float32())
    means = total / np.linalg.norm(total, axis=1, keepdims=True).clip(1e-12)
    lowest = np.full(clips, np.inf)
    for clip, embeddings in _embeddings(rows, inside):
        np.minimum.at(lowest, clip, (embeddings * means[clip]).sum(1))
    return pa.array(lowest, mask=np.isinf(lowest))


def _embeddings(rows: Rows, inside: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The embeddings (N, D) of the frames of all clips, and the numbers (N,) of their clips, in parts."""
    statement = f"SELECT c.clip, f.embedding {inside} AND f.embedding IS NOT NULL"
    for part in rows.batches(rows.sql(statement), _FRAMES_AT_ONCE):
        vectors = part["embedding"].combine_chunks()
        yield part["clip"].to_numpy(), vectors.flatten().to_numpy().reshape(len(part), -1)
