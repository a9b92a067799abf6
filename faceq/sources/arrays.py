"""Images that a Parquet shard stores as pixels instead of encoded bytes.

The pixels are RGB, or grey, of type uint8. They are packed without loss for the stages, like video frames.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from faceq.errors import UnreadableError
from faceq.sources.decode import packed

_CHANNELS = (1, 3)
_AXES = {
    **dict.fromkeys(("h", "height", "y", "rows"), "h"),
    **dict.fromkeys(("w", "width", "x", "columns"), "w"),
    **dict.fromkeys(("c", "ch", "channel", "channels"), "c"),
}
_ADVICE = "store the encoded image (such as a PNG) instead, or the pixels as height x width x 3"


@dataclass(frozen=True)
class Pixels:
    """The pixels of one image in an Arrow value.

    value: nested lists of uint8, or a value of `arrow.fixed_shape_tensor`. index: of the image in an array of
    several images, whose first axis counts them.
    """

    value: pa.Scalar
    index: int | None = None

    @property
    def size(self) -> int:
        """Bytes of the image as RGB; of all samples, if they are not an image."""
        try:
            return int(self._rgb.size)
        except UnreadableError:
            return len(_leaf(self.value))

    @property
    def is_colour(self) -> bool:
        """Whether these are an image of several axes: an array of two axes may have another meaning."""
        try:
            return _array(self.value)[0].ndim > 2 and self._rgb.size > 0
        except UnreadableError:
            return False

    def encoded(self) -> bytes:
        """The image for `decode`. Raises UnreadableError if these are not the pixels of an image."""
        return packed.pack(self._rgb)

    @functools.cached_property
    def _rgb(self) -> np.ndarray:
        array, axes = _array(self.value)
        if self.index is not None:
            array, axes = array[self.index], axes and axes[1:]
        return as_rgb(array, axes)


@dataclass(frozen=True)
class FlatPixels:
    """The pixels of one image as bytes, in C order, whose shape other columns state.

    shape: of the array. axes: as for `as_rgb`; those of (height, width) may lack the channels.
    """

    content: pa.Buffer | bytes
    shape: tuple[int, ...]
    axes: tuple[str, ...] | None = None

    @property
    def is_colour(self) -> bool:
        """Whether the bytes have this shape, and it is that of an image."""
        try:
            return self._rgb.size > 0
        except UnreadableError:
            return False

    @property
    def size(self) -> int:
        """Bytes of the image as RGB; of the samples, if they are not an image."""
        try:
            return int(self._rgb.size)
        except UnreadableError:
            return len(self.content)

    def encoded(self) -> bytes:
        """The image for `decode`. Raises UnreadableError if the bytes do not have this shape."""
        return packed.pack(self._rgb)

    @functools.cached_property
    def _rgb(self) -> np.ndarray:
        samples = np.frombuffer(self.content, np.uint8)
        shape, axes = self.shape, self.axes
        if axes == ("h", "w") and samples.size == 3 * math.prod(shape):
            shape, axes = (*shape, 3), ("h", "w", "c")
        if min(shape, default=0) < 1 or math.prod(shape) != samples.size:
            raise UnreadableError(
                f"its {samples.size} bytes are no image file, and not the pixels of the shape "
                f"{_text(self.shape)} that the other columns state: {_ADVICE}"
            )
        return as_rgb(samples.reshape(shape), axes)


def as_rgb(array: np.ndarray, axes: Sequence[str] | None = None) -> np.ndarray:
    """The pixels as (H, W, 3) uint8, a view of the array.

    The channels are the last axis (H, W, C) or the first one (C, H, W), of 1 or 3 channels. An array of two
    axes is grey.

    Args:
        array: uint8.
        axes: `h`, `w` and `c` in the order of the array's axes, if they are known.

    Raises:
        UnreadableError: the shape is not that of an image, or it does not tell which axis has the channels.
    """
    shape = _text(array.shape)
    if not array.size:
        raise UnreadableError(f"the image has no pixels: its shape is {shape}")
    if array.ndim == 2 and axes is not None and sorted(axes) == ["h", "w"]:
        array = array.transpose([axes.index(axis) for axis in "hw"])
    if array.ndim == 2:
        return np.broadcast_to(array[:, :, None], (*array.shape, 3))
    if array.ndim != 3:
        raise UnreadableError(f"an array of the shape {shape} is not an image: {_ADVICE}")
    if axes is not None and sorted(axes) == ["c", "h", "w"]:
        array = array.transpose([axes.index(axis) for axis in "hwc"])
    else:
        last, first = array.shape[2] in _CHANNELS, array.shape[0] in _CHANNELS
        if last and first:
            raise UnreadableError(
                f"the shape {shape} does not tell whether the first or the last axis has the channels: "
                "store the encoded image (such as a PNG) instead, or an `arrow.fixed_shape_tensor` with "
                "`dim_names` H, W and C"
            )
        array = array.transpose(1, 2, 0) if first else array
    if array.shape[2] not in _CHANNELS:
        raise UnreadableError(f"the shape {shape} has no axis of 1 or 3 channels: {_ADVICE}")
    return np.broadcast_to(array, (*array.shape[:2], 3))


def is_tensor(kind: pa.DataType) -> bool:
    """Whether values of this type are arrays of a fixed shape."""
    return isinstance(kind, pa.FixedShapeTensorType)


def is_pixels(kind: pa.FixedShapeTensorType) -> bool:
    """Whether tensors of this type may be images. One axis is not enough: it may be an encoded image."""
    return bool(pa.types.is_uint8(kind.value_type)) and len(kind.shape) > 1


def images_in_tensor(kind: pa.FixedShapeTensorType) -> int | None:
    """The number of images in a tensor of four axes, of which the first one counts them; None for others."""
    first = kind.permutation[0] if kind.permutation else 0
    return int(kind.shape[first]) if len(kind.shape) == 4 else None


def _array(value: pa.Scalar) -> tuple[np.ndarray, list[str] | None]:
    """The samples and, if they are named, the axes. Raises UnreadableError: ragged lists, nulls."""
    if isinstance(value, pa.FixedShapeTensorScalar):
        kind = value.type
        samples = _samples(_leaf(value)).reshape(kind.shape)
        names = [_AXES.get(name.lower(), name) for name in kind.dim_names or ()]
        order = kind.permutation or list(range(samples.ndim))
        return samples.transpose(order), [names[axis] for axis in order] if names else None
    shape = [len(value.values)]
    values = value.values
    while not pa.types.is_uint8(values.type):
        lengths = pc.min_max(pc.list_value_length(values))
        least, most = lengths["min"].as_py(), lengths["max"].as_py()
        if values.null_count:
            raise UnreadableError(f"its array of pixels contains nulls: {_ADVICE}")
        if least != most:
            raise UnreadableError(
                f"its rows of pixels have different lengths ({least} to {most}): they are no image: {_ADVICE}"
            )
        shape.append(most or 0)
        values = values.flatten()
    return _samples(values).reshape(shape), None


def _samples(values: pa.Array) -> np.ndarray:
    if values.null_count:
        raise UnreadableError(f"its array of pixels contains nulls: {_ADVICE}")
    return np.asarray(values.to_numpy(zero_copy_only=True))


def _leaf(value: Any) -> pa.Array:
    """All samples of a value."""
    values = value.value.values if isinstance(value, pa.ExtensionScalar) else value.values
    while not pa.types.is_uint8(values.type):
        values = values.flatten()
    return values


def _text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
