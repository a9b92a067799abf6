"""The response of an object store to a request that failed, in one form for all stores.

The form is that of botocore: `{"Error": {"Code": "NoSuchKey", "Message": "…"}}`. The file systems of stores
other than S3 raise the errors that `refusal` returns, which hold their response in the same form.
"""

import errno
import http
from typing import Any

from faceq.messages.masking import mask

START_AGAIN = "start the job again"
"""What to do about a file that was replaced during the read."""


def answer_of(error: BaseException) -> dict[str, Any]:
    """The response of the store to the request that caused an error; empty if there is none.

    s3fs converts an error response to an OSError and keeps the original error as its cause.
    """
    current: BaseException | None = error
    while current is not None:
        answer = getattr(current, "response", None)
        if isinstance(answer, dict) and "Error" in answer:
            return answer
        current = current.__cause__
    return {}


def part_of(error: BaseException, name: str) -> str:
    """A part of the response, such as `Message`; "" if there is none."""
    answer: dict[str, Any] = answer_of(error)
    return str(answer.get("Error", {}).get(name) or "")


def code_of(error: BaseException) -> str:
    """The error code of the store, such as `NoSuchKey`, or the HTTP status of a response without a code; ""
    if the error does not come from a response of a store."""
    return part_of(error, "Code")


def wrong_server(store: str, check: str) -> OSError:
    """The error for a response that does not come from the store. check: what the user should look at."""
    return OSError(errno.EPROTO, f"the server responds, but not like {store}: check {check}")


_KINDS = {401: PermissionError, 403: PermissionError, 404: FileNotFoundError}


def refusal(status: int, message: str = "", advice: str = "", code: str = "") -> OSError:
    """The error for a response of a store other than S3.

    Args:
        status: the HTTP status of the response.
        message: what the store says; empty: the standard text of the status.
        advice: what the user can do about it; empty: that of `faults` for this status.
        code: the error code, as S3 calls it; empty: the status.
    """
    text = mask(message) or _phrase(status)
    error = _KINDS.get(status, OSError)(text)
    answer = {"Code": code or str(status), "Message": text, "Advice": advice}
    error.response = {"Error": answer}  # type: ignore[attr-defined]
    return error


def _phrase(status: int) -> str:
    try:
        return f"HTTP {status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"
