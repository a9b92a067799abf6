"""Graphs that are written anew for speed compute what they did."""

import copy

import numpy as np
import onnx
import pytest
from model_files import arcface

from faceq import models
from faceq.onnx_runtime import read, session, spell_out_prelu
from faceq.recognise import _keep_inputs


@pytest.fixture(params=["sface", "arcface"])
def recogniser(request, tmp_path):
    return models.fetch("sface") if request.param == "sface" else arcface(tmp_path / "arcface.onnx")


def test_prelu_spelled_out_gives_the_same_embedding(recogniser):
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


def test_one_slope_for_all_channels_is_left_as_it_is(recogniser):
    """Nothing tells how many channels there are."""
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
