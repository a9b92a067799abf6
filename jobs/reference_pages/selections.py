"""The page of selections, generated from the descriptions in `faceq.selection`."""

from faceq.selection.select_options import BLEND, DEFAULT_LIMITS, MOST_BINS, RANGES, bin_names
from faceq.selection.select_schema import COLUMNS
from jobs.reference_pages.columns import TITLES, cells
from jobs.reference_pages.markdown import WRITTEN, table


def page() -> str:
    """The whole page as Markdown."""
    ranges = [(f"`{angle}`", f"-{side:g} to {side:g} degrees") for angle, side in RANGES.items()]
    bits, cosine = DEFAULT_LIMITS["hash"], DEFAULT_LIMITS["embedding"]
    example = "\n".join(f"- `{name}`" for name in bin_names((("yaw", 5),)))
    return f"""{WRITTEN}# Selections

`faceq select` and `faceq.select` return the chosen rows with all columns of the [result table](columns.md)
and three more, sorted by group and rank. [Select the best different frames](../how-to/select.md) shows how
to use them. With `--faces`, or `faces=True` in Python, the rows are [of faces](columns.md#rows-of-faces), and
everything below holds for faces instead of frames, with `face_id` in place of `frame_id`.

{table(TITLES, [cells(column) for column in COLUMNS])}
## Which frames are chosen

A candidate is a frame that fulfils the condition and has a score, a group, and the hash, embedding or pose
that the options need. Frames that lack one of these are counted and left out. The candidates of a group are
sorted by score, the best first. Frames with equal scores are in the order of a hash of `frame_id` and
`--seed`.

In each group, frames are chosen one after the other, until there are `--top`:

- Without `--balance`: each time the best candidate that is distinct from all chosen frames of its group.
- With `--balance`: the same, but each time only from the bins with the fewest chosen frames. Bins without
  such a candidate do not count. So all bins of a group get equally many frames, and when a bin has no such
  candidate left, the other bins share the rest equally.

It follows:

- No two chosen frames of a group are too similar, whatever their bins.
- A frame is left out for one of two reasons. Either it is too similar to a chosen frame of its group; without
  `--balance`, that frame has at least the same score. Or the group already has `--top` chosen frames; then no
  chosen frame (with `--balance`: none in its bin) has a lower score.
- With `--balance`, if a frame is left out although it is distinct from all chosen frames of its group, its
  bin has at most one chosen frame fewer than any other bin.
- The first K chosen frames of a group are those that `--top K` gives.

`--total` applies after that, over all groups: first the best frame of each group, then the second one of
each, and so on. From the last round, only the frames with the highest scores are taken. `--balance`
balances each group, not the total: to balance the whole choice, leave out `--per`.

The choice depends on the values in the table only, not on the number or order of its files and rows, nor on
the number of threads.

## Groups

| `--per` | a group is |
| --- | --- |
| `source` | a file; a video inside a shard is a group of its own |
| `shot` | a shot: all frames with the same `source`, `member` and `shot` |
| `extra.KEY` | all frames with the same value in [`extra`](columns.md), such as `extra.json.identity` |
| `cluster` | all frames with the same number in the column `cluster` of the file `--clusters` |
| `track` | with `--faces`: all faces of a video with the same `track`, one person's face through a shot |
| not given | the whole table |

`faceq cluster` writes the file `--clusters`. It has a row per frame, with `frame_id` and `cluster`. With
`--faces`, it is the file of `faceq cluster --faces`, with `face_id` and `cluster`.

## Scores

The default of `--by` is the geometric mean of both scores, `{BLEND}`.

A sum of two scores needs a weight, because one goes from 0 to 1 and the other from 0 to 100. In a geometric
mean, the unit of a score does not change the order: 1% more of one score counts as much as 1% more of the
other. A frame with one score near zero stays near zero.

A frame without `dbcnn` has no such score. For tables with such frames, give `--by serfiq` or another
expression. A value that begins with a minus sign needs an equals sign: `--by=-abs(yaw)`.

## Similar frames

| `--distinct` | two frames are too similar if | default |
| --- | --- | --- |
| `hash:BITS` | their `dhash` differs in fewer than BITS of 64 bits | `hash:{bits:g}` |
| `embedding:COSINE` | the cosine of their embeddings is greater than COSINE | `embedding:{cosine:g}` |

The hash is that of the aligned face, so it does not see the background. Embeddings need a table with
`--embeddings`. What a cosine means depends on the recogniser.

## Bins

The bins of an angle have equal widths and divide the range in this table. The outermost bins also contain all
angles beyond it. A bin contains its lower edge, not its upper one. Quantiles would be of no use as bins: each
has equally many candidates, so there is nothing to balance.

{table(("angle", "range"), ranges)}
`yaw:5` has these bins:

{example}

`yaw:5,pitch:3` has 15 bins: each combination of a bin of `yaw` and a bin of `pitch`. At most {MOST_BINS:,}
bins are allowed.
"""
