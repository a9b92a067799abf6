"""Signals that end a command: Ctrl-C, SIGTERM (a lost pod, `ray job stop`) and SIGHUP (a closed terminal).

All three raise an exception in the main thread, so that open files are closed, the lock on the table is
released, and the exit status tells which signal it was.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

CLEANUP_S = 10.0
"""Seconds after a signal in which further signals are ignored: pressing Ctrl-C again within this time does
not interrupt the clean-up."""


class Interrupted(KeyboardInterrupt):
    """A signal told the command to end. Code that handles Ctrl-C handles this, too."""


class Ending:
    """received: the signal that ends the command; None before there was one."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._raised = -CLEANUP_S

    @property
    def status(self) -> int:
        """The exit status for the signal: 130, 143 or 129."""
        return 128 + int(self.received or 0)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._raised < CLEANUP_S:
            return
        self._raised = now
        self.received = self.received or signal.Signals(number)
        raise Interrupted(self.received.name)


@contextlib.contextmanager
def raised(leaving: bool = False) -> Iterator[Ending]:
    """In the block, ENDING signals raise `Interrupted`; after it, the previous handlers are restored.

    A signal that is ignored stays ignored (`nohup`). Handlers can be set only in the main thread: in other
    threads the block changes nothing.

    Args:
        leaving: the process exits after the block. If one of these signals has ended the block, further ones
            are ignored after it, so that the exit status tells which signal came first.
    """
    ending = Ending()
    before = {}
    if _in_main_thread():
        before = {each: signal.getsignal(each) for each in ENDING}
    # None: not set from Python, so that it could not be restored.
    mine = [each for each, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for each in mine:
            signal.signal(each, ending.handle)
        yield ending
    finally:
        for each in mine:
            signal.signal(each, signal.SIG_IGN if leaving and ending.received else before[each])


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
