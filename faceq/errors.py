"""Errors. Every error class of faceq derives from FaceqError.

The kinds in this module are the public ones: a command or a function of the public API ends with one of them,
and each has an exit status. The rule:

- 2 (UsageError and its kinds): the command line, the configuration, the query or the input has to be changed.
  Something has no such name, is of the wrong kind, is out of range, or does not fit the table that is there.
- 1 (JobError and its kinds): the command is right. It works as it stands once something outside it is put
  right: room on a disk, permissions, credentials, a network, a damaged file.
"""

from typing import ClassVar

from faceq.messages.masking import mask


class FaceqError(Exception):
    """Base of all errors that faceq raises on purpose.

    The message is one line for people. It holds no secrets, wherever it is printed: on a terminal, in a log,
    in another process.
    """

    exit_status: ClassVar[int] = 1
    """The status that a command ends with: 1, or 2 if the command itself has to be changed."""

    def __init__(self, *values: object):
        super().__init__(*(mask(value) if isinstance(value, str) else value for value in values))


class UsageError(FaceqError, ValueError):
    """The command, the configuration, an input or an output is not usable as given: exit status 2."""

    exit_status = 2


class JobError(FaceqError, RuntimeError):
    """The job was well asked for and could not be done: exit status 1."""


class StorageError(JobError):
    """A disk or a store fails: it is full or down, denies access, or a file is damaged: exit status 1."""


class ModelError(JobError):
    """A model cannot be downloaded; the message names every source that was tried and what it answered."""


class LicenceError(UsageError):
    """A model's licence has not been accepted; the message holds its terms, and how to accept."""


class ModelFileError(UsageError):
    """A file that is not the model it should be; the message names it and what it lacks."""


class DeviceError(UsageError):
    """CUDA was asked for and cannot be had; the message says why, and what to install."""


class UnreadableError(FaceqError, ValueError):
    """A frame that gives no pixels; the message says why.

    It is raised and caught while frames are decoded: the frame becomes a row with the status `unreadable`.
    """
