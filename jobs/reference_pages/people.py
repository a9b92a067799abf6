"""The page of the columns of duplicates, people and suspicious labels, generated from their descriptions."""

from faceq.evaluation import mislabelled
from faceq.selection import duplicate_schema, people_schema
from faceq.selection.place_columns import place_columns
from jobs.reference_pages.columns import TITLES, cells
from jobs.reference_pages.markdown import WRITTEN, table

_HEAD = """\
# Duplicates and people

[Find duplicates and people](../how-to/duplicates-and-people.md) shows how to use these lists. Each can be a
Parquet, CSV or JSON Lines file. [Lists of faces](#lists-of-faces) have two columns more.

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

_FACES = """\
## Lists of faces

With `--faces`, or `faces=True` in Python, `faceq duplicates` and `faceq cluster` compare all faces of the
frames: see [Rows of faces](columns.md#rows-of-faces). Their lists have a row for each face, and these columns
after `frame_index`:

"""

_FACES_DIFFER = """
In pairs, they are `face_id_a`, `face_a`, `face_id_b` and `face_b`. In groups, the number of faces is in
`faces` instead of `frames`, and `representative` is a `face_id`.
"""


def page() -> str:
    """The whole page as Markdown."""
    columns_of_faces = place_columns(faces=True, what="the face")[len(place_columns(faces=False)) :]
    parts = [
        f"## {title}\n\n{about}\n\n{table(TITLES, [cells(column) for column in columns])}"
        for title, about, columns in _PARTS
    ]
    faces = _FACES + table(TITLES, [cells(column) for column in columns_of_faces]) + _FACES_DIFFER
    return WRITTEN + _HEAD + "\n".join([*parts, faces])
