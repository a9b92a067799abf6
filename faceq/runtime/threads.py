"""Change torch's process-wide settings temporarily, and restore them.

faceq also runs inside other programs, so it must not leave these settings changed. A process that has not
imported torch does not import it for its settings, which would take a second.
"""

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

_SETTINGS = threading.RLock()
"""Held while the settings are changed: if two threads saved and restored them at the same time, one could
restore the other's values."""


@contextlib.contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Run torch with `count` threads inside the block. Rows must not depend on the thread setting of the host
    program.

    Only one thread at a time can be inside such a block.
    """
    torch: Any = sys.modules.get("torch")
    with _SETTINGS:
        if torch is None:
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Run float32 operations of torch on CUDA in full single precision inside the block, not in
    TensorFloat-32.

    Only one thread at a time can be inside such a block.
    """
    import torch  # noqa: PLC0415

    switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    with _SETTINGS:
        before = [switch.allow_tf32 for switch in switches]
        try:
            for switch in switches:
                switch.allow_tf32 = False
            yield
        finally:
            for switch, allowed in zip(switches, before, strict=True):
                switch.allow_tf32 = allowed
