"""Settings of the processes that belong to a job: Ray's workers, which run the stages."""

import cv2


def set_up(threads: int) -> None:
    """Prepare a worker process for a stage that has `threads` CPUs.

    Ray runs as many workers as there are cores. Without this, OpenCV starts a thread for each core in each
    worker.
    """
    cv2.setNumThreads(threads)
