"""Signals that end a command: Ctrl-C, SIGTERM (a lost pod, `ray job stop`) and SIGHUP (a closed terminal).

All three end it in one way: an exception in the main thread, so that what is open is closed, the lock on the
table is released, and the exit status says which signal it was.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

CLEANUP_S = 10.0
"""Seconds after a signal in which further ones are ignored: cleaning up has that long before a user who
presses Ctrl-C again interrupts it, too."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end: whatever handles Ctrl-C handles this."""


class Ending:
    """received: the signal that the command ends for; None while there was none."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._raised = -CLEANUP_S

    @property
    def status(self) -> int:
        """The exit status that tells the signal: 130, 143 or 129."""
        return 128 + int(self.received or 0)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._raised < CLEANUP_S:
            return
        self._raised = now
        self.received = self.received or signal.Signals(number)
        raise Interrupted(self.received.name)


@contextlib.contextmanager
def raised() -> Iterator[Ending]:
    """In the block ENDING signals raise `Interrupted`; then the handlers are the ones from before.

    A signal that is ignored stays so (`nohup`). Outside the main thread handlers cannot be set: there the
    block changes nothing.
    """
    ending = Ending()
    before = {}
    if _in_main_thread():
        before = {each: signal.getsignal(each) for each in ENDING}
    # None: not set from Python, so that it could not be put back.
    mine = [each for each, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for each in mine:
            signal.signal(each, ending.handle)
        yield ending
    finally:
        for each in mine:
            signal.signal(each, before[each])


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
