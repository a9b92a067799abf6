"""The square around a face: exact pixels of the frame, and always inside it."""

import numpy as np
import pytest

from faceq.faces.face_square import cut

FRAME = np.random.default_rng(1).integers(0, 256, (200, 300, 3), np.uint8)


def placed(box: tuple, margin: float) -> tuple[int, int, int]:
    """Left, top and side of the square. Checks that it has the pixels of the frame at this place."""
    square, matrix = cut(FRAME, np.array(box, float), margin)
    side = square.shape[0]
    left, top = (-matrix[:, 2]).astype(int)
    assert square.shape == (side, side, 3) and (matrix[:, :2] == np.eye(2)).all()
    assert (square == FRAME[top : top + side, left : left + side]).all()
    return int(left), int(top), side


def test_the_margin_is_in_units_of_the_longer_side():
    assert placed((100, 80, 30, 40), 0) == (95, 80, 40)
    assert placed((100, 80, 30, 40), 0.5) == (75, 60, 80)


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((0, 80, 40, 40), (0, 60, 80)),
        ((250, 150, 50, 50), (200, 100, 100)),
        ((100, 0, 120, 150), (60, 0, 200)),  # no larger than the frame
        ((0, 0, 300, 200), (50, 0, 200)),
    ],
)
def test_the_square_is_moved_into_the_frame(box, place):
    assert placed(box, 0.5) == place


@pytest.mark.parametrize(
    "box", [(400, 10, 20, 20), (10, 10, 0, 20), (np.nan, 10, 20, 20), (10, 10, np.inf, 9)]
)
def test_a_box_that_is_not_in_the_frame_is_refused(box):
    with pytest.raises(ValueError, match="face box is not in the frame"):
        cut(FRAME, np.array(box, float), 0.5)
