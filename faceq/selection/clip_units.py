"""What a clip is a stretch of: a video, or, if the rows are those of faces, one track of it."""

from faceq.query.rows import Rows
from faceq.query.sql import OF_VIDEO, VIEW, same_video

VIDEO, TRACK = ("source", "member"), ("source", "member", "track")
"""The columns that identify a video, and a track: the face of one person through a shot."""


def units_of(rows: Rows) -> str:
    """SQL: the videos of a table, or their tracks. They are numbered in their order (`video`), so that names
    are compared only once per row."""
    names = ", ".join(TRACK if rows.of_faces else VIDEO)
    known = f"{OF_VIDEO} AND track IS NOT NULL" if rows.of_faces else OF_VIDEO
    return f"""
    SELECT {names}, (row_number() OVER (ORDER BY {names}))::INTEGER AS video
    FROM {rows.view} WHERE {known} GROUP BY {names}
    """


def same_unit(rows: Rows, first: str, second: str) -> str:
    """SQL: rows of two tables, given by their names, are of the same video, or of the same track."""
    track = f" AND {first}.track = {second}.track" if rows.of_faces else ""
    return same_video(first, second) + track


def steps_of(rows: Rows, units: str, seen: str) -> str:
    """SQL: the usual distance of the frames of each unit's video, in seconds: their median (`video`, `step`).

    Args:
        rows: the table.
        units: name of the result of `units_of`.
        seen: name of the rows of all units, with their number `video`.
    """
    if not rows.of_faces:
        return f"""
        SELECT video, median(step) AS step FROM (
            SELECT video,
                timestamp_s - lag(timestamp_s) OVER (PARTITION BY video ORDER BY frame_index) AS step
            FROM {seen}
        ) GROUP BY video"""
    names = ", ".join(VIDEO)
    return f"""
        SELECT v.video, s.step FROM {units} AS v JOIN (
            SELECT {names}, median(step) AS step FROM (
                SELECT {names}, timestamp_s - lag(timestamp_s)
                    OVER (PARTITION BY {names} ORDER BY frame_index) AS step
                FROM {VIEW} WHERE {OF_VIDEO}
            ) GROUP BY {names}
        ) AS s ON {same_video("v", "s")}"""
