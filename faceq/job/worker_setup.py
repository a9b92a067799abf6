"""Settings of the processes that belong to a job: Ray's workers, which run its stages."""

import cv2


def set_up(threads: int) -> None:
    """Prepare a worker process for a stage that has `threads` CPUs.

    Ray runs as many workers as there are cores. OpenCV would start a thread for each core in each of them.
    """
    cv2.setNumThreads(threads)
