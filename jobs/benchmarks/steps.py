"""The CPU time of each step of reading frames and running the stages, measured in the process that runs them.

The stages contain no code for this. For the duration of a measurement, the functions and models that do the
steps are replaced by ones that also read the clock, about 15 times a frame. That takes less than 0.1% of a
frame's time.
"""

import contextlib
import functools
import inspect
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from types import FunctionType, ModuleType
from typing import Any

from faceq.faces import detect, geometry, landmarks, region
from faceq.faces.search import NetworkCall
from faceq.sources.decode import image

READ, FIND_FACE, ROWS = "read", "find_face", "rows"

FUNCTIONS: tuple[tuple[str, ModuleType, str], ...] = (
    ("decode", image, "decode"),
    ("crops", geometry, "crop"),
    ("crops", geometry, "align"),
    ("crops", region, "blacked_out"),
)
"""Functions that do a step of find_face: step, module, name."""

MODELS: tuple[tuple[str, ModuleType], ...] = (("detection", detect), ("landmarks", landmarks))
"""Models that do a step of find_face: step, and the module whose `load` returns the model."""

STEPS = ("decode", "detection", "landmarks", "crops")
"""The steps of find_face. What they leave of its time is the time of FIND_FACE: poses, hashes, columns."""


class StepClock:
    """Splits the CPU time of one thread's process into steps: all time belongs to exactly one step, and if a
    step contains another one, only to the inner one.

    seconds: CPU time by step. calls: number of calls by step.
    """

    def __init__(self) -> None:
        self._step = ROWS  # what belongs to no other step
        self._thread = threading.get_ident()
        self.reset()

    def reset(self) -> None:
        """Start again from zero."""
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._since = time.process_time()

    def stop(self) -> None:
        """Count the time of the current step up to now."""
        self._switch(self._step)

    def timed(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function. Its time is counted as that of the step. If it returns a search, so is the time
        of the search, and that of the networks which it asks for."""

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() != self._thread:
                raise RuntimeError(
                    f"benchmark: {step} runs in another thread: its CPU time cannot be separated"
                )
            self.calls[step] = self.calls.get(step, 0) + 1
            with self._inside(step):
                result = function(*arguments, **options)
            return self._resumed(step, result) if inspect.isgenerator(result) else result

        return call

    def _resumed(self, step: str, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        answers = None
        while True:
            try:
                with self._inside(step):
                    calls = steps.send(answers)
            except StopIteration as end:
                return end.value
            if not all(isinstance(call, NetworkCall) for call in calls):
                raise RuntimeError(f"benchmark: {step} is a generator, but not a search: correct {__name__}")
            answers = yield [NetworkCall(self.timed(step, call.network), call.image) for call in calls]

    @contextlib.contextmanager
    def _inside(self, step: str) -> Iterator[None]:
        outer = self._step
        self._switch(step)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, step: str) -> None:
        now = time.process_time()
        self.seconds[self._step] = self.seconds.get(self._step, 0.0) + now - self._since
        self._step, self._since = step, now


@contextlib.contextmanager
def measured(clock: StepClock) -> Iterator[None]:
    """Inside the block, the clock counts the steps of find_face. Models must be loaded inside the block."""
    replaced: list[tuple[Any, str, Any]] = []
    wanted = [(module, name, functools.partial(clock.timed, step)) for step, module, name in FUNCTIONS]
    wanted += [(module, "load", functools.partial(_timed_loader, clock, step)) for step, module in MODELS]
    try:
        for module, name, timed in wanted:
            original = getattr(module, name, None)
            if original is None:
                raise RuntimeError(f"benchmark: {module.__name__}.{name} does not exist: correct {__name__}")
            new = timed(original)
            # Modules that import a function by its name have a reference of their own.
            for holder in [each for key, each in sys.modules.items() if key.startswith("faceq.")]:
                for attribute in [key for key, value in vars(holder).items() if value is original]:
                    replaced.append((holder, attribute, original))
                    setattr(holder, attribute, new)
        yield
    finally:
        for holder, attribute, original in replaced:
            setattr(holder, attribute, original)


def check_calls(clock: StepClock) -> None:
    """RuntimeError if a step of find_face was not seen, although faces were found."""
    unseen = [step for step in STEPS if not clock.calls.get(step)]
    if unseen:
        raise RuntimeError(
            f"benchmark: faces were found without a call that counts as {', '.join(unseen)}: name the "
            f"functions that do it in {__name__}"
        )


def _timed_loader(clock: StepClock, step: str, load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def call(*arguments: Any, **options: Any) -> Any:
        model = load(*arguments, **options)
        kind = type(model)
        known = {name: each for base in reversed(kind.__mro__) for name, each in vars(base).items()}
        methods = {
            name: clock.timed(step, method)
            for name, method in known.items()
            if isinstance(method, FunctionType) and (name == "__call__" or not name.startswith("_"))
        }
        # A subclass, and not a wrapper: whoever asks for the model's class or attributes sees no difference.
        object.__setattr__(model, "__class__", type(kind.__name__, (kind,), {"__slots__": (), **methods}))
        return model

    return call
