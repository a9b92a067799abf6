"""`faceq score --summary FILE`: what a job did, as JSON, also if it failed or was stopped."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

import faceq
from faceq.config import Config
from faceq.errors import FaceqError, StorageError, UsageError
from faceq.job import summary
from faceq.job.progress import Progress
from faceq.messages.masking import mask
from faceq.storage.filesystem import absolute, is_inside
from faceq.storage.outputs import check_output, write_output

log = logging.getLogger(__name__)


class SummaryFile:
    """The file of a job's summary. Every write replaces it atomically: the same command, run again to resume,
    has a summary of its own.

    When the job begins, the file says `running`: so a file that cannot be written is reported before the job,
    and a job that is killed does not leave the summary of an earlier one.

    Args:
        uri: a path or a URI.
        config: the settings of the job.

    Raises:
        UsageError: the path is a folder, its folder does not exist, or it lies in the table of the job.
        StorageError: the file cannot be written.
    """

    def __init__(self, uri: str, config: Config):
        self._uri, self._s3 = uri, config.s3
        self._is_final = False
        self._known: dict[str, Any] = {
            "faceq": faceq.__version__,
            "started": _now(),
            "input": [mask(name) for name in (*config.input, *config.manifest)],
            "table": config.out and mask(absolute(config.out)),
        }
        if config.out and is_inside(uri, config.out):
            raise UsageError(f"--summary {uri}: lies in the table {config.out}: choose a file outside of it")
        check_output(uri, config.s3)
        self._write("running", {})

    def done(self, summary_of_job: summary.Summary) -> None:
        """Write the summary of a job that has run to its end; StorageError if that is not possible."""
        self._is_final = True  # the job does not fail any more
        try:
            self._write("done", {"exit_status": 0, **summary.figures(summary_of_job)})
        except FaceqError as error:
            raise StorageError(
                f"the job is done and its table is complete, but not its summary: {error}"
            ) from None

    def failed(self, status: int, reason: str, last: Progress | None) -> None:
        """Write what is known of a job that has failed or was stopped. If that is not possible, log why: the
        job's own error matters more.

        Args:
            status: the exit status; 128 and a signal's number if it was stopped by this signal.
            reason: the message of the command.
            last: how far the job was; None if it had not begun to read.
        """
        if self._is_final:
            return
        known: dict[str, Any] = {"exit_status": status, "reason": mask(reason)}
        if last is not None:
            known |= summary.figures_so_far(last)
        try:
            self._write("stopped" if status > 128 else "failed", known)
        except Exception as error:  # whatever it is, the job's own error must be reported
            log.warning("the summary is missing: %s", error)

    def _write(self, state: str, known: dict[str, Any]) -> None:
        ended = {} if state == "running" else {"ended": _now()}
        text = json.dumps({"state": state, **self._known, **ended, **known}, indent=1)
        write_output(self._uri, f"{text}\n".encode(), self._s3)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
