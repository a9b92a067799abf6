"""Find the column of a Parquet file that has an encoded image in each row, by type, name and content."""

from collections.abc import Iterable

import pyarrow as pa

from faceq.errors import FaceqError
from faceq.sources.kinds import Kind
from faceq.sources.parquet_types import could_hold_images, is_text
from faceq.sources.parquet_values import only_image_in
from faceq.sources.sniff import ENOUGH, kind_of_bytes

_OF_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes")
IMAGE_COLUMNS = (*_OF_IMAGES, "bytes", "content", "data")
"""Names that identify the image column if several columns could contain images, in order of precedence."""

VIDEO_COLUMNS = ("video", "mp4", "clip", "mov", "webm", "mkv", "avi")
"""Names that identify a column with videos if no column is one of images, in order of precedence."""

KEY_COLUMNS = ("key", "id", "path")
"""Columns with the names of frames. The first one that a file has is used, or else the row number."""

PROBED = 64
"""Number of first rows whose content is checked to find the image column if names are not enough."""


class NoImageColumnError(FaceqError, pa.ArrowInvalid):
    """It cannot be determined which column has the images."""


def named(schema: pa.Schema) -> str | None:
    """The column with the images or videos, if types and names are enough to find it; None if the content
    must be checked.

    Raises:
        NoImageColumnError: no column can contain images.
    """
    candidates = [field.name for field in schema if could_hold_images(field.type)]
    known = [name for name in IMAGE_COLUMNS if name in candidates]
    videos = [name for name in VIDEO_COLUMNS if name in candidates]
    if len(known) == 1 and not (videos and known[0] not in _OF_IMAGES):
        return known[0]
    # If a column called `image` contains text, it is the one that was meant: other binary columns are not
    # images.
    others = [name for name in IMAGE_COLUMNS[:2] if name in schema.names and name not in candidates]
    if not candidates or (others and not known):
        raise NoImageColumnError(_no_column(schema, others))
    return videos[0] if videos and len(candidates) == 1 else None


def _no_column(schema: pa.Schema, named: list[str]) -> str:
    columns = ", ".join(f"{field.name} ({_short(field.type)})" for field in schema) or "none"
    listed = columns if len(columns) < 120 else f"{columns[:117]}…"
    said = f"no binary column with images: the columns are {listed}"
    text = [
        name
        for name in schema.names
        if name in (*named, *IMAGE_COLUMNS, *KEY_COLUMNS) and is_text(schema.field(name).type)
    ]
    if text:
        return (
            f"{said}: `{text[0]}` is text: if it contains paths, list the files in a manifest (--manifest); "
            "otherwise store the encoded images themselves in a binary column `image`"
        )
    return f"{said}: store the encoded images in a binary column `image`"


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 30 else f"{text[:27]}…"


def by_bytes(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> str:
    """Find the column with the images by its first values; if no column has images, the one with videos.

    Args:
        batches: rows of all columns that could contain images; they are consumed until PROBED rows are seen.

    Raises:
        NoImageColumnError: no column contains images or videos, or several do and none of them has a known
            name.
    """
    candidates = [field.name for field in schema if could_hold_images(field.type)]
    starts: dict[str, list[bytes]] = {name: [] for name in candidates}
    rows = 0
    for batch in batches:
        for name in candidates:
            found = (only_image_in(value).image for value in batch[name])
            starts[name] += [bytes(memoryview(image)[:ENOUGH]) for image in found if image is not None]
        rows += len(batch)
        if rows >= PROBED:
            break
    images = [name for name in candidates if _are_mostly(starts[name], "picture")]
    if not images and not any(name in _OF_IMAGES for name in candidates):
        videos = [name for name in candidates if _are_mostly(starts[name], "video")]
        titled = [name for name in (*VIDEO_COLUMNS, *IMAGE_COLUMNS) if name in videos]
        if len(videos) == 1 or titled:
            return titled[0] if titled else videos[0]
    known = [name for name in IMAGE_COLUMNS if name in (images or candidates)]
    if len(images) == 1 or known:
        return known[0] if known else images[0]
    if images:
        which = f"several columns contain images ({', '.join(images)})"
    elif len(candidates) == 1:
        which = f"the first values of the only binary column ({candidates[0]}) are not images"
    else:
        which = f"the first values of all binary columns ({', '.join(candidates)}) are not images"
    raise NoImageColumnError(
        f"{which}; the columns are {', '.join(schema.names)}: rename the column to read to `image`"
    )


def _are_mostly(starts: list[bytes], kind: Kind) -> bool:
    return 2 * sum(kind_of_bytes(start) == kind for start in starts) > len(starts)
