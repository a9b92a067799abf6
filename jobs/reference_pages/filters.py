"""The page of the named filters, generated from `faceq.query.filters`."""

from collections.abc import Iterator

from faceq.query.filters import FILTERS, OWN_FILE, Filter
from jobs.reference_pages.markdown import WRITTEN, table

_HEAD = f"""\
# Named filters

`faceq query TABLE --filter NAME` and `faceq explain TABLE --filter NAME` use one of these conditions, and log
it. If you also give a condition, a row must meet both.

The numbers are those of published pipelines where there are any. They are a start: look at faces on both
sides of a limit before you delete anything, and write a filter of your own into `{OWN_FILE}` in the working
directory, a line for each:

```yaml
avatars: serfiq >= 0.7 and dbcnn >= 60 and abs(yaw) < 25
```

A filter in this file replaces a named one of the same name.
"""


def page() -> str:
    """The whole page as Markdown."""
    return WRITTEN + _HEAD + "".join(part for name, each in FILTERS.items() for part in _section(name, each))


def _section(name: str, found: Filter) -> Iterator[str]:
    yield f"\n## {name}\n\n{found.purpose}.\n\n"
    yield table(("condition", "source"), [(f"`{part}`", source) for part, source in found.parts])
