"""What is raised when a video cannot be read whole."""

from faceq.errors import FaceqError


class DamagedError(FaceqError):
    """A video of which frames are missing. The message says which and why, for people."""
