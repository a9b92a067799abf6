"""The recogniser, split into backbone and head: together they equal the network in the file."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from faceq.errors import UsageError
from faceq.faces import geometry
from faceq.faces.detect import YuNet
from faceq.fiq import recogniser
from faceq.fiq.recogniser import Backbone
from faceq.fiq.serfiq import ClosedForm
from faceq.models.fetch import fetch
from faceq.runtime.onnx_runtime import ModelFileError

FEATURES, OUTPUTS = 4 * 7 * 7, 16


@pytest.fixture(scope="module")
def face(astronaut) -> np.ndarray:
    (found,) = YuNet(fetch("yunet"), 0.6)(astronaut)
    return geometry.align(astronaut, found.landmarks)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return recogniser.from_zoo("sface")


def embeddings(backbone: Backbone, faces: np.ndarray) -> np.ndarray:
    return ClosedForm(backbone.head)(backbone(faces))[1]


def whole(path, batch: np.ndarray) -> np.ndarray:
    """The embeddings of the network in the file, (N, E), one image at a time."""
    model = onnx.load(str(path))
    used = {name for node in model.graph.node for name in node.input}
    for value in [value for value in model.graph.input if value.name not in used]:
        model.graph.input.remove(value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = [value.name for value in session.get_inputs()]
    return np.concatenate([session.run(None, {name: picture[None]})[0] for picture in batch])


def test_backbone_and_head_give_the_embedding_of_the_whole_file(backbone, face):
    wanted = whole(fetch("sface"), face.transpose(2, 0, 1)[None].astype(np.float32))
    assert np.allclose(embeddings(backbone, face[None]), wanted, atol=1e-3)


def test_dropout_rate_comes_from_the_file(backbone):
    assert backbone.head.dropout == pytest.approx(0.4)


def test_features_do_not_depend_on_the_batch(backbone, face):
    others = np.stack([face[::-1], face[:, ::-1], 255 - face])
    together = backbone(np.concatenate([others, face[None]]))[3]
    assert np.array_equal(together, backbone(face[None])[0])


# --- graphs like those of exporters: a strided convolution followed by one of these tails ---


def weights(**arrays) -> dict[str, np.ndarray]:
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


rng = np.random.default_rng(5)
W, B = rng.standard_normal((OUTPUTS, FEATURES)), rng.standard_normal(OUTPUTS)
GAIN, SHIFT, MEAN, VARIANCE = (rng.uniform(0.5, 2, OUTPUTS) for _ in range(4))
node = helper.make_node
FLATTEN = node("Flatten", ["x"], ["flat"])
NORM = weights(gain=GAIN, shift=SHIFT, mean=MEAN, variance=VARIANCE)
BATCH_NORM = ["gain", "shift", "mean", "variance"]

TAILS = {
    "gemm, batch norm, dropout as an attribute": (
        [
            node("Dropout", ["x"], ["dropped"], ratio=0.3),
            node("Flatten", ["dropped"], ["flat"]),
            node("Gemm", ["flat", "w", "b"], ["fc"], transB=1),
            node("BatchNormalization", ["fc", *BATCH_NORM], ["out"], epsilon=1e-3),
        ],
        {**weights(w=W, b=B), **NORM},
        {"opset": 11, "rate": 0.3},
    ),
    "gemm with factors, not transposed": (
        [
            FLATTEN,
            node("Dropout", ["flat", "ratio"], ["dropped"]),
            node("Gemm", ["dropped", "w", "b"], ["out"], alpha=0.5, beta=2.0),
        ],
        weights(w=W.T, b=B, ratio=0.25),
        {"rate": 0.25},
    ),
    "matmul, bias, scale": (
        [
            node("Dropout", ["x", "ratio"], ["dropped"]),
            node("Reshape", ["dropped", "shape"], ["flat"]),
            node("MatMul", ["flat", "w"], ["fc"]),
            node("Add", ["b", "fc"], ["sum"]),
            node("Mul", ["sum", "gain"], ["scaled"]),
            node("Sub", ["scaled", "shift"], ["out"]),
        ],
        {**weights(w=W.T, b=B[None], ratio=0.5, gain=GAIN, shift=SHIFT), "shape": np.array([-1, FEATURES])},
        {"rate": 0.5},
    ),
    "no dropout, batch norm, as ArcFace's files": (
        [
            FLATTEN,
            node("Gemm", ["flat", "w", "b"], ["fc"], transB=1),
            node("BatchNormalization", ["fc", *BATCH_NORM], ["out"]),
        ],
        {**weights(w=W, b=B), **NORM},
        {"given": 0.4, "rate": 0.4},
    ),
    "scaled to length one, written out": (
        [
            node("Dropout", ["x", "ratio"], ["dropped"]),
            node("Flatten", ["dropped"], ["flat"]),
            node("Gemm", ["flat", "w"], ["fc"], transB=1),
            node("ReduceL2", ["fc"], ["length"], axes=[1], keepdims=1),
            node("Clip", ["length", "least"], ["clipped"]),
            node("Div", ["fc", "clipped"], ["out"]),
        ],
        weights(w=W, ratio=0.4, least=1e-12),
        {"opset": 13, "rate": 0.4},
    ),
}


def save(path, nodes, constants, opset=13, size=112):
    """Write an ONNX file with a convolution to (N, 4, 7, 7), followed by `nodes` on its output `x`."""
    kernel = rng.standard_normal((4, 3, 16, 16)).astype(np.float32) / 3000
    constants = {**constants, "kernel": kernel}
    convolution = node("Conv", ["picture", "kernel"], ["x"], strides=[16, 16])
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, size, size])
    graph = helper.make_graph(
        [convolution, *nodes],
        "recogniser",
        [picture],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("name", TAILS)
def test_every_linear_tail_is_understood(name, face, tmp_path):
    nodes, constants, facts = TAILS[name]
    path = save(tmp_path / "own.onnx", nodes, constants, facts.get("opset", 13))
    own = Backbone(path, facts.get("given"), mean=127.5, std=127.5)
    assert own.head.dropout == pytest.approx(facts["rate"])
    faces = np.stack([face, face[:, ::-1], 255 - face])
    wanted = whole(path, (faces.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5)
    found = embeddings(own, faces)
    if "length one" in name:
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    assert np.allclose(found, wanted, rtol=1e-3, atol=1e-4)


GEMM = node("Gemm", ["flat", "w", "b"], ["fc"], transB=1)
LINEAR = node("Gemm", ["flat", "w", "b"], ["out"], transB=1)
DROPOUT = node("Dropout", ["x", "ratio"], ["dropped"])
AFTER = node("Flatten", ["dropped"], ["flat"])


@pytest.mark.parametrize(
    ("nodes", "constants", "said"),
    [
        ([node("Relu", ["x"], ["out"])], {}, "the last layer is not linear: it is followed by Relu"),
        ([FLATTEN, LINEAR], weights(w=W, b=B), "no Dropout node before its last layer"),
        (
            [DROPOUT, AFTER, GEMM, node("Tanh", ["fc"], ["out"])],
            weights(w=W, b=B, ratio=0.4),
            "it is followed by Tanh",
        ),
        ([DROPOUT, AFTER, LINEAR], weights(w=W, b=B, ratio=0), "the dropout rate is 0"),
        ([DROPOUT, AFTER, LINEAR], weights(w=W * 0, b=B, ratio=0.4), "weights are all zero"),
        (
            [node("Mul", ["x", "none"], ["y"]), node("Dropout", ["y", "ratio"], ["dropped"]), AFTER, LINEAR],
            weights(w=W, b=B, ratio=0.4, none=0),
            "all dropout passes of a face are equal",
        ),
        (
            [FLATTEN, node("Transpose", ["flat"], ["turned"]), node("MatMul", ["flat", "turned"], ["out"])],
            {},
            "does not end in a linear layer",
        ),
        (
            [
                node("Reshape", ["x", "shape"], ["fixed"]),
                node("Dropout", ["fixed", "ratio"], ["flat"]),
                LINEAR,
            ],
            {**weights(w=W, b=B, ratio=0.4), "shape": np.array([1, FEATURES])},
            r"fails on two faces",
        ),
    ],
)
def test_a_graph_that_cannot_be_split_is_refused_by_name(nodes, constants, said, tmp_path):
    path = save(tmp_path / "own.onnx", nodes, constants)
    with pytest.raises(ModelFileError, match=rf"own\.onnx: .*{said}"):
        Backbone(path)
    assert issubclass(ModelFileError, UsageError)


def test_a_network_for_other_pictures_is_refused(tmp_path):
    constants = weights(w=np.tile(W, 4), b=B, ratio=0.4)
    path = save(tmp_path / "own.onnx", [DROPOUT, AFTER, LINEAR], constants, size=224)
    with pytest.raises(ModelFileError, match=r"own\.onnx: fails on two faces of shape \(3, 112, 112\)"):
        Backbone(path)


def test_a_file_that_is_no_network_is_refused(tmp_path):
    path = tmp_path / "own.onnx"
    path.write_bytes(b"<html>404 Not Found</html>")
    with pytest.raises(ModelFileError, match=r"own\.onnx: is not an ONNX file"):
        Backbone(path)
