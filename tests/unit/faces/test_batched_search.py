"""Many frames at once, as on a GPU: the same rows as one by one, in mini-batches of fixed shapes."""

import threading
import time

import cv2
import numpy as np
import onnx
import pytest
from insightface.app.common import Face as InsightFace
from insightface.model_zoo.landmark import Landmark
from model_files import landmarks_106
from onnx import helper, numpy_helper

from faceq import config
from faceq.faces import batched_search, fixed_size, landmarks, yunet_canvas
from faceq.faces.batched_search import BatchedSearch
from faceq.faces.detect import YuNet, face_of
from faceq.faces.fixed_size import MiniBatches
from faceq.faces.points_106 import Points106Session
from faceq.faces.scrfd import ScrfdSession
from faceq.faces.search import ask, finished, gathered, run
from faceq.faces.yunet import YuNetSession
from faceq.faces.yunet_canvas import YuNetCanvases
from faceq.models.fetch import fetch
from faceq.sources.decode.image import decode
from faceq.sources.frame import Frame, to_table
from faceq.stages.chosen_models import choose
from faceq.stages.find_face import FindFace
from jobs import demo

# --- searches -------------------------------------------------------------------------------------


class Doubling:
    """A network whose answer is twice its image's only value, and that records its mini-batches. Images of
    one width are a group."""

    def __init__(self, sizes: dict[int, int]):
        self.sizes = sizes
        self.runs: list[tuple[int, int]] = []

    def __call__(self, image):
        return 2 * int(image[0, 0, 0])

    def group(self, image):
        return image.shape[1]

    def size(self, group):
        return self.sizes[group]

    def many(self, group, images):
        assert {image.shape[1] for image in images} == {group} and len(images) <= self.sizes[group]
        self.runs.append((group, len(images)))
        return [image[0, 0, 0] for image in images]

    def answer(self, group, image, output):
        return 2 * int(output)


def an_image(value: int, width: int) -> np.ndarray:
    return np.full((1, width, 3), value, np.uint8)


def a_search(network, number: int):
    """The number times 2 ** (1 + number % 3), in as many calls, with two more calls in between."""
    value = number
    for step in range(1 + number % 3):
        value = yield from ask(network, an_image(value, 1 + step))
        both = yield from gathered([ask(network, an_image(each, 3)) for each in (1, number)])
        assert both == [2, 2 * number]
    return value


def test_the_results_are_in_order_and_those_of_searches_one_by_one():
    network = Doubling({1: 4, 2: 3, 3: 8})
    numbers = list(range(30))
    found = BatchedSearch(3, 12)(lambda number: (a_search(network, number), 10), numbers)
    assert found == [number * 2 ** (1 + number % 3) for number in numbers]
    assert found == [run(a_search(network, number)) for number in numbers]
    assert sum(count for _, count in network.runs) == 30 * 2 + 30 * 2 * 2
    assert (1, 4) in network.runs and (3, 8) in network.runs


def test_searches_without_calls_and_empty_batches_end():
    searching = BatchedSearch(2, 4)
    assert searching(lambda number: (finished(number), 0), [1, 2, 3]) == [1, 2, 3]
    assert searching(lambda number: (finished(number), 0), []) == []


@pytest.mark.parametrize(("at_once", "memory", "most"), [(3, 10**6, 3), (100, 500, 9)])
def test_the_number_of_searches_and_the_memory_they_hold_are_limited(monkeypatch, at_once, memory, most):
    """Every search holds 100 bytes. Beyond the memory, only those that are being opened are added."""
    monkeypatch.setattr(batched_search, "MEMORY", memory)
    network, alive, seen, lock = Doubling({1: 2}), [0], [0], threading.Lock()

    def counted(number):
        with lock:
            alive[0] += 1
            seen[0] = max(seen[0], alive[0])
        yield from ask(network, an_image(number, 1))
        with lock:
            alive[0] -= 1

    BatchedSearch(2, at_once)(lambda number: (counted(number), 100), list(range(40)))
    assert alive == [0] and 1 < seen[0] <= most


def test_an_error_ends_the_batch_when_no_thread_is_at_work_any_more():
    network, at_work = Doubling({1: 1}), [0]

    def failing(number):
        yield from ask(network, an_image(number, 1))
        at_work[0] += 1
        time.sleep(0.05)
        at_work[0] -= 1
        if number == 3:
            raise ValueError("number 3")

    searching = BatchedSearch(2, 8)
    with pytest.raises(ValueError, match="number 3"):
        searching(lambda number: (failing(number), 0), list(range(20)))
    assert at_work == [0]
    assert searching(lambda number: (finished(number), 0), [7]) == [7]


# --- YuNet ----------------------------------------------------------------------------------------

SHAPES = [(512, 512), (320, 200), (95, 320), (500, 333), (260, 390), (61, 90)]


@pytest.fixture(scope="module")
def pictures(astronaut, photos) -> list[np.ndarray]:
    six = decode((photos / "t1.jpg").read_bytes(), 10**7)
    return [cv2.resize(photo, shape[::-1]) for photo in (astronaut, six) for shape in SHAPES]


def found_on_canvases(pictures: list[np.ndarray], size: int) -> list[np.ndarray]:
    canvases, found = YuNetCanvases(fetch("yunet"), 0.6, "cpu", 1, size), {}
    groups = [canvases.canvas(*picture.shape[:2]) for picture in pictures]
    assert len(set(groups)) == 4
    for canvas in set(groups):
        of = [index for index, group in enumerate(groups) if group == canvas]
        outputs = canvases.many(canvas, [pictures[index] for index in of])
        for index, output in zip(of, outputs, strict=True):
            found[index] = canvases.faces_in(canvas, pictures[index], output)
    return [found[index] for index in range(len(pictures))]


def test_yunet_finds_the_same_faces_on_a_canvas_as_at_the_images_own_size(pictures):
    alone = YuNetSession(fetch("yunet"), 0.6)
    found = found_on_canvases(pictures, 3)
    for picture, faces in zip(pictures, found, strict=True):
        expected = alone(picture)
        assert faces.shape == expected.shape and np.allclose(faces, expected, atol=1e-3)
    assert sum(map(len, found)) > 15


def test_on_a_plain_canvas_faces_would_move(pictures, monkeypatch):
    """Why the padding is set to zero before each convolution."""
    exact = found_on_canvases(pictures, 3)
    monkeypatch.setattr(yunet_canvas, "_inside", lambda shape, size: np.ones(shape, np.float32))
    padded = found_on_canvases(pictures, 3)
    moved = [
        np.abs(one[:, :14] - other[:, :14]).max()
        for one, other in zip(exact, padded, strict=True)
        if one.shape == other.shape and len(one)
    ]
    assert max(moved) > 0.5


def test_larger_canvases_take_fewer_images():
    canvases = YuNetCanvases(fetch("yunet"), 0.6, "cpu", 1, 32)
    wanted = {(320, 200): 32, (320, 453): 21, (540, 960): 5, (1280, 1280): 2, (2000, 40): 4, (4000, 4000): 1}
    assert {shape: canvases.size(canvases.canvas(*shape)) for shape in wanted} == wanted


# --- networks of one input size -------------------------------------------------------------------


def flattened(scrfd: onnx.ModelProto) -> onnx.ModelProto:
    """SCRFD with the outputs of det_10g.onnx: without a batch dimension, all images of a batch in turns."""
    shapes = {each.name: each for each in scrfd.graph.initializer}
    for node in scrfd.graph.node:
        if node.op_type == "Transpose":
            node.attribute[0].CopyFrom(helper.make_attribute("perm", [2, 3, 0, 1]))
        if node.op_type == "Reshape":
            shape = shapes[node.input[1]]
            shape.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(shape)[1:], shape.name))
    for output in scrfd.graph.output:
        output.type.tensor_type.ClearField("shape")
    return scrfd


@pytest.mark.shared
@pytest.mark.parametrize("layout", [lambda model: model, flattened])
def test_scrfd_finds_the_same_faces_in_batches(shared, pictures, layout):
    path = shared / "weights" / "scrfd_500m_bnkps.onnx"
    alone = ScrfdSession(path, onnx.load(str(path)), 0.5)
    many = ScrfdSession(path, layout(onnx.load(str(path))), 0.5, batches=True)
    mini_batches = MiniBatches(many, 3)
    assert mini_batches.size(None) == 3
    prepared = [alone.prepared(picture) for picture in pictures[:4]]
    outputs = mini_batches.many(None, [shown for shown, _ in prepared])
    found = 0
    for (shown, scale), output in zip(prepared, outputs, strict=True):
        expected, faces = alone.decode(alone(shown), scale), many.decode(output, scale)
        for one, other in zip(expected, faces, strict=True):
            assert one.shape == other.shape and np.allclose(one, other, atol=1e-3)
        found += len(faces[0])
    assert found


def test_106_landmarks_are_those_of_insightface_also_in_batches(tmp_path, astronaut):
    path = landmarks_106(tmp_path / "2d106det.onnx")
    face = face_of(np.array([150.3, 60.7, 120.2, 149.9]), np.zeros((5, 2)), 0.9, 512, 512)
    box = np.concatenate([face.box[:2], face.box[:2] + face.box[2:]])
    expected = Landmark(str(path)).get(np.ascontiguousarray(astronaut[..., ::-1]), InsightFace(bbox=box))
    assert np.array_equal(landmarks.load(path)(astronaut, face).points, expected.astype(np.float32))
    assert np.allclose(landmarks.load(path, mini_batch=4)(astronaut, face).points, expected, atol=1e-3)


def test_a_network_that_mixes_its_images_runs_one_at_a_time(tmp_path, caplog):
    model = onnx.load(str(landmarks_106(tmp_path / "mixing.onnx")))
    (last,) = [each for each in model.graph.node if each.op_type == "Gemm"]
    place = list(model.graph.node).index(last)
    mean = helper.make_node("ReduceMean", [last.input[0]], ["mean"], axes=[0])
    model.graph.node.insert(place, mean)
    model.graph.node.insert(place + 1, helper.make_node("Sub", [last.input[0], "mean"], ["centred"]))
    last.input[0] = "centred"
    onnx.save(model, str(tmp_path / "mixing.onnx"))
    session = Points106Session(tmp_path / "mixing.onnx")
    assert fixed_size.MiniBatches(session, 8).size(None) == 1
    assert "Points106Session runs one image at a time: two images together have other values" in caplog.text


# --- the stage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(astronaut, photos):
    """Faces that are upright, rotated, several, none, too small, in a large image, and broken files."""
    six = (photos / "t1.jpg").read_bytes()
    large = cv2.resize(astronaut, (2200, 2200), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(astronaut, (90, 90), interpolation=cv2.INTER_AREA)
    grey = np.full((300, 200, 3), 128, np.uint8)
    tilted = cv2.warpAffine(astronaut, cv2.getRotationMatrix2D((256, 256), 50, 1), (512, 512))
    upright = list(demo.source_faces().values())
    pictures = [astronaut, np.rot90(astronaut), tilted, grey, large, small, np.rot90(astronaut, 2), *upright]
    images = [demo._jpeg(np.ascontiguousarray(picture)) for picture in pictures]
    images[3:3] = [six, six[:900], b""]
    return to_table([Frame(str(number), None, 0, image) for number, image in enumerate(images)])


@pytest.fixture(scope="module")
def together() -> FindFace:
    settings = config.build({"find_face": {"mini_batch": 8, "num_cpus": 2}})
    return FindFace(settings, choose(settings), batched=True)


def test_the_rows_of_frames_together_are_those_of_frames_one_by_one(frames, together):
    settings = config.build({})
    expected = FindFace(settings, choose(settings))(frames).to_pylist()
    found = together(frames).to_pylist()
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for name in ("source", "status", "error", "width", "height", "n_faces", "dhash"):
            assert one[name] == other[name], name
        if one["landmarks"]:
            assert np.allclose(one["landmarks"], other["landmarks"], atol=1e-3)
        if one["crop"]:
            away = np.frombuffer(one["crop"], np.uint8).astype(int) - np.frombuffer(other["crop"], np.uint8)
            assert np.abs(away).max() <= 1
    assert {row["status"] for row in found} == {None, "unreadable", "no_face", "face_too_small"}


def test_a_row_does_not_depend_on_the_frames_beside_it(frames, together):
    whole = together(frames)
    for row in (1, 3):
        assert together(frames.slice(row, 1)).equals(whole.slice(row, 1))
    assert together(frames.slice(2, 5)).equals(whole.slice(2, 5))


def test_frames_one_by_one_use_no_thread_and_no_mini_batch(frames, monkeypatch):
    settings = config.build({})
    stage = FindFace(settings, choose(settings))
    assert isinstance(stage._find._detector, YuNet)
    monkeypatch.setattr(BatchedSearch, "__call__", None)
    assert stage(frames.slice(0, 1))["n_faces"].to_pylist() == [1]
