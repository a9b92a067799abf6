"""Tracks: who stays who through a shot."""

import time

import numpy as np
import pytest

from faceq.faces.tracks import track_numbers

FPS = 25
WIDTH, HEIGHT = 80, 100


def shot(*people, fps: float = FPS):
    """Frames, times, boxes and people. A person is a list: the centre's x, or x and y, or None, per frame."""
    found = [
        (number, at, person)
        for number, here in enumerate(zip(*people, strict=True))
        for person, at in enumerate(here)
        if at is not None
    ]
    frames = np.array([number for number, _, _ in found])
    places = [at if isinstance(at, tuple) else (at, 200) for _, at, _ in found]
    boxes = np.array([(x - WIDTH / 2, y - HEIGHT / 2, WIDTH, HEIGHT) for x, y in places], np.float32)
    return frames, frames / fps, boxes, np.array([person for _, _, person in found])


def embeddings(people: np.ndarray, spread: float = 0.03, seed: int = 0) -> np.ndarray:
    """A direction per person, and noise."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(128, people.max() + 1)))[0].T
    vectors = centres[people] + rng.normal(0, spread, (len(people), 128))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def hashes(people: np.ndarray, seed: int = 0) -> np.ndarray:
    """A hash per person, of which each face flips up to 3 bits."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, 2**64, people.max() + 1, np.uint64)[people]
    for _ in range(3):
        own ^= np.uint64(1) << rng.integers(0, 64, len(people), np.uint64)
    return own


def crossing(fps: float):
    """Two people who walk past each other within two seconds. Both are seen all the time."""
    along = np.linspace(0, 1, int(2 * fps) + 1)
    return shot(list(100 + 400 * along), list(500 - 400 * along), fps=fps)


def test_one_person_who_moves_and_comes_closer_is_one_track():
    steps = np.arange(200)
    frames, times, boxes, _ = shot(list(100 + 3.0 * steps))
    boxes[:, 2:] *= (1 + steps / 200)[:, None]
    assert track_numbers(frames, times, boxes).tolist() == [0] * 200


def test_numbers_are_in_the_order_of_first_appearance():
    frames, times, boxes, _ = shot([500, 500, 500], [100, 100, 100], [None, 300, 300])
    assert track_numbers(frames, times, boxes).tolist() == [0, 1, 0, 1, 2, 0, 1, 2]
    boxes[[2, 3]] = boxes[[3, 2]]  # the order of the faces in a frame may change
    assert track_numbers(frames, times, boxes).tolist() == [0, 1, 1, 0, 2, 0, 1, 2]


@pytest.mark.parametrize("fps", [25, 5, 2])
@pytest.mark.parametrize("known", ["embeddings", "hashes"])
def test_people_who_cross_keep_their_numbers(fps, known):
    frames, times, boxes, people = crossing(fps)
    looks = {known: {"embeddings": embeddings, "hashes": hashes}[known](people)}
    assert track_numbers(frames, times, boxes, **looks).tolist() == people.tolist()


def test_people_who_cross_keep_their_numbers_by_their_speed_alone():
    frames, times, boxes, people = crossing(25)
    assert track_numbers(frames, times, boxes).tolist() == people.tolist()


@pytest.mark.parametrize("known", ["embeddings", "hashes"])
def test_appearance_tells_meeting_and_turning_back_from_crossing(known):
    """Two samples per second: the positions alone look like people who cross."""
    frames, times, boxes, people = shot([100, 220, 290, 170, 50], [500, 380, 310, 430, 550], fps=2)
    looks = {known: {"embeddings": embeddings, "hashes": hashes}[known](people)}
    assert track_numbers(frames, times, boxes, **looks).tolist() == people.tolist()
    assert track_numbers(frames, times, boxes).tolist() != people.tolist()


def test_people_who_turn_back_before_they_meet_are_looked_for_where_they_were():
    """Their speed predicts that they cross."""
    frames, times, boxes, people = shot([100, 200, 250, 180, 100], [500, 400, 350, 420, 500], fps=2)
    assert track_numbers(frames, times, boxes).tolist() == people.tolist()


def test_two_boxes_of_one_face_are_two_tracks():
    frames, times, boxes, people = shot([300] * 5, [None, 305, 305, 305, 305])
    for looks in ({}, {"embeddings": embeddings(np.zeros_like(people))}):
        assert track_numbers(frames, times, boxes, **looks).tolist() == people.tolist()


def test_the_one_who_was_hidden_is_found_again():
    """The person behind is not detected for half a second."""
    frames, times, boxes, people = crossing(25)
    hidden = (people == 1) & (np.abs(boxes[:, 0] - 260) < 60)
    assert hidden.sum() > 10
    kept = ~hidden
    for looks in ({}, {"hashes": hashes(people)[kept]}, {"embeddings": embeddings(people)[kept]}):
        found = track_numbers(frames[kept], times[kept], boxes[kept], **looks)
        assert found.tolist() == people[kept].tolist()


def test_a_face_that_returns_elsewhere_keeps_its_number_only_by_its_embedding():
    away = [None] * 3 * FPS
    frames, times, boxes, people = shot([100] * 5 * FPS, [500] * FPS + away + [(400, 60)] * FPS)
    assert track_numbers(frames, times, boxes, embeddings=embeddings(people)).tolist() == people.tolist()
    for looks in ({}, {"hashes": hashes(people)}):
        assert track_numbers(frames, times, boxes, **looks).max() == 2


@pytest.mark.parametrize(("seconds", "tracks"), [(0.8, 1), (1.6, 2)])
def test_without_embeddings_a_face_that_was_away_for_over_a_second_is_new(seconds, tracks):
    frames, times, boxes, _ = shot([300] * FPS + [None] * int(seconds * FPS) + [300] * FPS)
    assert track_numbers(frames, times, boxes).max() + 1 == tracks


def test_somebody_else_in_the_same_place_is_a_new_track():
    """As after a cut that was not found."""
    frames, times, boxes, _ = shot([300] * 20)
    people = np.arange(20) // 10
    assert track_numbers(frames, times, boxes, embeddings=embeddings(people)).tolist() == people.tolist()


@pytest.mark.parametrize("offset", [0, 45])
def test_a_face_that_turns_away_slowly_stays_the_same(offset):
    """Neighbouring frames look alike; the last one does not look like the mean of the others."""
    frames, times, boxes, _ = shot([300] * 50)
    boxes[1::2, 0] += offset  # if it is 45, a face does not clearly overlap the one before
    angle = np.linspace(0, 0.9 * np.pi, 50)
    vectors = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    assert track_numbers(frames, times, boxes, embeddings=vectors).max() == 0


def test_a_half_hidden_face_stays_the_same_although_its_embedding_differs():
    frames, times, boxes, people = shot([300] * 30, [350] * 30)
    vectors = embeddings(people)
    vectors[people == 1] = embeddings(np.repeat([0, 1, 2], 10) + 5)
    assert track_numbers(frames, times, boxes, embeddings=vectors).tolist() == people.tolist()


@pytest.mark.parametrize("fps", [5, 2, 0.1])
def test_sampled_frames_in_which_faces_no_longer_overlap(fps):
    there = list(range(100, 700, 100)), [(x, 400) for x in range(700, 100, -100)]
    frames, times, boxes, people = shot(*there, fps=fps)
    assert track_numbers(frames, times, boxes).tolist() == people.tolist()


def test_a_face_far_away_in_the_next_sample_is_somebody_else_unless_it_looks_the_same():
    frames, times, boxes, people = shot([100, 1000], fps=0.1)
    assert track_numbers(frames, times, boxes).tolist() == [0, 1]
    assert track_numbers(frames, times, boxes, embeddings=embeddings(people)).tolist() == [0, 0]


def test_missing_embeddings_and_hashes():
    frames, times, boxes, people = crossing(25)
    vectors, bits = embeddings(people), np.ma.masked_array(hashes(people), np.arange(len(people)) % 3 == 0)
    vectors[::2], vectors[1::4] = np.nan, 0
    found = track_numbers(frames, times, boxes, bits, vectors)
    assert found.tolist() == people.tolist()
    nothing = np.full_like(vectors, np.nan)
    masked = np.ma.masked_all(len(people), np.int64)
    assert track_numbers(frames, times, boxes, masked, nothing).tolist() == people.tolist()
    signed = hashes(people).astype(np.int64)
    assert (track_numbers(frames, times, boxes, signed) == track_numbers(frames, times, boxes, bits)).all()


def test_nobody():
    none = np.zeros(0)
    found = track_numbers(none.astype(int), none, np.zeros((0, 4), np.float32), none.astype(int))
    assert found.dtype == np.int32 and found.shape == (0,)
    assert len(track_numbers(none, none, np.zeros((0, 4)), None, np.zeros((0, 128), np.float32))) == 0


def test_five_hundred_faces_in_a_frame():
    grid = [(100.0 * (n % 25), 120.0 * (n // 25)) for n in range(500)]
    frames, times, boxes, people = shot(*([(x + 3 * i, y) for i in range(6)] for x, y in grid))
    vectors = np.random.default_rng(0).normal(size=(500, 128)).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[people]
    begin = time.process_time()
    found = track_numbers(frames, times, boxes, hashes(people), vectors)
    assert time.process_time() - begin < 6
    assert found.tolist() == people.tolist()


def wild(seed: int, faces: int = 300):
    """Faces with random boxes, of which some are broken, in random frames at random times."""
    rng = np.random.default_rng(seed)
    frames = np.sort(rng.integers(0, 60, faces))
    times = (frames / 10 + rng.normal(0, 0.1, 60)[frames]).astype(np.float64)
    boxes = rng.uniform(0, 400, (faces, 4)).astype(np.float32)
    people = rng.integers(0, 5, faces)
    broken = rng.integers(0, 10, faces)
    boxes[broken == 0, 0], boxes[broken == 1, 2] = np.nan, np.inf
    boxes[broken == 2, 3], boxes[broken == 3, 2] = 0, -5
    boxes[broken == 4, :2], boxes[broken == 5, 2:] = 3e38, 1e-40
    times[rng.random(faces) < 0.1] = np.nan
    times[rng.random(faces) < 0.05] = -np.inf
    vectors = embeddings(people, 0.1)
    vectors[rng.random(faces) < 0.3] = np.nan
    vectors[rng.random(faces) < 0.05, 3] = np.inf
    return frames, times, boxes, hashes(people), vectors


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(20))
def test_no_input_raises_or_gives_two_faces_of_a_frame_one_number(seed):
    frames, times, boxes, bits, vectors = wild(seed)
    for looks in ((), (bits,), (None, vectors), (bits, vectors)):
        found = track_numbers(frames, times, boxes, *looks)
        assert len({*zip(frames.tolist(), found.tolist(), strict=True)}) == len(frames)
        _, first = np.unique(found, return_index=True)
        assert found[np.sort(first)].tolist() == list(range(len(first)))
        assert (track_numbers(frames, times, boxes, *looks) == found).all()


@pytest.mark.parametrize("times", [np.zeros(60), np.full(60, np.nan), -np.arange(60.0), np.full(60, np.inf)])
def test_useless_times_leave_the_overlap(times):
    frames, _, boxes, people = shot([300] * 30, [500] * 30)
    assert track_numbers(frames, times, boxes).tolist() == people.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_numbers_do_not_depend_on_the_place_or_the_size_of_the_picture(seed):
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 12, (6, 80, 2)).cumsum(1) + rng.uniform(0, 500, (6, 1, 2))
    frames, times, boxes, people = shot(*([tuple(at) for at in person] for person in steps))
    kept = rng.random(len(frames)) < 0.85
    frames, times, boxes, people = frames[kept], times[kept], boxes[kept], people[kept]
    for looks in ((), (hashes(people),), (None, embeddings(people))):
        found = track_numbers(frames, times, boxes, *looks)
        assert found.max() >= 5
        assert (track_numbers(frames, times, boxes * np.float32(4), *looks) == found).all()
        moved = np.round(boxes * 16) / 16  # so that adding loses no bits
        apart = moved + np.array([1024, 512, 0, 0], np.float32)
        assert (
            track_numbers(frames, times, moved, *looks) == track_numbers(frames, times, apart, *looks)
        ).all()


def test_what_a_caller_must_correct():
    frames, times, boxes, _ = shot([300] * 3)
    with pytest.raises(ValueError, match="lengths differ"):
        track_numbers(frames, times[:2], boxes)
    with pytest.raises(ValueError, match="ascending"):
        track_numbers(frames[::-1], times, boxes)
