"""Counts the frames of a job while it runs, and stops the job when nearly nothing can be read.

A broken frame becomes a row. A million broken frames in a row have another cause: expired credentials, a
deleted bucket, the wrong folder. The census is one small actor that all tasks report to, so it can tell the
two apart.
"""

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import ray

from faceq.errors import FaceqError
from faceq.job.counts import FIND_FACE, NO_WORK, READ, Counts, StageCounts, Work
from faceq.job.gathered import Gathered

if TYPE_CHECKING:  # the process of the census starts faster without pyarrow
    from faceq.table.finished_shards import Finished, FinishedPart

REFUSALS_IN_A_ROW = 100
"""The job stops after this many reads in a row that the storage refused, with no successful read in between
(or after as many as the input has shards, if these are fewer). A file that only a manifest names and that
does not exist is not a refusal: a manifest may name many of them."""

FEW = 10
"""Minimum number of refused frames that count as an outage at the end of a job in which no read succeeded."""

LEAST_DECODED = 100
"""Minimum number of decoded frames before their share of unreadable ones is judged."""

LEAST_TASKS = 0.1
"""Minimum share of the read tasks that must have ended before that share is judged while the job runs: the
first files by name may all lie in one bad folder."""

MOST_UNREADABLE = 0.95
"""Share of unreadable frames above which the job stops."""

MOST_NOTES = 100
"""Maximum number of notes that a run records."""

MOST_SAID = 1000
"""Maximum number of log messages of workers that a run shows."""

DEATHS_OF_A_KILLER = 2
"""Number of processes that must die over a frame before the frame is blamed: one death may have another
cause."""

Place = tuple[int, int]
"""A frame's place in a read task: the index of its shard, and the frame's index within the shard."""

BEFORE_ALL = (-1, -1)

_LACK = "if no machine was lost, they lack memory: lower num_cpus, so that fewer run at once"


class OutageError(FaceqError):
    """The job stops because nearly nothing can be read. The message gives the reason in one line."""


@ray.remote
class Census:
    """Counts over all tasks of a job. `read` and `decoded` return the reason to stop, or None."""

    def __init__(
        self,
        shards: int,
        tasks: int,
        already_done: int = 0,
        frames: Sequence[int | None] = (),
        limit: int | None = None,
    ):
        """Start with all counts at zero.

        Args:
            shards: number of shards of the input.
            tasks: number of read tasks.
            already_done: frames of shards that no task reads, because all of them have rows.
            frames: number of frames of each read task, None if it must read to count them.
            limit: the job takes only the first `limit` frames.
        """
        self._tasks = tasks
        self._already_done = already_done
        self._frames = list(frames) or [None] * tasks
        self._frame_limit = limit
        self._incarnation = uuid.uuid4().hex
        self._limit = min(REFUSALS_IN_A_ROW, shards)
        self._ended: set[int] = set()
        self._seen: dict[int, tuple[int, int]] = {}
        self._dropped: dict[int, int] = {}
        self._refused_in_a_row = self._refused = self._given = 0
        self._tried = 0
        self._unreadable = 0
        self._stages = StageCounts()
        self._scored: dict[str, Counter[str]] = defaultdict(Counter)
        self._statuses: Counter[str] = Counter()
        self._started = time.monotonic()
        self._first_finished: tuple[float, int] | None = None
        self._outage: str | None = None
        self._last_refusal: str | None = None
        self._last_unreadable: str | None = None
        self._begun: Counter[int] = Counter()
        self._trying: dict[int, int] = {}
        self._deaths: Counter[int] = Counter()
        self._starts: Counter[int] = Counter()
        self._about_to_read: dict[int, Place] = {}
        self._deaths_in: dict[int, Counter[Place]] = defaultdict(Counter)
        self._last_read: dict[int, Place] = {}
        self._passed_over: Counter[str] = Counter()
        self._notes: list[str] = []
        self._finished_shards = Gathered()
        self._said: dict[tuple[int, str, str], None] = {}

    def begin_reading(self, task: int, most: int) -> tuple[Place | None, list[Place], str | None]:
        """Called when a read task starts.

        Args:
            task: index of the read task.
            most: maximum number of starts of this task.

        Returns:
            If a process died in this task: the last frame that was read before. The task announces later
            frames by `about_to_read`. Then the frames that are blamed for deaths, and the reason to stop if
            the task has started more than `most` times. A frame that was read is never blamed: otherwise the
            frames after it would be read twice.
        """
        self._starts[task] += 1
        again = self._starts[task] > 1
        if again:
            self._stages.restart(READ)
        last = self._last_read.get(task, BEFORE_ALL)
        place = self._about_to_read.pop(task, None)
        if place is not None and place > last:
            self._deaths_in[task][place] += 1
        killers = [place for place, deaths in self._deaths_in[task].items() if deaths >= DEATHS_OF_A_KILLER]
        if self._starts[task] > most:
            self._outage = (
                f"stopped: the reading processes were ended {most} times over the same shard, at different "
                f"frames: {_LACK}"
            )
        return last if again else None, killers, self._outage

    def about_to_read(self, task: int, place: Place | None) -> None:
        """`place`: the frame that the read task requests next; None: the task is not reading."""
        if place is None:
            self._about_to_read.pop(task, None)
        else:
            self._about_to_read[task] = place

    def read(
        self,
        task: int,
        new: int,
        done: int,
        given: int,
        refused: Iterable[str],
        unseen: int = 0,
        place: Place | None = None,
        work: Work = NO_WORK,
        size: int = 0,
    ) -> str | None:
        """Called for each batch that a read task has read.

        Args:
            task: index of the read task.
            new: frames without a row that the task has met so far.
            done: frames with a row that it has met so far.
            given: new frames of this batch that the storage delivered.
            refused: errors of the frames of this batch that the storage did not deliver.
            unseen: number of those that only a manifest names and that do not exist.
            place: of the batch's last frame.
            work: the frames of this batch without a row, and the time to read all of it.
            size: bytes of these frames.
        """
        self._seen[task] = (new, done)
        self._about_to_read.pop(task, None)
        if place is not None:
            if place <= self._last_read.get(task, BEFORE_ALL):
                return self._outage  # the task runs again
            self._last_read[task] = place
        self._stages.add(READ, work, size)
        errors = list(refused)
        self._given += given
        self._refused += len(errors)
        self._last_refusal = errors[-1] if errors else self._last_refusal
        self._refused_in_a_row = 0 if given else self._refused_in_a_row + len(errors) - unseen
        if errors and self._refused_in_a_row >= self._limit:
            self._outage = (
                f"stopped: the storage refused {self._refused_in_a_row} reads in a row, the last with: "
                f"{errors[-1]}"
            )
        return self._outage

    def ended(self, task: int, passed_over: Mapping[str, int], notes: Sequence[str]) -> None:
        """Called when a read task has read all its frames; `passed_over`, `notes`: its `sources.Findings`."""
        if task in self._ended:
            return  # it ran twice
        self._ended.add(task)
        self._about_to_read.pop(task, None)
        self._passed_over.update(passed_over)
        self._notes += notes[: MOST_NOTES - len(self._notes)]

    def shards_finished(self, shards: "Sequence[Finished | FinishedPart]") -> None:
        """`shards`: that a read task has read to their ends, and parts of shards."""
        self._finished_shards.add(shards)

    def gives_break(self, frame: int, part: Place) -> bool:
        """`Gathered.gives_break`; `part`: the read task, and the index of the part within it."""
        return self._finished_shards.gives_break(frame, part)

    def shards_finished_since(self, count: int) -> "list[Finished]":
        """The finished shards after the first `count`; all of them if this process has been restarted."""
        return self._finished_shards.since(count)

    def note(self, note: str) -> None:
        """A finding of a stage about all its scores. The same note of several actors is kept once."""
        if note not in self._notes and len(self._notes) < MOST_NOTES:
            self._notes.append(note)

    def say(self, level: int, logger: str, message: str) -> None:
        """A log message of a worker. The same message of several workers is kept once."""
        if len(self._said) < MOST_SAID:
            self._said[(level, logger, message)] = None

    def news(self, heard: int) -> tuple[Counts, list[tuple[int, str, str]]]:
        """`progress`, and the log messages of workers after the first `heard`."""
        return self.progress(), list(self._said)[heard:]

    def findings(self) -> tuple[dict[str, int], list[str]]:
        """Members of shards that hold no frames, counted by extension; and all notes."""
        return dict(self._passed_over), self._notes

    def begin(self, batch: int, most: int) -> tuple[bool, list[int], str | None]:
        """Called before faces are found in a batch.

        Args:
            batch: id of its first frame.
            most: maximum number of starts of this batch.

        Returns:
            Whether a process has died over this batch before: then each frame is announced by `trying`. Then
            the frames that are blamed for deaths, and the reason to stop if the batch has started more than
            `most` times.
        """
        self._begun[batch] += 1
        if self._begun[batch] > 1:
            self._stages.restart(FIND_FACE)
        if self._begun[batch] > most:
            self._outage = (
                f"stopped: the processes that find faces were ended {most} times over the same frames: "
                f"{_LACK}"
            )
        if batch in self._trying:
            self._deaths[self._trying.pop(batch)] += 1
        killers = [frame for frame, deaths in self._deaths.items() if deaths >= DEATHS_OF_A_KILLER]
        return self._begun[batch] > 1, killers, self._outage

    def trying(self, batch: int, frame: int | None) -> None:
        """`frame`: that is about to be decoded; None: the batch is finished."""
        if frame is None:
            self._trying.pop(batch, None)
        else:
            self._trying[batch] = frame

    def decoded(
        self, batch: int, tried: int, unreadable: int, example: str | None, work: Work = NO_WORK
    ) -> str | None:
        """Called when faces were found in a batch.

        Args:
            batch: as in `begin`.
            tried: frames whose bytes were read.
            unreadable: those of them that could not be decoded.
            example: an error of an unreadable frame.
        """
        self._begun.pop(batch, None)
        self._stages.add(FIND_FACE, work)
        self._tried += tried
        self._unreadable += unreadable
        self._last_unreadable = example or self._last_unreadable
        if len(self._ended) >= LEAST_TASKS * self._tasks:
            self._outage = self._outage or self._mostly_unreadable()
        return self._outage

    def scored(self, stage: str, work: Work, faces: int, without: int, error: str) -> str | None:
        """`faces`: given to the model of a stage; `without`: faces that it gave no score for, because of
        `error`."""
        self._stages.add(stage, work)
        counted = self._scored[error]
        counted["faces"] += faces
        counted["without"] += without
        self._outage = self._outage or self._mostly_without_scores()
        return self._outage

    def _mostly_without_scores(self) -> str | None:
        for error, counted in self._scored.items():
            if self._nearly_all(counted["without"], counted["faces"]):
                without, faces = counted["without"], counted["faces"]
                return f"stopped: {without} of the first {faces} faces have no score: {error}"
        return None

    def _nearly_all(self, bad: int, tried: int) -> bool:
        if tried < LEAST_DECODED or bad <= MOST_UNREADABLE * tried:
            return False
        # Frames that have a row were good enough. The rest may be the few bad frames of a good input.
        done = sum(done for _, done in self._seen.values()) + sum(self._dropped.values())
        done += self._already_done
        return bad > MOST_UNREADABLE * (tried + done)

    def _mostly_unreadable(self) -> str | None:
        if not self._nearly_all(self._unreadable, self._tried):
            return None
        return (
            f"stopped: {self._unreadable} of the first {self._tried} frames are unreadable, the last with: "
            f"{self._last_unreadable}: if the rest of the input is good, leave these files out"
        )

    def incarnation(self) -> str:
        """Changes when the actor's process dies and is restarted: its counts then begin at zero again."""
        return self._incarnation

    def stop(self, reason: str) -> None:
        """From now on every task of the job is told to stop for this reason."""
        self._outage = reason

    def outage(self) -> str | None:
        """The reason to stop, or None."""
        return self._outage

    def outage_at_the_end(self) -> str | None:
        """The reason why the job has failed although it ran to its end: too few frames were left to notice
        it earlier. None if it has not failed."""
        if not self._given and self._refused >= FEW:
            return (
                f"stopped: the storage refused all {self._refused} remaining frames, the last with: "
                f"{self._last_refusal}: if these files no longer exist, leave them out"
            )
        return self._mostly_unreadable() or self._mostly_without_scores()

    def frames_finished(self, statuses: Mapping[str, int]) -> None:
        """`statuses`: frames of a batch that the last stage has finished, by status."""
        self._statuses.update(statuses)
        if self._first_finished is None:
            self._first_finished = (time.monotonic() - self._started, sum(statuses.values()))

    def first_finished(self) -> tuple[float, int]:
        """Seconds from the start until the first frames were finished, and how many these were: the time to
        start workers and load models. (0, 0) if there were none."""
        return self._first_finished or (0.0, 0)

    def rows_written(self, task: int, rows: Mapping[str, int], seconds: float = 0.0) -> None:
        """`rows`: that a write task has written to the table, by status."""
        self._stages.write(task, rows, seconds)

    def progress(self) -> Counts:
        """How far the job is."""
        return Counts(
            tasks_ended=len(self._ended),
            read=sum(new for new, _ in self._seen.values()),
            refused=self._refused,
            unreadable=self._unreadable,
            statuses=dict(self._statuses),
            frames=self._frames_in_all(),
            **self._stages.figures(),
        )

    def _frames_in_all(self) -> int | None:
        dropped = sum(self._dropped.values())
        most = self._frame_limit
        if most is not None and sum(new for new, _ in self._seen.values()) >= most:
            return most - dropped
        known = 0
        for task, frames in enumerate(self._frames):
            count = self._seen.get(task, (0, 0))[0] if task in self._ended else frames
            if count is None:
                return None
            known += count
        return (known if most is None else min(known, most)) - dropped

    def dropped(self, first_id: int, frames: int) -> None:
        """`frames`: that already had a row, in the block that starts with frame `first_id`."""
        self._dropped[first_id] = frames

    def totals(self, limit: int | None) -> tuple[int, int]:
        """Frames of the input, or of its first `limit`: those without a row before this run, and those with
        one."""
        new = sum(new for new, _ in self._seen.values())
        done = sum(done for _, done in self._seen.values())
        if limit is None:
            return new, done + self._already_done
        dropped = sum(self._dropped.values())
        return min(new, limit) - dropped, dropped
