"""When a job stops because its input is unreadable, and when it continues."""

import logging

import pytest

from faceq.job.census import LEAST_DECODED, REFUSALS_IN_A_ROW, Census

Counts = Census.__ray_metadata__.modified_class


def test_refusals_in_a_row_stop_the_job_with_the_reason():
    census = Counts(shards=10_000, tasks=1)
    for task in range(REFUSALS_IN_A_ROW - 1):
        assert census.read(task, 1, 0, 0, ["access denied: ExpiredToken"]) is None
    assert "ExpiredToken" in census.read(999, 1, 0, 0, ["access denied: ExpiredToken"])


def test_one_success_between_refusals_keeps_the_job_running():
    census = Counts(shards=10_000, tasks=1)
    for task in range(3 * REFUSALS_IN_A_ROW):
        given = int(task % 50 == 0)
        refused = [] if given else ["gone"]
        assert census.read(task, 1, 0, given, refused) is None


def test_a_small_input_that_is_refused_completely_stops_too():
    census = Counts(shards=2, tasks=1)
    assert census.read(0, 1, 0, 0, ["gone"]) is None
    assert "gone" in census.read(1, 1, 0, 0, ["gone"])


def test_missing_files_of_a_manifest_are_not_refusals():
    census = Counts(shards=10_000, tasks=100)
    for task in range(3):
        assert census.read(task, 500, 0, 0, ["gone"] * 500, unseen=500) is None
    denied = ["access denied"] * REFUSALS_IN_A_ROW
    assert "denied" in census.read(3, 600, 0, 0, ["gone"] * 500 + denied, unseen=500)
    assert "gone" in census.read(4, 100, 0, 0, ["gone"] * REFUSALS_IN_A_ROW)


def test_nearly_all_unreadable_stops_and_a_few_do_not():
    for tried, unreadable, stops in (
        (40, 40, False),
        (LEAST_DECODED, LEAST_DECODED, True),
        (1000, 900, False),
    ):
        census = Counts(shards=1, tasks=1)
        census.read(0, tried, 0, tried, [])
        census.ended(0, {}, [])
        found = census.decoded(1, tried, unreadable, "cut off")
        assert ("cut off" in found) if stops else (found is None)
        assert census.outage_at_the_end() == found


def test_a_bad_folder_that_comes_first_does_not_stop_the_job():
    census = Counts(shards=10_000, tasks=40)
    for task in range(3):
        census.read(task, 250, 0, 250, [])
        census.ended(task, {}, [])
        assert census.decoded(task, 250, 250, "HEIC") is None
    census.ended(3, {}, [])
    assert "HEIC" in census.decoded(3, 250, 250, "HEIC")


@pytest.mark.parametrize("limit", [False, True])
def test_bad_frames_at_the_end_of_a_good_input_are_rows(limit):
    census = Counts(shards=1, tasks=1)
    if limit:  # frames that have a row are read again, counted, and dropped
        census.read(0, 10_200, 0, 10_200, [])
        census.dropped(77, 10_000)
    else:
        census.read(0, 200, 10_000, 200, [])
    census.ended(0, {}, [])
    assert census.decoded(1, 200, 200, "cut off") is None
    assert census.outage_at_the_end() is None


def test_a_read_task_that_runs_again_counts_once():
    census = Counts(shards=1, tasks=1)
    for new in (32, 64, 32, 64, 70):
        census.read(7, new, 5, 32, [])
    assert census.totals(None) == (70, 5)


def test_a_limit_counts_frames_with_a_row():
    census = Counts(shards=1, tasks=1)
    census.read(0, 64, 0, 64, [])
    census.dropped(123, 30)
    census.dropped(123, 30)
    assert census.totals(50) == (20, 30)


def test_the_first_finished_frames_mark_the_end_of_the_start():
    census = Counts(shards=1, tasks=1)
    assert census.first_finished() == (0.0, 0)
    census.frames_finished({"scored": 30, "no_face": 2})
    seconds, frames = census.first_finished()
    census.frames_finished({"scored": 8})
    assert frames == 32 and seconds > 0 and census.first_finished() == (seconds, frames)
    progress = census.progress()
    assert progress.finished == 40 and progress.statuses == {"scored": 38, "no_face": 2}


def test_rows_of_a_write_task_that_runs_again_count_once():
    census = Counts(shards=1, tasks=1)
    for task, rows in ((0, 100), (1, 50), (0, 100)):
        census.rows_written(task, {"scored": rows - 1, "no_face": 1}, 0.5)
    assert census.progress().written == 150


def test_the_number_of_frames_is_known_once_every_other_task_has_ended():
    census = Counts(shards=70, tasks=3, frames=[None, 64, 5])
    census.read(1, 64, 0, 64, [])
    census.read(0, 7, 0, 7, [])
    assert census.progress().frames is None
    census.read(0, 9, 0, 2, [])
    census.ended(0, {}, [])
    assert census.progress().frames == 9 + 64 + 5


def test_with_a_limit_the_number_of_frames_is_known_once_as_many_were_read():
    census = Counts(shards=3, tasks=1, limit=50)
    assert census.progress().frames is None
    census.read(0, 64, 0, 64, [])
    assert census.progress().frames == 50
    census.dropped(123, 30)
    assert census.progress().frames == 20
    assert Counts(shards=5, tasks=1, frames=[5], limit=50).progress().frames == 5


def test_a_frame_on_which_two_processes_died_is_blamed():
    census = Counts(shards=3, tasks=1)
    assert census.begin_reading(0, 20) == (None, [], None)
    census.read(0, 32, 0, 32, [], 0, (1, 4))
    for deaths in range(3):
        last, killers, _ = census.begin_reading(0, 20)
        assert last == (1, 4) and killers == ([(1, 7)] if deaths == 2 else [])
        census.about_to_read(0, (1, 7))


def test_a_process_that_dies_while_others_work_is_not_blamed_on_the_frame():
    census = Counts(shards=3, tasks=1)
    for _ in range(5):
        assert census.begin_reading(0, 20)[1] == []
        census.about_to_read(0, (0, 3))
        census.about_to_read(0, None)


def test_a_frame_that_was_read_is_not_blamed():
    """Frames after it were already passed on, and would be read again after the break."""
    census = Counts(shards=3, tasks=1)
    census.begin_reading(0, 20)
    census.about_to_read(0, (0, 7))
    census.begin_reading(0, 20)
    census.read(0, 32, 0, 32, [], 0, (0, 31))
    census.about_to_read(0, (0, 7))
    assert census.begin_reading(0, 20)[1] == []


def test_a_task_whose_processes_die_anywhere_stops_the_job():
    census = Counts(shards=1, tasks=1)
    for place in range(5):
        assert census.begin_reading(0, 5)[2] is None
        census.about_to_read(0, (0, place))
    assert "ended 5 times" in census.begin_reading(0, 5)[2]


def test_a_batch_whose_processes_die_repeatedly_stops_the_job():
    """On an existing Ray cluster, nothing else counts processes that are killed for lack of memory."""
    census = Counts(shards=1, tasks=1)
    for begun in range(5):
        died, _, outage = census.begin(7, 5)
        assert died == (begun > 0) and outage is None
    assert "ended 5 times over the same frames" in census.begin(7, 5)[2]


def test_log_messages_of_workers_arrive_once_and_in_order():
    census = Counts(shards=1, tasks=1)
    for message in ("one", "two", "one"):
        census.say(logging.INFO, "faceq.a", message)
    assert census.news(0)[1] == [(logging.INFO, "faceq.a", "one"), (logging.INFO, "faceq.a", "two")]
    census.say(logging.WARNING, "faceq.a", "one")
    assert census.news(2)[1] == [(logging.WARNING, "faceq.a", "one")]


def test_frames_that_a_task_reads_again_are_counted_once():
    census = Counts(shards=10_000, tasks=1)
    for _ in range(3):
        census.read(0, 8, 0, 0, ["access denied"] * 8, 0, (0, 7))
    assert census.outage_at_the_end() is None
    for _ in range(2):
        census.ended(0, {".mp4": 2}, ["a note"])
    assert census.findings() == ({".mp4": 2}, ["a note"])
