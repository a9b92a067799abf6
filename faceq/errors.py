"""The two ways in which a whole job goes wrong, and that in which a frame does, which is a row of the job."""


class UsageError(ValueError):
    """The command, the configuration, an input or an output is not usable as given: exit status 2."""


class JobError(RuntimeError):
    """The job was well asked for and could not be done: exit status 1."""


class UnreadableError(ValueError):
    """A frame that gives no pixels; the message says why."""
