"""The two ways in which a whole job goes wrong, and that in which a frame does, which is a row of the job."""

from faceq.masking import mask


class MaskedError(Exception):
    """An error whose message holds no secrets, wherever it is printed: a terminal, a log, another process."""

    def __init__(self, *values: object):
        super().__init__(*(mask(value) if isinstance(value, str) else value for value in values))


class UsageError(MaskedError, ValueError):
    """The command, the configuration, an input or an output is not usable as given: exit status 2."""


class JobError(MaskedError, RuntimeError):
    """The job was well asked for and could not be done: exit status 1."""


class UnreadableError(MaskedError, ValueError):
    """A frame that gives no pixels; the message says why."""
