"""Where the face of a clip is: a square that follows it smoothly."""

from dataclasses import dataclass

import numpy as np

from faceq.faces.face_square import MARGIN, relative_side

_POSITION_S, _SIZE_S = 0.5, 2.0
"""Full widths at half maximum of the Gaussians that smooth the position and the size, in seconds. The size
needs a longer one: a crop that grows and shrinks with the noise of the detector is more disturbing than one
that is slightly too large or too small."""

_RATE = 50
"""Places per second at which the path is computed. It is interpolated between them."""

_FWHM = 2 * np.sqrt(2 * np.log(2))


@dataclass(frozen=True, slots=True)
class FacePath:
    """The path of the square. times: (N,) seconds; squares: (N, 3) centre x, centre y and side in pixels."""

    times: np.ndarray
    squares: np.ndarray

    def at(self, time: float) -> tuple[float, float, float]:
        """Centre x, centre y and side of the square at a time."""
        x, y, side = (float(np.interp(time, self.times, values)) for values in self.squares.T)
        return x, y, side

    @property
    def usual_side(self) -> float:
        """The median of the side."""
        return float(np.median(self.squares[:, 2]))


def path_of(start: float, end: float, times: np.ndarray, boxes: np.ndarray) -> FacePath | None:
    """The path of the face in a clip; None if no frame has a face.

    Centre and size of the boxes are interpolated linearly between frames with a face, then smoothed with a
    Gaussian without delay. At both ends the path is continued by point reflection, so that a moving face is
    not left behind.

    Args:
        start, end: times of the first and the last frame, seconds.
        times: (N,) times of the frames with a face, ascending.
        boxes: (N, 4) their boxes: x, y, width, height in pixels.
    """
    if not len(times):
        return None
    times, first = np.unique(times, return_index=True)
    x, y, width, height = boxes[first].astype(np.float64).T
    grid = np.linspace(start, end, max(1, round((end - start) * _RATE)) + 1)
    step = (end - start) / max(1, len(grid) - 1)
    found = [
        _smooth(np.interp(grid, times, values), seconds / step if step else 0)
        for values, seconds in (
            (x + width / 2, _POSITION_S),
            (y + height / 2, _POSITION_S),
            (np.maximum(width, height), _SIZE_S),
        )
    ]
    found[2] = relative_side(MARGIN) * np.maximum(found[2], 1)
    return FacePath(grid, np.stack(found, 1))


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    """Smooth with a Gaussian whose full width at half maximum is `width` values."""
    sigma = width / _FWHM
    reach = min(int(3 * sigma), len(values) - 1)
    if reach < 1:
        return values
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    before = 2 * values[0] - values[reach:0:-1]
    after = 2 * values[-1] - values[-2 : -reach - 2 : -1]
    return np.convolve(np.concatenate([before, values, after]), kernel / kernel.sum(), "valid")
