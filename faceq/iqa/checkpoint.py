"""Which network a quality checkpoint contains, DB-CNN-Lite or published DB-CNN, and on which scale."""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from faceq.errors import ModelFileError

NORMAL = (-50.0, 150.0)
"""Plausible range of unclipped scores if the scale of a checkpoint is right. Scores are not bounded and may
be somewhat outside 0...100."""

MIN_SPREAD = 2.0
"""If all scores of a checkpoint are within this many points of 0, its scale is smaller than assumed."""

MIN_FACES = 3
"""Minimum number of scores to decide that a scale is wrong: a single face may be unlike all rated images."""


@dataclass(frozen=True)
class Checkpoint:
    """A file with the weights of DB-CNN-Lite or of published DB-CNN.

    path: the file. published: whether it contains published DB-CNN. best: the best score on its own scale.
    """

    path: Path
    published: bool
    best: float


def identify(path: Path, best: float | None = None) -> Checkpoint:
    """Find out which network a checkpoint contains, by its keys.

    Args:
        path: the checkpoint.
        best: the best score on the scale of a published DB-CNN. None: 1, as in pyiqa's current files.

    Raises:
        ModelFileError: the file is neither of them, or `best` is not the scale of DB-CNN-Lite.
    """
    keys = _keys(path)
    if "semantic.stem.0.weight" in keys:
        if best not in (None, 100):
            raise ModelFileError(
                f"{path}: is DB-CNN-Lite, whose scale is always 0 to 100: remove quality_scale"
            )
        return Checkpoint(path, published=False, best=100.0)
    if "features1.0.weight" in keys:
        return Checkpoint(path, published=True, best=best or 1.0)
    raise ModelFileError(
        f"{path}: is neither DB-CNN-Lite, which has the key semantic.stem.0.weight, nor published DB-CNN, "
        f"which has features1.0.weight: this file has {_some(keys)}"
    )


def _keys(path: Path) -> Collection[str]:
    if path.suffix == ".safetensors" and path.is_file():
        with contextlib.suppress(SafetensorError), safe_open(path, "np") as file:
            return {key.removeprefix("module.") for key in file.keys()}  # noqa: SIM118 - not a mapping
    # Without torch, DB-CNN-Lite loads a second sooner.
    from faceq.iqa.dbcnn_vgg import read_state  # noqa: PLC0415

    with file_errors(path):
        return read_state(path).keys()


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn the errors of loading published DB-CNN into ModelFileError."""
    try:
        yield
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: {str(error).removeprefix(f'dbcnn: {path} ')}") from None


def _some(keys: Collection[str]) -> str:
    names = sorted(keys)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "nothing"


def probes(side: int) -> np.ndarray:
    """Test images to check the scale of a checkpoint: a colour ramp, a bright oval on a ramp, and noise.

    Returns:
        (3, side, side, 3) uint8 RGB.
    """
    y, x = np.mgrid[0:side, 0:side] / (side - 1)
    ramp = 255 * np.stack([x, y, (x + y) / 2], axis=2)
    inside = ((x - 0.5) / 0.3) ** 2 + ((y - 0.5) / 0.4) ** 2 < 1
    oval = np.where(inside[..., None], [220, 180, 150], ramp / 2)
    noise = np.random.default_rng(0).integers(0, 256, ramp.shape)
    return np.stack([ramp, oval, noise]).astype(np.uint8)


def check_scale(points: np.ndarray, checkpoint: Checkpoint, name: str, both_sides: bool = True) -> None:
    """Check that a checkpoint's scores are on the assumed scale.

    Args:
        points: (N,) scores of different images on faceq's scale, 0...100, not clipped.
        checkpoint, name: the checkpoint of the network that gave them, and the network's name.
        both_sides: also treat scores that are all close to 0 as wrong. Faces can be so bad, `probes` cannot.

    Raises:
        ModelFileError: all scores are outside NORMAL or, with `both_sides`, within MIN_SPREAD of 0.
    """
    if len(points) < MIN_FACES:
        return
    low, high = NORMAL
    outside = ((points < low) | (points > high) | ~np.isfinite(points)).all()
    if not outside and not (both_sides and (np.abs(points) < MIN_SPREAD).all()):
        return
    remedy = (
        "set quality_scale to the best possible rating in its training data (usually 1 or 100)"
        if checkpoint.published
        else "use a DB-CNN-Lite that was trained on ratings of this scale"
    )
    own = points * (checkpoint.best / 100)
    raise ModelFileError(
        f"{name}: its scores are {own.min():.4g} to {own.max():.4g}, but the assumed scale is 0 to "
        f"{checkpoint.best:g}: {remedy}"
    )
