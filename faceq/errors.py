"""What goes wrong with a whole command, and with a frame.

Every error that a command ends with is a FaceqError, and each kind has an exit status. The rule:

- 2 (UsageError): the command line, the configuration, the query or the input has to be changed. Something has
  no such name, is of the wrong kind, is out of range, or does not fit the table that is there.
- 1 (JobError, StorageError): the command is right. It works as it stands once something outside it is put
  right: room on a disk, permissions, credentials, a network, a damaged file.
"""

from typing import ClassVar

from faceq.messages.masking import mask


class MaskedError(Exception):
    """An error whose message holds no secrets, wherever it is printed: a terminal, a log, another process."""

    def __init__(self, *values: object):
        super().__init__(*(mask(value) if isinstance(value, str) else value for value in values))


class FaceqError(MaskedError):
    """Base of all errors that faceq raises on purpose; the message is one line for people."""

    exit_status: ClassVar[int] = 1


class UsageError(FaceqError, ValueError):
    """The command, the configuration, an input or an output is not usable as given: exit status 2."""

    exit_status = 2


class JobError(FaceqError, RuntimeError):
    """The job was well asked for and could not be done: exit status 1."""


class StorageError(JobError):
    """A disk or a store fails: it is full or down, denies access, or a file is damaged: exit status 1."""


class UnreadableError(MaskedError, ValueError):
    """A frame that gives no pixels; the message says why."""
