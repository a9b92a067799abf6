"""A progress bar on standard error, for commands that write many files."""

import contextlib
from collections.abc import Callable, Iterator

import rich.console
import rich.progress

from faceq.cli.logs import Handler


@contextlib.contextmanager
def progress_bar(shown: Handler, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs, if people watch.

    Yields:
        A function to call with the number of further items that are finished.
    """
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console, transient=True, disable=not shown.for_people) as bar:
        task = bar.add_task(title, total=total)
        yield lambda more: bar.advance(task, more)
