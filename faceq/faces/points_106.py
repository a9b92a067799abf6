"""insightface's network of 106 landmarks in ONNX Runtime."""

from pathlib import Path

import numpy as np
import onnx

from faceq.runtime.onnx_runtime import ModelFileError, read, session
from faceq.runtime.uint8_input import NAME, free_inputs, sides, take_uint8

POINTS_106_SIZE = 192
"""Side of the network's input, in pixels."""

_NORMALISES_INSIDE = (("Sub", "_minus"), ("Mul", "_mul"))


class Points106Session:
    """The network, with the normalisation of insightface's class `Landmark`.

    Raises:
        ModelFileError: the file is not a network of 106 landmarks.
    """

    shape = (POINTS_106_SIZE, POINTS_106_SIZE)

    def __init__(self, path: Path, device: str = "cpu", threads: int = 1):
        model = read(path)
        taken = [sides(each) for each in free_inputs(model)]
        if len(taken) != 1 or taken[0][1:] != [3, POINTS_106_SIZE, POINTS_106_SIZE]:
            raise ModelFileError(
                f"{path}: has inputs {', '.join(map(str, taken))}: a landmark model has one input "
                "(N, 3, 192, 192)"
            )
        take_uint8(model, *((0.0, 1.0) if _normalises(model) else (127.5, 1 / 128)))
        self._session = session(path, model, device, threads)
        given = self._session.get_outputs()
        if len(given) != 1 or list(given[0].shape[1:]) != [212]:
            raise ModelFileError(
                f"{path}: has outputs {', '.join(str(each.shape) for each in given)}: a model of 106 "
                "landmarks has one output (N, 212)"
            )

    def __call__(self, crop: np.ndarray) -> np.ndarray:
        """The landmarks (106, 2) float32, in pixels of a crop (192, 192, 3) uint8 RGB."""
        return self.answer(*self.batch(crop[None])[0])

    def batch(self, crops: np.ndarray) -> tuple[np.ndarray, ...]:
        """The network's output, (N, 212), for crops (N, 192, 192, 3)."""
        return tuple(self._session.run(None, {NAME: crops}))

    def answer(self, found: np.ndarray) -> np.ndarray:
        """The landmarks for one crop from its output (212,)."""
        points: np.ndarray = (found.reshape(-1, 2) + np.float32(1)) * np.float32(POINTS_106_SIZE // 2)
        return points


def _normalises(model: onnx.ModelProto) -> bool:
    """Whether the network normalises its input, by the names of its first nodes, as insightface decides."""
    names = [node.name for node in model.graph.node[:8]]
    inside = all(any(name.startswith(kind) for name in names) for kind in _NORMALISES_INSIDE)
    return inside or "bn_data" in names[:3]
