"""How OpenCV is to behave in a process that scores."""

import cv2


def tame() -> None:
    """One thread, and no warnings at each load of a network.

    Ray runs as many workers as there are cores, so more threads each would fight; OpenCV 5 warns that
    its new graph engine offers no choice of targets, which nobody asked for.
    """
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
