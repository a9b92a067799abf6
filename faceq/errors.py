"""Error classes. Every error class of faceq derives from FaceqError.

The classes in this module are public: when a command or a function of the public API fails, it raises one of
them, and each has an exit status. The rule:

- 2 (UsageError and its subclasses): change the command line, the configuration, the query or the input.
  Something does not exist, has the wrong type, is out of range, or does not match the existing table.
- 1 (JobError and its subclasses): the command is right. It works unchanged once something outside it is
  fixed: disk space, permissions, credentials, the network, a damaged file.
"""

from typing import ClassVar

from faceq.messages.masking import mask


class FaceqError(Exception):
    """Base class of all errors that faceq raises on purpose.

    The message is one line. Secrets in it are masked, so it is safe to print in a terminal, in a log or in
    another process.

    Args:
        values: The message, as the first value.
    """

    exit_status: ClassVar[int] = 1
    """Exit status of a command that ends with this error: 1, or 2 if the command itself must be changed."""

    def __init__(self, *values: object):
        super().__init__(*(mask(value) if isinstance(value, str) else value for value in values))


class UsageError(FaceqError, ValueError):
    """The command, the configuration, an input or an output is not usable as given: exit status 2."""

    exit_status = 2


class JobError(FaceqError, RuntimeError):
    """The command is valid, but the job failed: exit status 1."""


class StorageError(JobError):
    """A disk or an object store failed: exit status 1. It is full or down, denies access, or a file on it is
    damaged."""


class ModelError(JobError):
    """A model cannot be downloaded. The message names every source that was tried, each with its error."""


class LicenceError(UsageError):
    """A model's licence has not been accepted. The message contains the terms and says how to accept them."""


class ModelFileError(UsageError):
    """A file is not the expected kind of model. The message names the file and what it lacks."""


class DeviceError(UsageError):
    """CUDA, OpenVINO or bf16 was requested but is not available. The message says why, and what to do."""


class UnreadableError(FaceqError, ValueError):
    """A frame cannot be decoded. The message says why.

    The decoding stage catches it: the frame becomes a row with the status `unreadable`.
    """
