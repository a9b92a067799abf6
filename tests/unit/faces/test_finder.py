"""Finding the face to score: at any rotation, at any size, and the positions of its landmarks."""

import cv2
import numpy as np
import pytest
import skimage

import faceq
from faceq import config
from faceq.evaluation.distortions import white_noise
from faceq.faces import detect, geometry, landmarks
from faceq.faces.cut_face import COUNTERPARTS
from faceq.faces.detect import Face, face_of, overlap
from faceq.faces.finder import Finder, Found, chosen, face_confidence, is_face
from faceq.faces.landmarks import Dense
from faceq.faces.views import turned
from faceq.models.fetch import fetch
from faceq.sources.frame import Frame, to_table
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from jobs import demo

pytestmark = pytest.mark.usefixtures("models_loaded_once")

MIN_FACE = 40
MOST_LOOKS = 15
CANVASES = [(384, 384), (1920, 1080), (3840, 2160)]


class Counting:
    """A detector that records the size of each image that it gets."""

    def __init__(self, detector: detect.Detector):
        self._detector = detector
        self.first_side, self.coarse_side = detector.first_side, detector.coarse_side
        self.tile, self.least_face = detector.tile, detector.least_face
        self.shown: list[tuple[int, ...]] = []

    def __call__(self, picture: np.ndarray) -> list[Face]:
        self.shown.append(picture.shape[:2])
        return self._detector(picture)


@pytest.fixture(scope="module")
def detector() -> Counting:
    return Counting(detect.load(fetch("yunet"), 0.6))


@pytest.fixture(scope="module")
def find(detector) -> Finder:
    return Finder(detector, landmarks.load(fetch("facemesh")), MIN_FACE)


@pytest.fixture(scope="module")
def upright(astronaut) -> dict[str, np.ndarray]:
    """Photos of one face each, upright or slightly tilted."""
    faces = demo.source_faces()
    return {"astronaut": astronaut, **{name: faces[name] for name in ("group0", "group4", "group5")}}


def row_of(picture: np.ndarray, **more) -> dict:
    return faceq.score_images([picture], fiq_threshold=0, **more).to_pylist()[0]


def test_a_mirrored_photo_has_mirrored_landmarks(find, upright):
    """FaceMesh alone is off by 0.7 to 1.4% of the height of these faces (root mean square)."""
    for photo in upright.values():
        points, other = (find(each).dense.points for each in (photo, np.ascontiguousarray(photo[:, ::-1])))
        back = other[COUNTERPARTS] * (-1, 1) + (photo.shape[1] - 1, 0)
        distances = np.linalg.norm(back - points, axis=1) / np.ptp(points[:, 1])
        assert np.sqrt((distances**2).mean()) < 0.005


# --- tilted and rotated ---------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [20, 45, 60, 75, 90, 180, 270])
def test_a_rotated_copy_has_the_same_face_and_its_roll_is_the_rotation(upright, degrees):
    for name, picture in upright.items():
        copy, matrix = turned(picture, degrees)
        one, other = row_of(picture, embeddings=True), row_of(copy, embeddings=True)
        assert other["status"] == "scored", name
        tilts = [geometry.eye_angle(np.reshape(row["landmarks"], (5, 2))) for row in (one, other)]
        away = (np.degrees(tilts[1] - tilts[0]) - degrees + 180) % 360 - 180
        assert abs(away) < 3, name
        if name == "astronaut":  # frontal: for other heads, rotation also changes yaw and pitch
            assert abs((other["roll"] - one["roll"] - degrees + 180) % 360 - 180) < 3
        expected = geometry.from_frame(np.reshape(one["landmarks"], (5, 2)), matrix)
        between = np.linalg.norm(expected[1] - expected[0])
        moved = np.linalg.norm(np.reshape(other["landmarks"], (5, 2)) - expected, axis=1)
        assert moved.max() < 0.1 * between, name
        assert abs(other["serfiq"] - one["serfiq"]) < 0.05, name
        assert np.dot(one["embedding"], other["embedding"]) > 0.9, name


@pytest.mark.parametrize("degrees", [0, 7, 45, 90, 135, 180, 270, 300])
@pytest.mark.parametrize("shape", [(40, 60), (61, 35)])
def test_rotating_an_image_keeps_all_pixels_at_the_mapped_positions(degrees, shape):
    picture = np.zeros((*shape, 3), np.uint8)
    points = np.array([(4, 5), (shape[1] - 6, 7), (12, shape[0] - 8)])
    for x, y in points:
        cv2.circle(picture, (int(x), int(y)), 3, (255, 255, 255), -1)
    whole, matrix = turned(picture, degrees)
    assert abs(int(whole.sum()) - int(picture.sum())) < 0.05 * picture.sum()
    for x, y in geometry.from_frame(points, matrix):
        ys, xs = np.mgrid[: whole.shape[0], : whole.shape[1]]
        near = whole[..., 0] * (np.hypot(xs - x, ys - y) < 6)
        centre = np.array([(xs * near).sum(), (ys * near).sum()]) / near.sum()
        assert np.abs(centre - (x, y)).max() < 0.2


# --- size and surroundings ------------------------------------------------------------------------


def pasted(picture: np.ndarray, size: tuple[int, int], at: tuple[int, int], seed: int = 0) -> np.ndarray:
    """An image on a canvas (width, height) of blurred noise."""
    chance = np.random.default_rng(seed).integers(60, 200, (size[1] // 120 + 2, size[0] // 120 + 2, 3))
    canvas = cv2.resize(chance.astype(np.uint8), size, interpolation=cv2.INTER_CUBIC)
    x, y = at
    canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return canvas


def brought_to(picture: np.ndarray, face: Face, pixels: float) -> np.ndarray:
    scale = pixels / face.box[2:].min()
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("size", CANVASES)
def test_a_face_of_the_minimum_size_is_found_in_an_image_of_any_size(find, upright, size):
    for number, (name, picture) in enumerate(upright.items()):
        small = brought_to(picture, find(picture).face, MIN_FACE + 1)
        room = np.array(size) - small.shape[1::-1]
        at = (room * np.random.default_rng(number).random(2)).astype(int)
        found = find(pasted(small, size, (at[0], at[1]), number))
        assert found is not None, name
        expected = at + find(picture).face.centre * small.shape[1] / picture.shape[1]
        assert np.abs(found.face.centre - expected).max() < 8, name
        assert is_face(found), name


def test_a_face_across_two_tiles_is_found_once(find, detector, upright):
    """At the detector's scale for `min_face`, a 4K image is two tiles wide. Faces cross the border between
    them."""
    face = brought_to(upright["astronaut"], find(upright["astronaut"]).face, 60)
    for left in range(1500, 2400, 75):
        detector.shown.clear()
        found = find(pasted(face, (3840, 2160), (left, 700)))
        assert found is not None and len(found.areas) == 1
        assert max(max(shape) for shape in detector.shown) <= detector.tile


def test_boxes_are_in_pixels_of_the_picture_given(find, astronaut):
    small = find(astronaut)
    large = find(cv2.resize(astronaut, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC))
    assert len(small.areas) == len(large.areas) == 1
    assert np.allclose(large.face.box / 4, small.face.box, atol=6)


def test_a_face_under_heavy_noise_is_found_at_a_smaller_size(find, astronaut):
    found = find(white_noise(astronaut, 50, seed=1))
    assert len(found.areas) == 1 and overlap(found.face, find(astronaut).face) > 0.4


@pytest.mark.parametrize("size", [(2048, 1536), (3840, 2160)])
def test_a_face_scores_the_same_on_a_larger_canvas(upright, size):
    for name, picture in upright.items():
        alone, there = row_of(picture), row_of(pasted(picture, size, (size[0] // 3, size[1] // 3)))
        assert there["serfiq"] == pytest.approx(alone["serfiq"], abs=0.02), name
        assert there["yaw"] == pytest.approx(alone["yaw"], abs=2), name


# --- the choice of the face -----------------------------------------------------------------------


def a_face(box: tuple[float, float, float, float], score: float) -> Face:
    return face_of(np.array(box, float), np.zeros((5, 2)), score, 1000, 1000)


@pytest.mark.parametrize(
    ("boxes", "wanted"),
    [
        ([((0, 0, 100, 100), 0.9), ((500, 0, 120, 120), 0.88)], 1),  # the largest near the best confidence
        ([((0, 0, 100, 100), 0.95), ((500, 0, 300, 300), 0.61)], 0),  # a bodice, falsely detected
        ([((0, 0, 100, 100), 0.91), ((500, 0, 140, 140), 0.72)], 0),  # a hand, falsely detected
        ([((0, 0, 100, 100), 0.85), ((400, 0, 100, 100), 0.95), ((700, 0, 150, 150), 0.81)], 2),
        ([((300, 300, 100, 100), 0.9), ((-70, 300, 160, 160), 0.93)], 0),  # the frame cuts off nearly half
        ([((300, 300, 100, 100), 0.9), ((-20, 300, 400, 400), 0.9)], 1),  # cut off, but much larger
    ],
)
def test_the_largest_confident_face_is_chosen_and_whole_faces_win_over_cut_off_ones(boxes, wanted):
    faces = [a_face(box, score) for box, score in boxes]
    assert chosen(faces) is chosen(faces[::-1]) is faces[wanted]


def test_a_smaller_whole_face_wins_over_half_a_face_at_the_edge(find, upright):
    large, small = upright["astronaut"], upright["group5"]
    face = find(large).face
    half = large[:, round(face.centre[0]) - 10 :]
    right = brought_to(small, find(small).face, 0.8 * face.size.min())
    height = max(len(half), len(right))
    both = np.full((height, half.shape[1] + right.shape[1], 3), 128, np.uint8)
    both[: len(half), : half.shape[1]] = half
    both[: len(right), half.shape[1] :] = right
    found = find(both)
    assert len(found.areas) == 2
    assert found.face.box[0] > half.shape[1]


# --- false detections -----------------------------------------------------------------------------


def test_real_faces_have_a_high_confidence(upright):
    rows = faceq.score_images([*upright.values(), *demo.source_faces().values()], fiq_threshold=0).to_pylist()
    assert min(row["face_confidence"] for row in rows) > 0.9
    assert all(0 < row["align_error"] < 12 for row in rows)


def test_a_detection_that_the_mesh_rejects_is_no_face(find):
    """None of skimage's images without people has a face, including the cat."""
    without = {
        name: getattr(skimage.data, name)()
        for name in ("chelsea", "coffee", "rocket", "retina", "colorwheel")
    }
    sure = [found for picture in without.values() if (found := find(picture[..., :3])) and is_face(found)]
    assert sure == []


@pytest.mark.parametrize(
    ("logit", "score", "wanted"), [(0.1, 0.6, True), (-0.1, 0.84, False), (-4, 0.9, True)]
)
def test_one_of_both_models_must_be_confident(logit, score, wanted):
    """The mesh has a low confidence for a blurred face or a profile, but the detector finds them."""
    dense = Dense(np.zeros((468, 2), np.float32), None, (), None, logit)
    found = Found(a_face((0, 0, 50, 50), score), dense, (), ())
    assert is_face(found) == wanted and (face_confidence(found) > 0.5) == (logit > 0)


@pytest.mark.parametrize("name", ["group4", "group5"])
def test_a_false_detection_leaves_the_face_columns_empty(find, upright, name):
    """The detector finds a face in the negative of a photo, the mesh does not."""
    negative = 255 - upright[name]
    found = find(negative)
    assert found is not None and not is_face(found)
    settings = config.Config()
    (row,) = FindFace(settings, choose(settings))(
        to_table([Frame("a", None, 0, demo._jpeg(negative))])
    ).to_pylist()
    assert row["status"] == "no_face" and row["n_faces"] == 1 and row["width"] == demo.FRAME_SIZE
    others = {"status", "n_faces", "width", "height", "frame_id", "source", "frame_index", "image"}
    assert all(value is None for name, value in row.items() if name not in others)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 700), (700, 1), (3, 20_000), (400, 20_000), (20_000, 60), (2, 2)])
@pytest.mark.parametrize("value", [0, 255, "noise"])
def test_images_of_any_shape_need_a_bounded_number_of_detection_passes(find, detector, shape, value):
    picture = np.full((*shape, 3), 0 if value == "noise" else value, np.uint8)
    if value == "noise":
        picture = np.random.default_rng(0).integers(0, 256, picture.shape, np.uint8)
    detector.shown.clear()
    find(picture)
    pixels = sum(height * width for height, width in detector.shown)
    once = detector.first_side**2 + picture[..., 0].size * (detector.least_face / MIN_FACE) ** 2
    assert pixels <= 2 * MOST_LOOKS * once + len(detector.shown) * 4 * detector.first_side


def test_five_hundred_faces_are_counted_and_one_is_chosen(find, detector, upright):
    small = brought_to(upright["astronaut"], find(upright["astronaut"]).face, 48)
    face = find(small).face
    x, y = (face.centre - 40).astype(int)
    crowd = np.tile(small[max(0, y) : y + 80, x : x + 80], (20, 25, 1))
    detector.shown.clear()
    found = find(crowd)
    assert 475 <= len(found.areas) <= 500
    assert len(detector.shown) <= MOST_LOOKS * 6


# --- alignment ------------------------------------------------------------------------------------


def test_the_template_fits_itself_and_noise_makes_the_fit_worse():
    turn = 3 * np.array([[0.6, -0.8], [0.8, 0.6]])
    exact = geometry.ALIGNED_LANDMARKS @ turn + (40, 900)
    assert geometry.align_error(exact) < 1e-6
    noise = np.random.default_rng(0).normal(0, 1, (5, 2))
    errors = [geometry.align_error(exact + amount * noise) for amount in (1, 3, 9)]
    assert 0.05 < errors[0] < errors[1] < errors[2]
    assert geometry.align_error(exact + noise) == pytest.approx(errors[0], rel=1e-9)


def test_the_quality_crop_is_mirrored_at_the_edge_of_the_frame():
    ramp = np.tile(np.arange(60, 160, dtype=np.uint8)[None, :, None], (100, 1, 3))
    crop = geometry.crop(ramp, geometry.crop_matrix(np.array([0.0, 50.0]), 64, 0.0))
    left, right = crop[128, :128].astype(int), crop[128, 128:].astype(int)
    assert np.abs(left[::-1][:120] - right[:120]).max() <= 1 and crop.min() >= 60
    aligned = geometry.align(ramp, geometry.ALIGNED_LANDMARKS - (56, 0))
    assert aligned[50, :50].max() == 0 and aligned[50, 60:].min() >= 60
