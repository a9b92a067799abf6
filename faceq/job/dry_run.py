"""What a job would read, and what of it is already done. Nothing is read, scored or written.

Needs neither Ray nor a model, and takes as long as listing the input and reading the ids in the table.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from faceq import __version__
from faceq.config import Config
from faceq.job import resume, slow_steps
from faceq.job.inputs import list_input, names_text, table_of
from faceq.job.resume import Rest
from faceq.messages.masking import mask
from faceq.messages.visible import visible
from faceq.models import cache, zoo
from faceq.sources.kinds import Kind
from faceq.sources.listing import Shard, endings_text
from faceq.stages.chosen_models import choose, comparison_record
from faceq.stages.placement import on_this_machine

SOURCES_SHOWN = 10

_WIDTH = 15
"""Characters of the first column."""

_KINDS: dict[Kind, str] = {
    "picture": "images",
    "tar": "tar shards",
    "parquet": "Parquet files",
    "record": "RecordIO files",
    "lmdb": "LMDB files",
    "video": "videos",
}


@dataclass(frozen=True)
class Source:
    """A shard of the input. frames: None if it must be read to count them; done: frames that have a row."""

    shard: Shard
    frames: int | None
    done: int

    @property
    def is_done(self) -> bool:
        return self.frames is not None and self.done >= self.frames


@dataclass(frozen=True)
class DryRun:
    """config: of the job. sources: of the input, in its order. exists: whether the table exists. again:
    frames with a row that are scored again. passed_over, notes: see `inputs.Input`."""

    config: Config
    table: str
    exists: bool
    overwrite: bool
    sources: list[Source]
    again: int
    passed_over: dict[str, int]
    notes: list[str]


def survey(config: Config, overwrite: bool = False, retry_unreadable: bool = False) -> DryRun:
    """Check the settings of a job and list its input, as `pipeline.score` does.

    Args:
        config: the job.
        overwrite: the job first removes the existing table.
        retry_unreadable: the job scores frames again whose row is `unreadable`.

    Raises:
        UsageError, StorageError: as `pipeline.score`, apart from licences, which are not asked for.
    """
    table = table_of(config, retry_unreadable)
    record = _record(config)
    table.check(None if overwrite else record)
    with slow_steps.named("listing the input"):
        found = list_input(config, table)
    exists = table.exists()
    notes = list(found.notes)
    rest = None
    if exists and not overwrite:
        how, threshold = resume.read_settings(config), config.fiq_threshold
        rest = resume.preview(table, found.shards, how, threshold, retry_unreadable)
        higher = resume.higher_threshold(table, threshold)
        notes += [higher] if higher else []
    return DryRun(
        config=config,
        table=table.uri,
        exists=exists,
        overwrite=overwrite,
        sources=list(_sources(found.shards, rest, one_each=config.read.animated == "first")),
        again=0 if rest is None else len(rest.again),
        passed_over=found.passed_over,
        notes=notes,
    )


def _record(config: Config) -> dict[str, Any] | None:
    """What the table's rows are compared with; None if a model would have to be downloaded for it."""
    local = not os.environ.get("RAY_ADDRESS")  # as for `cluster.runs_here`, without Ray
    config = on_this_machine(config) if local else config
    models = choose(config, local)
    here = all(len(m.sha256) == zoo.HEX_DIGITS or cache.local_path(m).exists() for m in models.known)
    return comparison_record(config, models) if here else None


def _sources(shards: Iterable[Shard], rest: Rest | None, one_each: bool) -> Iterator[Source]:
    """`one_each`: each image has one frame."""
    left = None if rest is None else {shard.source: shard for shard in rest.shards}
    for listed in shards:
        shard = (left or {}).get(listed.source, listed)
        frames = 1 if shard.kind == "picture" and shard.known and one_each else None
        if left is None or rest is None:
            yield Source(shard, frames, 0)
        elif shard.source in left:
            yield Source(shard, frames, rest.partly.get(shard.source, 0))
        else:
            known = rest.known.get(shard.source)
            count = 1 if known is None else known.frames
            yield Source(shard, count, count)


def text(found: DryRun) -> str:
    """The dry run as a person reads it."""
    sections = [_heading(found), _table_of_kinds(found.sources), _listed(found.sources), _notes(found)]
    return "\n".join("\n".join(["", *section]) for section in [*sections, _to_do(found)] if section)


def _heading(found: DryRun) -> list[str]:
    inputs = [*found.config.input, *found.config.manifest]
    state = "" if found.exists else "   (does not exist yet)"
    if found.exists and found.overwrite:
        state = "   (exists: --overwrite removes it first)"
    return [
        f"faceq {__version__}, preset {found.config.preset}, dry run: nothing is scored or written",
        f"{'input':<{_WIDTH}}{visible(mask(names_text(inputs)))}",
        f"{'table':<{_WIDTH}}{visible(found.table)}{state}",
    ]


def _table_of_kinds(sources: list[Source]) -> list[str]:
    lines = [f"{'kind':<{_WIDTH}}{'sources':>10}{'size':>12}{'frames':>14}{'already done':>15}"]
    for kind, title in _KINDS.items():
        some = [source for source in sources if source.shard.kind == kind]
        if some:
            lines.append(_row(title, some))
    if len(lines) > 2:
        lines.append(_row("total", sources))
    if any(source.frames is None for source in sources):
        lines.append("unknown, +: sources whose frames are counted when they are read")
    return lines


def _row(title: str, sources: list[Source]) -> str:
    """A line of the table. `N+`: at least N frames."""
    sizes = [source.shard.size for source in sources]
    size = size_text(sum(size or 0 for size in sizes)) + ("+" if None in sizes else "")
    known = sum(source.frames or source.done for source in sources)
    frames = f"{known:,}"
    if any(source.frames is None for source in sources):
        frames = f"{known:,}+" if known else "unknown"
    done = sum(source.done for source in sources)
    return f"{title:<{_WIDTH}}{len(sources):>10,}{size:>12}{frames:>14}{done:>15,}"


def _listed(sources: list[Source]) -> list[str]:
    """The first sources that have something to do."""
    left = [source for source in sources if not source.is_done]
    if not left:
        return []
    first = f"the first {SOURCES_SHOWN} of " if len(left) > SOURCES_SHOWN else ""
    lines = [f"{'not done':<{_WIDTH}}{first}{_counted(len(left), 'source')}"]
    for source in left[:SOURCES_SHOWN]:
        size = "" if source.shard.size is None else size_text(source.shard.size)
        done = f"   ({_counted(source.done, 'frame')} done)" if source.done else ""
        lines.append(f"  {size:>10}   {visible(source.shard.source)}{done}")
    return lines


def _notes(found: DryRun) -> list[str]:
    lines = []
    if found.again:
        lines.append(
            f"{'again':<{_WIDTH}}{_counted(found.again, 'frame')} with a row: unreadable, or passing the "
            "lower --fiq-threshold"
        )
    if found.passed_over:
        listed = visible(endings_text(found.passed_over))
        skipped = _counted(sum(found.passed_over.values()), "file")
        lines.append(f"{'skipped':<{_WIDTH}}{skipped} without frames: {listed}")
    return lines + [f"{'note':<{_WIDTH}}{visible(note)}" for note in found.notes]


def _to_do(found: DryRun) -> list[str]:
    left = Counter(source.shard.kind for source in found.sources if not source.is_done)
    parts = [_counted(left[kind], title.removesuffix("s")) for kind, title in _KINDS.items() if left[kind]]
    what = " and ".join([", ".join(parts[:-1]), parts[-1]]) if parts[1:] else "".join(parts)
    if not parts:
        what = "nothing: every frame of the input has its row"
    elif found.config.limit is not None:
        what = _limited(found.config.limit, found.sources) or what
    return [f"{'to do':<{_WIDTH}}{what}"]


def _limited(limit: int, sources: list[Source]) -> str:
    """What is left to do of the first `limit` frames, with or without a row; "" if the input has fewer."""
    first, done = 0, 0
    for source in sorted(sources, key=lambda source: source.shard.kind == "picture"):  # as `group` does
        if first == limit:
            break
        if source.frames is None:
            return _at_most(limit, limit - done, any(source.done for source in sources))
        first += (some := min(source.frames, limit - first))
        done += some if source.is_done else 0
    if first < limit:
        return ""
    if done == limit:
        return f"nothing: the first {_counted(limit, 'frame')} of the input (--limit) already have a row"
    if not done:
        return f"the first {_counted(limit, 'frame')} of the input (--limit)"
    left = _counted(limit - done, "frame")
    return f"{left}: of the first {limit:,} of the input (--limit), {done:,} already have a row"


def _at_most(limit: int, left: int, some_done: bool) -> str:
    if not some_done:
        return f"at most the first {_counted(limit, 'frame')} of the input (--limit)"
    return (
        f"at most {_counted(left, 'frame')}: the first {limit:,} of the input (--limit), without those that "
        "already have a row"
    )


def _counted(count: int, what: str) -> str:
    """
    >>> _counted(1, "tar shard"), _counted(1200, "frame")
    ('1 tar shard', '1,200 frames')
    """
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def size_text(size: float) -> str:
    """
    >>> size_text(512), size_text(1_234_567)
    ('512 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
