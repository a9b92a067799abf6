"""Graphs that are rewritten for speed give the same results."""

import copy

import numpy as np
import onnx
import pytest
from model_files import arcface

from faceq.cli import main
from faceq.fiq.recogniser import _keep_inputs
from faceq.models.fetch import fetch
from faceq.runtime.onnx_runtime import ModelFileError, read, session, spell_out_prelu


@pytest.fixture(params=["sface", "arcface"])
def recogniser(request, tmp_path):
    return fetch("sface") if request.param == "sface" else arcface(tmp_path / "arcface.onnx")


def test_rewritten_prelu_gives_the_same_embedding(recogniser):
    model = read(recogniser)
    _keep_inputs(model, recogniser)
    spelled = copy.deepcopy(model)
    spell_out_prelu(spelled)
    assert any(node.op_type == "PRelu" for node in model.graph.node)
    assert all(node.op_type != "PRelu" for node in spelled.graph.node)
    onnx.checker.check_model(spelled)
    faces = np.random.default_rng(0).integers(0, 256, (1, 3, 112, 112)).astype(np.float32)
    feed = {model.graph.input[0].name: faces}
    one, other = (session(recogniser, each, "cpu", 1).run(None, feed) for each in (model, spelled))
    assert np.abs(one[0] - other[0]).max() < 1e-4 * np.abs(one[0]).max()


def test_prelu_with_one_slope_for_all_channels_is_not_rewritten(recogniser):
    """The number of channels is unknown."""
    model = read(recogniser)
    for node in model.graph.node:
        if node.op_type == "PRelu":
            node.input[1] = "one"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 1, 1), 0.1, np.float32), "one"))
    wanted = [node.op_type for node in model.graph.node]
    spell_out_prelu(model)
    assert sum(kind == "PRelu" for kind in wanted) == sum(
        node.op_type == "PRelu" for node in model.graph.node
    )


def _in_another_file(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def _weight(model):
    _in_another_file(model.graph.initializer[0], "weights.bin")


def _constant(model):
    value = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "c")
    _in_another_file(value, "../../etc/hostname")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=value))


def _branch(model):
    """Weights in a subgraph."""
    weight = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    _in_another_file(weight, "/etc/hostname")
    out = onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4])
    inner = onnx.helper.make_graph([], "inner", [], [out], [weight])
    node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    model.graph.node.append(node)


@pytest.mark.parametrize(
    ("change", "place"),
    [(_weight, "weights.bin"), (_constant, "../../etc/hostname"), (_branch, "/etc/hostname")],
)
def test_weights_in_another_file_are_refused_since_no_digest_covers_them(tmp_path, change, place):
    path = arcface(tmp_path / "arcface.onnx")
    model = onnx.load(str(path))
    change(model)
    path.write_bytes(model.SerializeToString())
    (tmp_path / "weights.bin").write_bytes(bytes(1 << 20))
    with pytest.raises(ModelFileError, match=f"keeps weights in other files .'{place}'., .*as one file"):
        read(path)


def test_a_job_with_weights_in_another_file_is_refused_before_it_starts(tmp_path, capsys):
    path = arcface(tmp_path / "arcface.onnx")
    outside = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 1}
    onnx.save_model(onnx.load(str(path)), path, **outside)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"of no matter")
    arguments = ["score", str(tmp_path / "in"), "--out", str(tmp_path / "t"), "--recogniser", str(path)]
    assert main.main(arguments) == 2
    assert "'w.bin'" in capsys.readouterr().err and not (tmp_path / "t").exists()
