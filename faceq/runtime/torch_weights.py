"""Read the weights in a file of `torch.save`, without torch, whose import takes a second and 150 MB.

Such a file is a zip archive: a pickle, and one member for the values of each tensor.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_KINDS = {"FloatStorage": np.float32, "LongStorage": np.int64}


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors in a file, by name. Only float32 and int64 tensors whose values are in order are supported.

    Nothing that the pickle names is called, except for what tensors consist of.

    Raises:
        ValueError: the file is not one of `torch.save`, or contains something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [each for each in archive.namelist() if each.endswith("/data.pkl")]
            found = _Unpickler(archive, name.removesuffix("data.pkl")).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"is not a file of torch.save ({type(error).__name__}: {error})") from None
    if not isinstance(found, dict) or not all(isinstance(each, np.ndarray) for each in found.values()):
        raise ValueError("contains something else than tensors")
    return found


class _Unpickler(pickle.Unpickler):
    """Reads the pickle in an archive. `folder`: the beginning of its members' names."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive = archive
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _KINDS:
            return _KINDS[name]
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The values of a tensor, from (`storage`, type, key, device, number of values)."""
        _, kind, key, *_ = pid
        return np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), kind)


def _tensor(
    values: np.ndarray, start: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    expected = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    if list(strides) != expected:
        raise ValueError("contains a tensor whose values are not in order")
    return values[start : start + int(np.prod(shape))].reshape(shape)
