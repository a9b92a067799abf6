"""The table and the input of a job, as they are found before anything is read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faceq.config import Config
from faceq.errors import UsageError
from faceq.sources.listing import Shard, ending_of, endings_text, exclude_below, list_shards
from faceq.storage.filesystem import check_writable, is_inside
from faceq.table.store import Table

INPUTS_SHOWN = 3


@dataclass(frozen=True)
class Input:
    """shards: what is to be read, without the table itself. passed_over: files that hold no frames, counted
    by extension. notes: what a person should know although nothing is broken."""

    shards: list[Shard]
    passed_over: dict[str, int]
    notes: list[str]


def table_of(config: Config, retry_unreadable: bool = False) -> Table:
    """The table that a job writes; UsageError if the settings name none."""
    if config.out is None:
        raise UsageError("no output given: name the table's folder or prefix with --out")
    check_writable(config.out)
    if retry_unreadable and config.limit is not None:
        raise UsageError("--retry-unreadable scores all unreadable frames of the input: leave out --limit")
    return Table(config.out, config.s3)


def list_input(config: Config, table: Table) -> Input:
    """List the input of a job.

    Raises:
        UsageError: an input that does not exist or holds no frames.
        StorageError: an input that cannot be listed completely.
    """
    others: set[str] = set()
    notes: list[str] = []
    shards = list_shards(
        *(config.input, config.s3, config.manifest, config.any_name, others, notes), config.extra_bytes
    )
    shards = exclude_below(shards, table.uri)
    if not shards:
        raise UsageError(f"{table.uri}: the input holds only the table itself: name an input with frames")
    passed_over = Counter(ending_of(other) for other in others if not is_inside(other, table.uri))
    kept = [note for note in notes if not note.startswith(f"{table.uri}: ")]
    return Input(shards, dict(passed_over), kept)


def names_text(inputs: Sequence[str]) -> str:
    """The first few inputs."""
    more = len(inputs) - INPUTS_SHOWN
    return ", ".join(inputs[:INPUTS_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def no_frames(inputs: Sequence[str], passed_over: Mapping[str, int]) -> str:
    """The message about an input that has turned out to hold no frame."""
    counted = f": skipped {endings_text(passed_over)}" if passed_over else ""
    return f"{names_text(inputs)}: no frames here{counted}"
