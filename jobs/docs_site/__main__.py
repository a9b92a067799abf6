"""Check all Markdown pages of the clone: `python -m jobs.docs_site`, a part of `make docs`.

Prints a line for each broken link, stale generated page and undocumented public name: file, line, and what to
do. The exit status is then 1.
"""

import itertools
import sys

from jobs import reference_pages
from jobs.docs_site import docstrings, links

if __name__ == "__main__":
    found = list(itertools.chain(reference_pages.stale(), links.problems(), docstrings.problems()))
    for line in found:
        print(line, file=sys.stderr)
    sys.exit(1 if found else 0)
