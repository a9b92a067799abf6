"""The two ways in which a whole job goes wrong. (A bad frame is not an error: it is a row.)"""


class UsageError(ValueError):
    """The command, the configuration, an input or an output is not usable as given: exit status 2."""


class JobError(RuntimeError):
    """The job was well asked for and could not be done: exit status 1."""
