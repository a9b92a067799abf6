"""Classify storage errors: missing object, no permission, archived object, or outage.

The file systems of other stores raise errors in the form of S3 (see `faceq.storage.answers`).

s3fs maps some ninety error codes of S3 to a few subclasses of OSError (EINVAL alone stands for thirty-five
codes), but keeps the response of S3 as the cause. The code in that response tells the errors apart.
"""

import errno
from dataclasses import dataclass
from typing import Literal

import fsspec

from faceq.errors import FaceqError, StorageError, UsageError
from faceq.messages.one_line import one_line
from faceq.storage.answers import START_AGAIN, answer_of, code_of, part_of
from faceq.storage.filesystem import is_storage_error

Kind = Literal["empty", "missing", "forbidden", "archived", "outage"]

_EMPTY = {"InvalidRange", "416"}
"""Error codes of a request for the first byte of an empty object."""

_MISSING = {"NoSuchKey", "NoSuchVersion", "404"}
_ARCHIVED = "InvalidObjectState"
_WRONG_REGION = {
    *("PermanentRedirect", "TemporaryRedirect", "Redirect", "301", "307", "308"),
    *("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
}
_CREDENTIALS = {
    *("ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("NotSignedUp", "InvalidSecurity", "CredentialsNotSupported", "MissingSecurityElement"),
    *("MissingSecurityHeader", "InvalidPayer", "AccountProblem"),
}
_CLOCK = {"RequestTimeTooSkewed"}
_CHANGED = {"PreconditionFailed", "412"}
_BUSY = {
    *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted"),
    *("408", "409", "429", "500", "502", "503", "504"),
}
_ADVICE = (
    (_CREDENTIALS, "renew or correct the credentials"),
    (_CLOCK, "set this machine's clock"),
    (_CHANGED, f"the object was replaced during the read: {START_AGAIN}"),
    (_BUSY, "the storage is busy or down: try again later"),
)
_WRONG_NAME = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""The path itself cannot be read or written: the user must give another one."""

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")


@dataclass(frozen=True, slots=True)
class Fault:
    """A classified storage error. text: one line that says what happened and what to do about it."""

    kind: Kind
    text: str


def failure(what: str, error: BaseException) -> FaceqError:
    """The error to raise when the storage of a command's input or output fails.

    Args:
        what: the place, and what could not be done there: `s3://b/t: cannot be written`.
        error: the error of the storage.

    Returns:
        A UsageError if the path itself is wrong, otherwise a StorageError.
    """
    inner = getattr(error, "error", None)  # set by `folders.UnlistedError`, which names the folder itself
    cause = inner if isinstance(inner, Exception) else error
    number = cause.errno if isinstance(cause, OSError) else None
    kind = UsageError if number in _WRONG_NAME or isinstance(cause, FileNotFoundError) else StorageError
    text = f"{what}: {_reason_with_file(error)}"
    if number in _DISK_FULL:
        text += ": free some space, then run the same command again"
    else:
        advice = _advice(code_of(cause), cause)
        text += f": {advice}" if advice else ""
    return kind(text)


def _reason_with_file(error: BaseException) -> str:
    """The message of the storage, preceded by the name of the local file or of the unlisted folder."""
    if inner := getattr(error, "error", None):
        return f"{getattr(error, 'folder', '')}: {_reason_with_file(inner)}"
    reason = reason_of(error)
    name = error.filename if isinstance(error, OSError) else None
    return f"{name}: {reason}" if isinstance(name, str) and name not in reason else reason


def fault_of(error: BaseException) -> Fault | None:
    """Classify a storage error. None if the storage worked and the error is in the content.

    empty: the object has no bytes. missing: there is no object of that name. forbidden: this object may not
    be read. archived: it must be restored first. outage: everything else, such as expired credentials, a
    wrong region or a storage that is down; other objects probably cannot be read either.
    """
    if not is_storage_error(error):
        return None
    code = code_of(error)
    if code in _EMPTY:
        return Fault("empty", "the object is empty (0 bytes)")
    if code in _MISSING or (not code and isinstance(error, FileNotFoundError)):
        return Fault("missing", "there is no such file or object")
    if code == _ARCHIVED:
        tier = part_of(error, "StorageClass")
        where = f" in the storage class {tier}" if tier else ""
        return Fault("archived", f"the object is archived{where}: restore it, then try again")
    general = code in _CREDENTIALS | _CLOCK | _WRONG_REGION
    denied = isinstance(error, PermissionError) and not general
    what = "access denied" if denied else "could not be read"
    advice = _advice(code, error)
    return Fault(
        "forbidden" if denied else "outage",
        f"{what}: {reason_of(error)}{f': {advice}' if advice else ''}",
    )


def detailed_error(error: Exception, files: fsspec.AbstractFileSystem, path: str) -> Exception:
    """The error of a request to S3, or a more detailed error for the same object.

    A HEAD request, which checks whether an object exists, fails with a bare HTTP status: 400 for an expired
    token. A GET request for the same object returns the error code too.
    """
    if not code_of(error).isdigit() or "ResponseMetadata" not in answer_of(error):
        return error  # not from S3: other stores send their message with every response
    try:
        files.cat_file(path, 0, 1)
    except Exception as detailed:
        return detailed if code_of(detailed) else error
    return error


def reason_of(error: BaseException) -> str:
    """The message of the storage on one line, with the S3 error code; the type of an error without a
    message."""
    if type(error).__name__ == "NoCredentialsError":
        return "no AWS credentials were found"
    of_system = isinstance(error, OSError) and error.strerror
    text = one_line(error if of_system else part_of(error, "Message") or error)
    code = code_of(error)
    return text if not code or code in text else f"{text} ({code})"


def _advice(code: str, error: BaseException) -> str:
    """What the user can do about an error; "" if there is no known advice."""
    if said := part_of(error, "Advice"):
        return said
    advice = next((text for codes, text in _ADVICE if code in codes), "")
    if code in _WRONG_REGION:
        advice = _region_advice(error)
    elif type(error).__name__ in _NO_CREDENTIALS:
        advice = (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket, set "
            "s3.anonymous"
        )
    elif code.startswith("KMS.") or "kms:" in str(error).lower():
        advice = "the object is encrypted: enable its KMS key, or ask for permission to decrypt with it"
    elif not advice and isinstance(error, PermissionError):
        advice = "check permissions and credentials"
        if code:
            advice += "; if the requester pays for this bucket, set s3.requester_pays"
    return advice


def _region_advice(error: BaseException) -> str:
    headers = answer_of(error).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = part_of(error, "Region") or headers.get("x-amz-bucket-region")
    location = f"the bucket is in {region}" if region else "the bucket is in another region or store"
    return f"{location}: set s3.region (or AWS_REGION), or s3.endpoint_url"
