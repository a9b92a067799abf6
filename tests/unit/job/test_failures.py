"""The reason for a failed job, extracted from the errors that Ray Data reports."""

import copy
import traceback

import pytest
import ray
from ray.data._internal.util import _annotate_exception_with_retry_context

from faceq.errors import StorageError
from faceq.job import failures
from faceq.job.census import OutageError


class Odd(Exception):  # noqa: N818 - some libraries name their errors like this
    """An exception whose name ends neither in Error nor in Exception."""


def raised_by_a_task(error: Exception) -> ray.exceptions.RayTaskError:
    """The error of a worker as Ray Data reports it: with added advice in the message, and pickled."""
    try:
        raise copy.copy(error)
    except Exception as caught:
        advice = {"description": "apply UDF transform", "attempts": 1, "max_attempts": 1}
        told = _annotate_exception_with_retry_context(caught, **advice, total_backoff_s=0, exception_str="")
        cause = ray.cloudpickle.loads(ray.cloudpickle.dumps(told))
        place = {"proctitle": "ray::ReadFrames", "pid": 1, "ip": "192.0.2.1"}
        return ray.exceptions.RayTaskError("read", traceback.format_exc(), cause, **place)


ERRORS = {
    "one of faceq": (StorageError("the disk is full"), "faceq.errors.StorageError: the disk is full"),
    "one of several lines": (ValueError("shapes differ:\n(1, 2)\n(3, 4)"), "ValueError: shapes differ:"),
    "with a file's name": (
        FileNotFoundError(2, "No such file or directory", "/a/b"),
        "FileNotFoundError: [Errno 2] No such file or directory: '/a/b'",
    ),
    "of an odd name": (Odd("of a library"), f"{__name__}.Odd: of a library"),
}


@pytest.mark.parametrize(("error", "said"), ERRORS.values(), ids=ERRORS)
def test_an_error_in_a_task_is_reported_as_it_was_raised(error, said):
    reported = raised_by_a_task(error).as_instanceof_cause()
    assert failures._reason(reported) == said


@pytest.mark.parametrize(("error", "said"), ERRORS.values(), ids=ERRORS)
def test_an_error_in_the_constructor_of_an_actor_is_reported_as_it_was_raised(error, said):
    try:
        raise copy.copy(error)
    except Exception as caught:
        place = {"proctitle": "ray::Stage", "pid": 1, "ip": "192.0.2.1"}
        cause = ray.exceptions.RayTaskError("__init__", traceback.format_exc(), caught, **place)
    assert failures._reason(ray.exceptions.ActorDiedError(cause)) == said


def test_another_error_is_reported_on_one_line():
    assert failures._reason(RuntimeError("two\nlines")) == "two lines"


class Gone:
    """A census whose process has died."""

    class outage:  # noqa: N801 - as a method of an actor is called
        @staticmethod
        def remote() -> None:
            raise ray.exceptions.ActorUnavailableError("the census is not there", None)


def test_a_reason_to_stop_is_the_message_without_the_traceback_of_the_task():
    raised = raised_by_a_task(OutageError("stopped: 300 of 300 frames are unreadable")).as_instanceof_cause()
    assert isinstance(raised, OutageError)
    assert failures.explain(raised, Gone()) == "stopped: 300 of 300 frames are unreadable"
