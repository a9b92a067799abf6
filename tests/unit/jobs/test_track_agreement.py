"""IDF1 and identity switches, and the synthetic videos that they are measured on."""

import numpy as np
import pytest

from jobs.benchmarks.measure_tracks import overlapping
from jobs.benchmarks.moving_faces import FPS, SCENARIOS, SECONDS, Head, film
from jobs.benchmarks.track_agreement import Agreement, agreement, iou


def frames(*tracks: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames in which everybody is there, with the track that was found on each."""
    return [(np.arange(len(each)), np.array(each)) for each in tracks]


def test_tracks_that_swap_people_agree_on_the_longer_part_only():
    """Ten faces; the two tracks are right for three frames and swapped for two: 6 of 10 and 6 of 10 agree."""
    found = agreement(frames((7, 4), (7, 4), (7, 4), (4, 7), (4, 7)), 2)
    assert found == Agreement(same=6, real=10, found=10, switches=2)
    assert found.idf1 == pytest.approx(12 / 20)


def test_the_assignment_is_the_best_one_and_not_greedy():
    """Track 1 is on person 0 three times and on person 1 twice; track 2 only on person 0, twice. The most
    frequent pair would leave nothing for person 1: 3 faces. The best assignment has 2 + 2."""
    found = agreement(frames((1, -1), (1, -1), (1, -1), (2, 1), (2, 1)), 2)
    assert found == Agreement(same=4, real=10, found=7, switches=1)
    assert found.idf1 == pytest.approx(8 / 17)


def test_faces_that_are_not_found_lower_idf1_and_are_no_switch():
    found = agreement(frames((0, 1), (0, -1), (0, 1), (-1, 5)), 2)
    assert found == Agreement(same=5, real=8, found=6, switches=1)


def test_nobody_is_no_agreement():
    assert np.isnan(agreement([], 0).idf1)


def test_overlap_of_boxes():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [30, 30, 1, 1]], np.float32)
    assert iou(boxes[:1], boxes).tolist() == [[1, pytest.approx(1 / 3), 0]]


def test_the_baseline_follows_what_overlaps():
    boxes = np.array([[0, 0, 10, 10], [50, 0, 10, 10], [52, 0, 10, 10], [2, 0, 10, 10], [99, 0, 9, 9]])
    found = overlapping(np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0.04, 0.04, 0.08]), boxes)
    assert found.tolist() == [0, 1, 1, 0, 2]


def test_the_truth_of_a_made_video_shows_where_each_head_is_and_who_hides_whom():
    mask = np.zeros((100, 100), np.float32)
    mask[10:90, 10:90] = 1
    box = np.array([20.0, 20, 60, 60])
    heads = [
        Head(np.full((100, 100, 3), colour, np.uint8), mask, box) for colour in ((255, 0, 0), (0, 0, 255))
    ]
    shown, truth = film(heads, SCENARIOS["cross"], 0)
    assert shown.shape == (FPS * SECONDS, 360, 640, 3) and len(truth) == len(shown)
    for pixels, there in zip(shown, truth, strict=True):
        (x, y), (other_x, other_y) = (there.boxes[:, :2] + there.boxes[:, 2:] / 2).round().astype(int)
        assert there.visible[0] > 0.95 and pixels[y, x, 0] > 180 and pixels[y, x, 2] < 60
        if there.visible[1] > 0.95 or there.visible[1] < 0.05:
            assert (pixels[other_y, other_x, 2] > 180) == (there.visible[1] > 0.95)
    hidden = np.array([there.visible[1] for there in truth])
    assert hidden[0] > 0.95 and hidden[-1] > 0.95 and hidden.min() < 0.5
