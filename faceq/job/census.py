"""How many frames were read, and whether the job still reads anything at all.

A broken frame is a row. A million of them in a row are something else: expired credentials, a bucket
that is gone, the wrong folder. The census is one small actor that sees the difference.
"""

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import ray

from faceq.errors import FaceqError
from faceq.table.finished_shards import Finished

REFUSALS_IN_A_ROW = 100
"""So many reads refused by the storage, with none that worked between them, stop the job (or as many
as there are shards, if those are fewer). A file that nobody has seen and that is not there is no refusal: a
manifest may name many."""

FEW = 10
"""At the end of a job: so many refused frames, and none given, are an outage, too."""

LEAST_DECODED = 100
"""Frames that must have been tried before their share of unreadable ones is judged."""

LEAST_TASKS = 0.1
"""Share of the read tasks that must have ended before it is judged while the job runs: the files that come
first, by name, may be of one bad folder."""

MOST_UNREADABLE = 0.95
"""Share of unreadable frames above which the job stops."""


MOST_NOTES = 100
"""Notes on sources that a run records."""

MOST_SAID = 1000
"""Log messages of workers that a run shows."""

DEATHS_OF_A_KILLER = 2
"""Processes that must have died over a frame before it is blamed: one may have had another reason."""


Place = tuple[int, int]
"""A frame by its place in a read task: the index of its shard there, and its own in that shard."""

BEFORE_ALL = (-1, -1)


_LACK = "if no machine was lost, they lack memory: lower num_cpus, so that fewer run at once"


class OutageError(FaceqError):
    """The job stops: nearly nothing can be read. The message says why, in one line."""


@ray.remote
class Census:
    """Counts over all tasks of a job. `read` and `decoded` return the reason to stop, or None."""

    def __init__(self, shards: int, tasks: int, already_done: int = 0):
        """`shards`: of the input; `tasks`: that read; `already_done`: frames of shards that no task reads,
        since they have their rows."""
        self._tasks = tasks
        self._already_done = already_done
        self._incarnation = uuid.uuid4().hex
        self._limit = min(REFUSALS_IN_A_ROW, shards)
        self._ended: set[int] = set()
        self._seen: dict[int, tuple[int, int]] = {}
        self._dropped: dict[int, int] = {}
        self._refused_in_a_row = self._refused = self._given = 0
        self._tried = 0
        self._unreadable = 0
        self._scored: dict[str, Counter[str]] = defaultdict(Counter)
        self._through = 0
        self._started = time.monotonic()
        self._first_through: tuple[float, int] | None = None
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
        self._finished: list[Finished] = []
        self._said: dict[tuple[int, str, str], None] = {}

    def begin_reading(self, task: int, most: int) -> tuple[Place | None, list[Place], str | None]:
        """Called when a read task starts: if a process has died in it, the last frame that was read before,
        beyond which frames should be announced by `about_to_read`; the frames that are to blame; and the
        reason to stop, if it starts more often than `most` times.

        A frame that was read is not to blame, or what came after it would come twice.
        """
        self._starts[task] += 1
        last = self._last_read.get(task, BEFORE_ALL)
        place = self._about_to_read.pop(task, None)
        if place is not None and place > last:
            self._deaths_in[task][place] += 1
        killers = [place for place, deaths in self._deaths_in[task].items() if deaths >= DEATHS_OF_A_KILLER]
        if self._starts[task] > most:
            self._outage = (
                f"stopped: the processes that read were ended {most} times over the same shard, at different "
                f"frames: {_LACK}"
            )
        return last if self._starts[task] > 1 else None, killers, self._outage

    def about_to_read(self, task: int, place: Place | None) -> None:
        """`place`: the frame that read task asks for next; None: it is not reading."""
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
    ) -> str | None:
        """`new` and `done`: frames that read task has met so far; `given`: of its last batch, the new ones
        that the storage gave; `refused`: the errors of those that it did not, `unseen` of them because what a
        manifest names is not there; `place`: of the batch's last frame."""
        self._seen[task] = (new, done)
        self._about_to_read.pop(task, None)
        if place is not None:
            if place <= self._last_read.get(task, BEFORE_ALL):
                return self._outage  # it runs again
            self._last_read[task] = place
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
        """That read task has met all its frames; `passed_over` and `notes`: its `sources.Findings`."""
        if task in self._ended:
            return  # it ran twice
        self._ended.add(task)
        self._about_to_read.pop(task, None)
        self._passed_over.update(passed_over)
        self._notes += notes[: MOST_NOTES - len(self._notes)]

    def finished(self, shards: Sequence[Finished]) -> None:
        """`shards`: that a read task has read to their ends."""
        self._finished += shards

    def finished_since(self, count: int) -> list[Finished]:
        """The finished shards beyond the first `count`; all of them where this process has begun anew."""
        return self._finished[count if count <= len(self._finished) else 0 :]

    def note(self, note: str) -> None:
        """What a stage has found out about all its scores; the same from many actors counts once."""
        if note not in self._notes and len(self._notes) < MOST_NOTES:
            self._notes.append(note)

    def say(self, level: int, logger: str, message: str) -> None:
        """What a worker has logged; the same from many of them counts once."""
        if len(self._said) < MOST_SAID:
            self._said[(level, logger, message)] = None

    def news(self, heard: int) -> tuple[tuple[int, int, int, int], list[tuple[int, str, str]]]:
        """`progress`, and what workers have logged after the first `heard` messages."""
        return self.progress(), list(self._said)[heard:]

    def findings(self) -> tuple[dict[str, int], list[str]]:
        """What read tasks met beside frames: members that hold none, by their ending; and all notes."""
        return dict(self._passed_over), self._notes

    def begin(self, batch: int, most: int) -> tuple[bool, list[int], str | None]:
        """Called before a batch, by the id of its first frame: whether a process has died over this batch
        before, so that each frame should be announced by `trying`; the frames that are to blame; and the
        reason to stop, if the batch begins more often than `most` times."""
        self._begun[batch] += 1
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
        """`frame`: that is about to be decoded; None: the batch is through."""
        if frame is None:
            self._trying.pop(batch, None)
        else:
            self._trying[batch] = frame

    def decoded(self, batch: int, tried: int, unreadable: int, example: str | None) -> str | None:
        """`batch`: as in `begin`, through now; `tried`: frames whose bytes were there; `unreadable`: those
        that gave no picture."""
        self._begun.pop(batch, None)
        self._tried += tried
        self._unreadable += unreadable
        self._last_unreadable = example or self._last_unreadable
        if len(self._ended) >= LEAST_TASKS * self._tasks:
            self._outage = self._outage or self._mostly_unreadable()
        return self._outage

    def scored(self, faces: int, without: int, error: str) -> str | None:
        """`faces`: that a model was given; `without`: those that it gave no score for, because of `error`."""
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
        # Frames with a row were good enough: what is left may be all the bad ones of a good input.
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
        """Another one after the actor's process has died: then its counts are only of the time since."""
        return self._incarnation

    def stop(self, reason: str) -> None:
        """From now on every task of the job is told to stop, for this reason."""
        self._outage = reason

    def outage(self) -> str | None:
        """The reason to stop, if there was one."""
        return self._outage

    def outage_at_the_end(self) -> str | None:
        """Why the job has failed though it came to its end: too little was left to see it before."""
        if not self._given and self._refused >= FEW:
            return (
                f"stopped: the storage refused all {self._refused} frames that were left, the last with: "
                f"{self._last_refusal}: if they will never be there, leave them out"
            )
        return self._mostly_unreadable() or self._mostly_without_scores()

    def through(self, rows: int) -> None:
        """`rows`: that have been through all stages."""
        self._through += rows
        if self._first_through is None:
            self._first_through = (time.monotonic() - self._started, rows)

    def first_through(self) -> tuple[float, int]:
        """Seconds from the start until the first rows had been through all stages, and how many these were:
        what starting workers and loading models took. (0, 0) if there were none."""
        return self._first_through or (0.0, 0)

    def progress(self) -> tuple[int, int, int, int]:
        """Read tasks that have ended; frames read, unreadable, and through all stages, about: what a task
        did twice counts twice."""
        read = sum(new for new, _ in self._seen.values())
        return len(self._ended), read, self._unreadable, self._through

    def dropped(self, first_id: int, frames: int) -> None:
        """`frames`: that had a row already, in the block that starts with frame `first_id`."""
        self._dropped[first_id] = frames

    def totals(self, limit: int | None) -> tuple[int, int]:
        """Frames of the input, or of its first `limit`: new ones, and ones that had a row before."""
        new = sum(new for new, _ in self._seen.values())
        done = sum(done for _, done in self._seen.values())
        if limit is None:
            return new, done + self._already_done
        dropped = sum(self._dropped.values())
        return min(new, limit) - dropped, dropped
