"""The rate at which a job finishes frames."""

from collections import deque

WINDOW_S = 30
"""Seconds over which a rate is averaged: long enough for several batches, short enough to show that machines
were added."""


class Rate:
    """Frames per second of the last WINDOW_S seconds, from samples of a counter.

    Samples before the first finished frame are ignored: workers were still starting. If no frame was finished
    within the window, the window grows back to the last change, so that slow jobs do not show a rate of zero.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def after(self, finished: int, now: float) -> float | None:
        """The rate after `finished` frames in all at the time `now`, seconds; None while it is not known."""
        if not finished:
            return None
        samples = self._samples
        if samples and finished < samples[-1][1]:
            samples.clear()  # the process that counts was restarted
        samples.append((now, finished))
        while len(samples) > 2 and now - samples[1][0] >= WINDOW_S and samples[1][1] < finished:
            samples.popleft()
        since, before = samples[0]
        return (finished - before) / (now - since) if finished > before and now > since else None
