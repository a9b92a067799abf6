"""The errors of compressed data."""

from faceq.errors import FaceqError

CUT = "Compressed file ended before the end-of-stream marker was reached"
"""The message of Python's gzip module, used for all formats."""


class UnpackError(FaceqError):
    """Compressed data that are damaged, or whose decoder needs more memory than allowed."""
