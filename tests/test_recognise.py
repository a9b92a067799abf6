"""The recogniser, cut open: its two halves together are the network in the file."""

import numpy as np
import onnx
import onnxruntime
import pytest

from faceq import geometry, models
from faceq.detect import YuNet
from faceq.recognise import Backbone, RecogniserError


@pytest.fixture(scope="module")
def face(astronaut) -> np.ndarray:
    (found,) = YuNet(models.fetch("yunet"), 0.6)(astronaut)
    return geometry.align(astronaut, found.landmarks)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone(models.fetch("sface"))


def test_backbone_and_head_give_the_embedding_of_the_whole_file(backbone, face):
    model = onnx.load(str(models.fetch("sface")))
    used = {name for node in model.graph.node for name in node.input}
    unused = [value for value in model.graph.input if value.name not in used]
    for value in unused:
        model.graph.input.remove(value)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (whole,) = session.run(None, {"data": face.transpose(2, 0, 1)[None].astype(np.float32)})
    halves = backbone(face[None]) @ backbone.head.weight.T + backbone.head.bias
    assert np.allclose(halves, whole, atol=1e-3)


def test_dropout_rate_comes_from_the_file(backbone):
    assert backbone.head.dropout == pytest.approx(0.4)


def test_features_do_not_depend_on_the_batch(backbone, face):
    others = np.stack([face[::-1], face[:, ::-1], 255 - face])
    together = backbone(np.concatenate([others, face[None]]))[3]
    assert np.array_equal(together, backbone(face[None])[0])


def test_a_graph_without_dropout_is_refused_by_name(tmp_path):
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph), str(path))
    with pytest.raises(RecogniserError, match=r"relu\.onnx: the graph has no Dropout node"):
        Backbone(path)
