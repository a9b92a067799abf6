"""What is raised when a video cannot be read whole."""


class DamagedError(Exception):
    """A video of which frames are missing. The message says which and why, for people."""
