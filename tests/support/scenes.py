"""Pictures of made-up scenes, and transitions between them."""

import itertools

import numpy as np

from faceq.sources.frame import Frame

SIZE = (72, 128)

Images = list[np.ndarray]


def scene(seed: int, count: int, speed: float = 0.7) -> Images:
    """Frames of a wall of coloured stones along which the camera moves, with a little noise."""
    rng = np.random.default_rng(seed)
    stone, (height, width) = 12, SIZE
    columns = int(width + speed * count) // stone + 2
    wall = rng.integers(30, 225, (height // stone, columns, 3)).repeat(stone, 0).repeat(stone, 1)
    found = []
    for at in range(count):
        view = wall[:, round(speed * at) :][:, :width]
        found.append((view + rng.normal(0, 2, view.shape)).clip(0, 255).astype(np.uint8))
    return found


def dissolve(first: Images, second: Images, length: int) -> Images:
    shares = np.linspace(0, 1, length)
    mixed = [
        (a * (1 - share) + b * share).astype(np.uint8)
        for a, b, share in zip(first[-length:], second[:length], shares, strict=True)
    ]
    return [*first[:-length], *mixed, *second[length:]]


def fade(first: Images, second: Images, length: int) -> Images:
    shares = np.linspace(1, 0, length)
    out = [(a * share).astype(np.uint8) for a, share in zip(first[-length:], shares, strict=True)]
    back = [(b * share).astype(np.uint8) for b, share in zip(second[:length], shares[::-1], strict=True)]
    return [*first[:-length], *out, *back, *second[length:]]


def begins_of(frames: list[Frame]) -> list[int]:
    """The indices of frames at which a shot begins, but for the first one."""
    numbers = [frame.shot for frame in frames]
    assert numbers[0] == 0
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(numbers))
    return [at for at in range(1, len(numbers)) if numbers[at] != numbers[at - 1]]
