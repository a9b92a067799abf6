"""What a storage's error means: nothing there, no permission, an archived object, or an outage.

s3fs turns some ninety codes of S3 into a few kinds of OSError (EINVAL alone stands for thirty-five), but
keeps S3's answer as the cause: its code tells them apart.
"""

import errno
from dataclasses import dataclass
from typing import Any, Literal

import fsspec

from faceq.errors import FaceqError, StorageError, UsageError
from faceq.messages.one_line import one_line
from faceq.storage.filesystem import answer_of, is_storage_error

Kind = Literal["empty", "missing", "forbidden", "archived", "outage"]

_EMPTY = {"InvalidRange", "416"}
"""Every object but an empty one has a first byte."""

_MISSING = {"NoSuchKey", "NoSuchVersion", "404"}
_ARCHIVED = "InvalidObjectState"
_ELSEWHERE = {
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
    *("409", "500", "502", "503", "504"),
}
_ADVICE = (
    (_CREDENTIALS, "renew or correct the credentials"),
    (_CLOCK, "set this machine's clock"),
    (_CHANGED, "the object was replaced while it was read: start the job again"),
    (_BUSY, "the storage is busy or down: try again later"),
)
_NAMED_WRONG = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""Nothing can be read or written by such a name: another one has to be given."""

_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")


@dataclass(frozen=True, slots=True)
class Fault:
    """A storage's error. text: what happened and what to do, for people, on one line."""

    kind: Kind
    text: str


def failure(what: str, error: BaseException) -> FaceqError:
    """The error to raise where the storage of what a command was given has failed.

    Args:
        what: the place, and what could not be done there: `s3://b/t: cannot be written`.
        error: as the storage raised it.

    Returns:
        A UsageError where nothing can be there by that name, else a StorageError.
    """
    inner = getattr(error, "error", None)  # of `folders.UnlistedError`, which names the folder itself
    cause = inner if isinstance(inner, Exception) else error
    number = cause.errno if isinstance(cause, OSError) else None
    kind = UsageError if number in _NAMED_WRONG or isinstance(cause, FileNotFoundError) else StorageError
    text = f"{what}: {_in_place(error)}"
    if number in _ROOM:
        text += ": make room, and run the same command again"
    else:
        advice = _advice(code_of(cause), cause)
        text += f": {advice}" if advice else ""
    return kind(text)


def _in_place(error: BaseException) -> str:
    """The storage's own words, and the file where it is a local one."""
    if inner := getattr(error, "error", None):
        return f"{getattr(error, 'folder', '')}: {_in_place(inner)}"
    said = reason_of(error)
    name = error.filename if isinstance(error, OSError) else None
    return f"{name}: {said}" if isinstance(name, str) and name not in said else said


def fault_of(error: BaseException) -> Fault | None:
    """What a storage's error means; None for an error that is not the storage's but of what it gave.

    empty: the object has no bytes. missing: nothing is there by that name. forbidden: this one may not be
    read. archived: it must be restored first. outage: all else, such as expired credentials, a wrong region
    or a storage that is down; it is likely to hold for other objects, too.
    """
    if not is_storage_error(error):
        return None
    code = code_of(error)
    if code in _EMPTY:
        return Fault("empty", "the object is empty (0 bytes)")
    if code in _MISSING or (not code and isinstance(error, FileNotFoundError)):
        return Fault("missing", "there is no such file or object")
    if code == _ARCHIVED:
        tier = _part(error, "StorageClass")
        where = f" in the storage class {tier}" if tier else ""
        return Fault("archived", f"the object is archived{where}: restore it first, then try it again")
    general = code in _CREDENTIALS | _CLOCK | _ELSEWHERE
    denied = isinstance(error, PermissionError) and not general
    what = "access denied" if denied else "could not be read"
    advice = _advice(code, error)
    return Fault(
        "forbidden" if denied else "outage",
        f"{what}: {reason_of(error)}{f': {advice}' if advice else ''}",
    )


def code_of(error: BaseException) -> str:
    """S3's code of an error, such as `NoSuchKey`, or the HTTP status of an answer without a body; "" where
    the error is no answer of S3."""
    return _part(error, "Code")


def detailed_error(error: Exception, files: fsspec.AbstractFileSystem, path: str) -> Exception:
    """The error of a request to S3, or one that says more of the same object.

    Whether an object is there is asked by HEAD, and the answer is a bare status: 400 for an expired token.
    """
    if not code_of(error).isdigit():
        return error
    try:
        files.cat_file(path, 0, 1)
    except Exception as said:
        return said if code_of(said) else error
    return error


def reason_of(error: BaseException) -> str:
    """The storage's own words on one line, with S3's code; the error's type where it has none."""
    of_system = isinstance(error, OSError) and error.strerror
    text = one_line(error if of_system else _part(error, "Message") or error)
    code = code_of(error)
    return text if not code or code in text else f"{text} ({code})"


def _part(error: BaseException, name: str) -> str:
    answer: dict[str, Any] = answer_of(error)
    return str(answer.get("Error", {}).get(name) or "")


def _advice(code: str, error: BaseException) -> str:
    """What to do; "" where nobody knows."""
    advice = next((text for codes, text in _ADVICE if code in codes), "")
    if code in _ELSEWHERE:
        advice = _where_to_look(error)
    elif type(error).__name__ in _NO_CREDENTIALS:
        advice = "set credentials, or s3.anonymous for a public bucket"
    elif code.startswith("KMS.") or "kms:" in str(error).lower():
        advice = "the object is encrypted: enable its KMS key, or ask for permission to decrypt by it"
    elif not advice and isinstance(error, PermissionError):
        advice = "check permissions and credentials"
        if code:
            advice += "; if the requester pays for this bucket, set s3.requester_pays"
    return advice


def _where_to_look(error: BaseException) -> str:
    headers = answer_of(error).get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = _part(error, "Region") or headers.get("x-amz-bucket-region")
    there = f"the bucket is in {region}" if region else "the bucket is in another region or store"
    return f"{there}: set s3.region (or AWS_REGION), or s3.endpoint_url"
