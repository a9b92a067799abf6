"""The rate at which a job finishes frames."""

import pytest

from faceq.job.rate import WINDOW_S, Rate


def after(*samples: tuple[float, int]) -> float | None:
    rate = Rate()
    return [rate.after(finished, now) for now, finished in samples][-1]


def test_nothing_is_known_before_two_batches_are_finished():
    assert after((0, 0), (20, 0)) is None
    assert after((0, 0), (20, 32)) is None
    assert after((0, 0), (20, 32), (21, 32)) is None


def test_the_time_until_the_first_frames_does_not_count():
    assert after((0, 0), (20, 32), (24, 72)) == pytest.approx(10)


def test_the_rate_is_that_of_the_last_seconds():
    slow_then_fast = [(second, second) for second in range(1, 100)]
    slow_then_fast += [(100 + second, 100 + 10 * second) for second in range(WINDOW_S + 1)]
    assert after(*slow_then_fast) == pytest.approx(10, rel=0.05)


def test_the_rate_of_a_slow_job_is_not_zero_between_batches():
    samples = [(0, 8), *((second, 16) for second in range(60, 160))]
    assert after(*samples) == pytest.approx(8 / 159)


def test_a_restarted_counter_gives_no_negative_rate():
    assert after((10, 500), (20, 600), (30, 8)) is None
    assert after((10, 500), (20, 600), (30, 8), (34, 48)) == pytest.approx(10)
