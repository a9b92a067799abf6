"""Difference hash: pictures that look alike differ in few of its 64 bits.

Source: N. Krawetz, "Kind of Like That", 2013.
"""

import cv2
import numpy as np

_SIDE = 8


def dhash(face: np.ndarray) -> int:
    """64-bit difference hash of an aligned face: whether each cell is darker than its right neighbour.

    Two frames of a video that show the same face in the same pose differ in a few bits: the number of
    ones in the exclusive or of their hashes.

    Args:
        face: (H, W, 3) uint8 RGB.

    Returns:
        A signed 64-bit integer, the top left cell in its highest bit.
    """
    grey = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    cells = cv2.resize(grey, (_SIDE + 1, _SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = np.packbits(cells[:, :-1] < cells[:, 1:])
    return int.from_bytes(bits.tobytes(), "big", signed=True)
