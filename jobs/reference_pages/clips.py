"""The page of the columns of clips, generated from the descriptions in `faceq.selection.clip_schema`."""

from faceq.selection.clip_schema import CUT, IDENTITY, SUMMARIES, SUMMARISED, columns_of
from jobs.reference_pages.columns import TITLES, cells
from jobs.reference_pages.markdown import WRITTEN, table

_HEAD = """\
# Clips

`faceq clips` and `faceq.clips` return one row for each clip, sorted by source, member and time; with `--per
track`, by source, member, track and time.
[Find clips in videos](../how-to/clips.md) shows how to use them.

"""


def page() -> str:
    """The whole page as Markdown."""
    names = ", ".join(f"`{name}`" for name in SUMMARISED)
    ends = "\n".join(f"- `…_{end}`: {meaning}." for end, meaning in SUMMARIES.items())
    return (
        WRITTEN
        + _HEAD
        + table(TITLES, [cells(column) for column in (*columns_of(per_track=True), IDENTITY)])
        + f"""
## Scores and measures

These columns of the [result table](columns.md) are summarised: {names}.

For each of them there are three columns of type float32, over all frames of the clip that have a value:

{ends}

They are null if no frame of the clip has a value.

## Cut clips

`clips.parquet` in the folder of `faceq clips --cut` has further columns:

"""
        + table(TITLES, [cells(column) for column in CUT])
    )
