"""The error for videos that cannot be read completely."""

from faceq.errors import FaceqError


class DamagedError(FaceqError):
    """Frames of a video are missing. The message says which ones, why, and what to do."""
