"""The square around a face box, with a margin. Its sides are parallel to those of the frame."""

import numpy as np

MARGIN = 0.5
"""Width of the margin on each side of the box, in units of its longer side. The whole head fits into it."""


def relative_side(margin: float) -> float:
    """Side of the square, in units of the longer side of the box."""
    return 1 + 2 * margin


def cut(image: np.ndarray, box: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Cut out the square around a face box. It has the pixels of the frame, not scaled.

    The square is never outside the frame: near an edge it is moved, and where the margin does not fit, it is
    as large as the shorter side of the frame. A face that is longer than that is cut off at both ends.

    Args:
        image: (H, W, 3) uint8.
        box: (4,), left, top, width and height in frame pixels.
        margin: width of the margin, in units of the longer side of the box; 0 or more.

    Returns:
        The square, (S, S, 3) uint8, a view of the image. And the map (2, 3) float64 from frame pixels to
        pixels of the square.

    Raises:
        ValueError: the box has no area, or its centre is not in the frame.
    """
    height, width = image.shape[:2]
    x, y, box_width, box_height = box.astype(np.float64)
    centre = np.array([x + box_width / 2, y + box_height / 2])
    if not (min(box_width, box_height) > 0 and ((centre >= 0) & (centre <= (width, height))).all()):
        raise ValueError("its face box is not in the frame")
    wanted = relative_side(margin) * max(box_width, box_height)
    side = max(1, round(min(wanted, width, height)))
    left, top = np.clip(np.rint(centre - side / 2), 0, (width - side, height - side)).astype(int)
    return image[top : top + side, left : left + side], np.array([[1.0, 0, -left], [0, 1, -top]])
