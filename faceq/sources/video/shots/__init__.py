"""Find the shots of a video, in one of several ways, while it is read."""

import functools

from faceq.models.fetch import FetchOptions, fetch
from faceq.sources.video.shots.content import Content
from faceq.sources.video.shots.finder import Finder
from faceq.sources.video.shots.numbering import numbered

__all__ = ["Finder", "find_by", "numbered"]


@functools.cache
def find_by(method: str, options: FetchOptions | None = None) -> Finder | None:
    """What finds shots by a method, a value of `video.shots`; None for `none`.

    Raises like `faceq.models.fetch.fetch`, if the method has a model.
    """
    if method == "transnetv2":
        # onnx takes a while to import.
        from faceq.sources.video.shots.transnetv2 import MODEL, TransNet  # noqa: PLC0415

        return TransNet(fetch(MODEL, options))
    return Content() if method == "content" else None
