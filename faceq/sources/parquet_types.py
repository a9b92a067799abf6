"""Which types of Parquet columns may hold images."""

import pyarrow as pa

from faceq.sources import arrays

_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_LIST_VIEWS = (pa.types.is_list_view, pa.types.is_large_list_view)
_BINARY = (
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
)
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def could_hold_images(kind: pa.DataType) -> bool:
    """Whether values of this type may be encoded images.

    That is the case for binary values, lists of bytes, Hugging Face's struct of `bytes` and `path`, and lists
    of any of these.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return could_hold_images(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return could_hold_images(kind.value_type)
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and could_hold_images(kind.field(index).type)
    if any(is_kind(kind) for is_kind in _LISTS):
        return is_byte(kind.value_type) or could_hold_images(kind.value_type)
    return is_bytes(kind)


def is_plain(kind: pa.DataType) -> bool:
    """Whether an array of this type stores every value separately in memory, even repeated ones."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def is_byte(kind: pa.DataType) -> bool:
    """Whether a list of this type may be bytes."""
    return bool(pa.types.is_uint8(kind) or pa.types.is_int8(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes."""
    return any(is_kind(kind) for is_kind in _BINARY)


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are text."""
    return any(is_kind(kind) for is_kind in _TEXT)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists, of any kind that Arrow has."""
    return any(is_kind(kind) for is_kind in (*_LISTS, *_LIST_VIEWS))


def numbers_in(kind: pa.DataType) -> tuple[int, pa.DataType] | None:
    """The number of axes and the type of the numbers, if values of this type are arrays of numbers."""
    if arrays.is_tensor(kind):
        return len(kind.shape), kind.value_type
    if isinstance(kind, pa.BaseExtensionType):
        return numbers_in(kind.storage_type)
    axes = 0
    while is_list(kind):
        axes, kind = axes + 1, kind.value_type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return (axes, kind) if axes and is_number else None
