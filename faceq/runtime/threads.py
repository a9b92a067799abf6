"""Torch's settings of the whole process, changed for a while and put back.

faceq runs inside other people's programs, so it leaves these settings as it found them.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

_SETTINGS = threading.RLock()
"""Held while the settings differ from the host's: two threads that saved and restored them at the same time
would restore each other's."""


@contextlib.contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Run torch with `count` threads in the block. Rows must not depend on how many threads the host uses.

    One thread at a time can be in such a block.
    """
    with _SETTINGS:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Run torch's float32 on CUDA in single precision in the block, not in TensorFloat-32.

    One thread at a time can be in such a block.
    """
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
