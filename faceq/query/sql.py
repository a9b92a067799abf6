"""Parts of SQL statements over a table."""

VIEW = "frames"
"""Name of the rows of frames in SQL statements."""

FRAME_ORDER = "source, member, frame_index"
"""SQL: a repeatable order of rows that reads each source once."""

SINGLE_PICTURE = "(member IS NULL AND timestamp_s IS NULL)"
"""SQL: a row whose source is a single image."""

OF_VIDEO = "(timestamp_s IS NOT NULL AND frame_index >= 0)"
"""SQL: a row of a frame of a video."""

HAS_FACES = "status NOT IN ('unreadable', 'no_face')"
"""SQL: a row of a frame with faces. The files of other statuses are not read."""


def same_video(first: str, second: str) -> str:
    """SQL: rows of two tables, given by their names, are of the same video."""
    return f"{first}.source = {second}.source AND {first}.member IS NOT DISTINCT FROM {second}.member"


def quoted(name: str) -> str:
    """SQL: the quoted name of a column."""
    return '"' + name.replace('"', '""') + '"'
