"""When a job stops because nothing can be read, and when it does not."""

from faceq.census import LEAST_DECODED, REFUSALS_IN_A_ROW, Census

Counts = Census.__ray_metadata__.modified_class


def test_refusals_in_a_row_stop_the_job_with_the_reason():
    census = Counts(shards=10_000)
    for task in range(REFUSALS_IN_A_ROW - 1):
        assert census.read(task, 1, 0, 0, ["access denied: ExpiredToken"]) is None
    assert "ExpiredToken" in census.read(999, 1, 0, 0, ["access denied: ExpiredToken"])


def test_one_success_between_refusals_goes_on():
    census = Counts(shards=10_000)
    for task in range(3 * REFUSALS_IN_A_ROW):
        given = int(task % 50 == 0)
        refused = [] if given else ["gone"]
        assert census.read(task, 1, 0, given, refused) is None


def test_a_small_input_that_is_refused_whole_stops_too():
    census = Counts(shards=2)
    assert census.read(0, 1, 0, 0, ["gone"]) is None
    assert "gone" in census.read(1, 1, 0, 0, ["gone"])


def test_nearly_all_unreadable_stops_and_a_few_do_not():
    few = Counts(shards=1)
    assert few.decoded(1, 40, 40, "cut off") is None
    many = Counts(shards=1)
    assert "cut off" in many.decoded(1, LEAST_DECODED, LEAST_DECODED, "cut off")
    mixed = Counts(shards=1)
    assert mixed.decoded(1, 1000, 900, "cut off") is None


def test_a_read_task_that_runs_again_counts_once():
    census = Counts(shards=1)
    for new in (32, 64, 32, 64, 70):
        census.read(7, new, 5, 32, [])
    assert census.totals(None) == (70, 5)


def test_a_limit_counts_frames_with_a_row():
    census = Counts(shards=1)
    census.read(0, 64, 0, 64, [])
    census.dropped(123, 30)
    census.dropped(123, 30)
    assert census.totals(50) == (20, 30)


def test_the_first_rows_that_are_through_mark_the_end_of_the_start():
    census = Counts(shards=1)
    assert census.first_through() == (0.0, 0)
    census.through(32)
    seconds, rows = census.first_through()
    census.through(8)
    assert rows == 32 and seconds > 0
    assert census.first_through() == (seconds, rows) and census.progress()[3] == 40
