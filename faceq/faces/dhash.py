"""Difference hash: the hashes of similar images differ in few of their 64 bits.

Source: N. Krawetz, "Kind of Like That", 2013.
"""

import cv2
import numpy as np

_SIDE = 8


def dhash(face: np.ndarray) -> int:
    """64-bit difference hash of an aligned face. A bit is 1 if a cell is darker than its right neighbour.

    The distance of two hashes is the number of differing bits. It is small for two frames of a video that
    show the same face in the same pose.

    Args:
        face: (H, W, 3) uint8 RGB.

    Returns:
        A signed 64-bit integer. The top left cell is the highest bit.
    """
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.packbits(cells[:, :-1] < cells[:, 1:])
    return int.from_bytes(bits.tobytes(), "big", signed=True)
