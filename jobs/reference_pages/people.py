"""The page of the columns of duplicates, people and suspicious labels, generated from their descriptions."""

from faceq.evaluation import mislabelled
from faceq.selection import duplicate_schema, people_schema
from jobs.reference_pages.columns import TITLES, cells
from jobs.reference_pages.markdown import WRITTEN, table

_HEAD = """\
# Duplicates and people

[Find duplicates and people](../how-to/duplicates-and-people.md) shows how to use these lists. Each can be a
Parquet, CSV or JSON Lines file.

"""

_PARTS = (
    (
        "Pairs of duplicates",
        "`faceq duplicates` and `faceq.duplicates` return one row for each pair, sorted by the better "
        "frame, the best first.",
        duplicate_schema.PAIR_COLUMNS,
    ),
    (
        "Groups of duplicates",
        "`faceq duplicates --group` and `faceq.duplicates(…, group=True)` return one row for each frame "
        "that has a duplicate, sorted by group and distance. The first row of a group is its representative.",
        duplicate_schema.GROUP_COLUMNS,
    ),
    (
        "People",
        "`faceq cluster` and `faceq.cluster` return one row for each face with an embedding, sorted by "
        "person, source, member and frame.",
        people_schema.COLUMNS,
    ),
    (
        "Suspicious labels",
        "`faceq evaluate labels --out` writes one row for each photo that shares its label with another "
        "photo, the most suspicious first.",
        mislabelled.COLUMNS,
    ),
)


def page() -> str:
    """The whole page as Markdown."""
    parts = [
        f"## {title}\n\n{about}\n\n{table(TITLES, [cells(column) for column in columns])}"
        for title, about, columns in _PARTS
    ]
    return WRITTEN + _HEAD + "\n".join(parts)
