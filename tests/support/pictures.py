"""Images as files."""

import io
from typing import Any

from PIL import Image


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file of Pillow's format `kind`. `options` are those of `Image.save`."""
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()
