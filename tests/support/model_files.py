"""Model files made by tests: with the layouts of insightface's pack and of DB-CNN's checkpoints, small where
possible, and with random weights."""

import math
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from faceq.iqa.dbcnn_vgg import DBCNN

node = helper.make_node


def save(path: Path, nodes, weights, taken, given) -> Path:
    """Write an ONNX file from nodes, weights by name, and (name, shape) of inputs and outputs."""
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in side]
        for side in (taken, given)
    ]
    constants = [
        numpy_helper.from_array(np.asarray(each, np.float32), name) for name, each in weights.items()
    ]
    graph = helper.make_graph(nodes, "made", *values, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


def arcface(path: Path, side: int = 112, tail=()) -> Path:
    """A recogniser with the layout of w600k_r50.onnx: no normalisation and no dropout inside, a linear layer
    of 512 followed by its batch norm. `tail`: the nodes after it, from `norm` to `683`."""
    rng = np.random.default_rng(11)
    features = 8 * (side // 16) ** 2
    weights = {
        "kernel": rng.standard_normal((8, 3, 16, 16)) / 30,
        "slope": np.full((8, 1, 1), 0.25),
        "w": rng.standard_normal((512, features)) / math.sqrt(features),
        "b": rng.standard_normal(512) / 10,
        "gain": rng.uniform(0.5, 2, 512),
        "shift": rng.standard_normal(512) / 10,
        "mean": rng.standard_normal(512) / 10,
        "variance": rng.uniform(0.5, 2, 512),
    }
    last = "norm" if tail else "683"
    nodes = [
        node("Conv", ["input.1", "kernel"], ["maps"], strides=[16, 16]),
        node("PRelu", ["maps", "slope"], ["active"]),
        node("Flatten", ["active"], ["flat"]),
        node("Gemm", ["flat", "w", "b"], ["fc"], transB=1),
        node("BatchNormalization", ["fc", "gain", "shift", "mean", "variance"], [last]),
        *tail,
    ]
    return save(path, nodes, weights, [("input.1", ["None", 3, side, side])], [("683", ["None", 512])])


def heavy_tailed(path: Path) -> Path:
    """The same with a few features that outweigh all others: an exponential makes the features lognormal."""
    model = onnx.load(str(arcface(path)))
    (bent,) = [each for each in model.graph.node if each.op_type == "PRelu"]
    place = list(model.graph.node).index(bent)
    model.graph.node.remove(bent)
    model.graph.node.insert(place, node("Mul", [bent.input[0], "slope"], ["scaled"]))
    model.graph.node.insert(place + 1, node("Exp", ["scaled"], [bent.output[0]]))
    (slope,) = [each for each in model.graph.initializer if each.name == "slope"]
    slope.CopyFrom(numpy_helper.from_array(np.full((8, 1, 1), 3, np.float32), "slope"))
    onnx.save(model, str(path))
    return path


def blind_to_the_dark(path: Path, operation: str) -> Path:
    """An arcface whose features are zero (`Mul`) or not finite (`Div`) only for dark faces."""
    model = onnx.load(str(arcface(path)))
    (last,) = [each for each in model.graph.node if each.op_type == "Gemm"]
    place = list(model.graph.node).index(last)
    last.input[0] = "seen"
    added = [
        node("ReduceMean", ["input.1"], ["brightness"], axes=[1, 2, 3], keepdims=0),
        node("Greater", ["brightness", "dark"], ["is_bright"]),
        node("Cast", ["is_bright"], ["bright"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["bright", "axis"], ["factor"]),
        node(operation, ["flat", "factor"], ["seen"]),
    ]
    for index, each in enumerate(added):
        model.graph.node.insert(place + index, each)
    model.graph.initializer.append(numpy_helper.from_array(np.float32(-0.7), "dark"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axis"))
    onnx.save(model, str(path))
    return path


def landmarks_106(path: Path, numbers: int = 212, side: int = 192) -> Path:
    """Landmarks with the layout of 2d106det.onnx, which normalises inside and gives 106 points, -1...1 in its
    crop. Here the points are on an average face and move slightly with the image."""
    rng = np.random.default_rng(12)
    points = rng.uniform(-0.4, 0.4, (max(numbers // 2, 106), 2))
    around = np.linspace(0, np.pi, 33)
    points[:33] = np.stack([0.6 * np.cos(around), -0.1 + 0.75 * np.sin(around)], axis=1)
    # Chin, outer eye corners, nose tip, mouth corners.
    points[[0, 35, 93, 86, 52, 61]] = [
        *((0.0, 0.68), (-0.42, -0.15), (0.42, -0.15)),
        *((0.0, 0.12), (-0.25, 0.36), (0.25, 0.36)),
    ]
    weights = {
        "centre": np.array(127.5),
        "scale": np.array(1 / 128),
        "kernel": rng.standard_normal((6, 3, 32, 32)) / 60,
        "w": rng.standard_normal((numbers, 6 * (side // 32) ** 2)) / 500,
        "b": points.ravel()[:numbers],
    }
    nodes = [
        node("Sub", ["data", "centre"], ["minus"], name="_minusscalar0"),
        node("Mul", ["minus", "scale"], ["scaled"], name="_mulscalar0"),
        node("Conv", ["scaled", "kernel"], ["maps"], strides=[32, 32]),
        node("Tanh", ["maps"], ["bent"]),
        node("Flatten", ["bent"], ["flat"]),
        node("Gemm", ["flat", "w", "b"], ["fc1"], transB=1),
    ]
    return save(path, nodes, weights, [("data", ["None", 3, side, side])], [("fc1", [1, numbers])])


def detector(path: Path, outputs: int, channels: int = 3) -> Path:
    """A network that has the number of outputs of a detector, but is not a detector."""
    names = [f"out{index}" for index in range(outputs)]
    nodes = [node("Identity", ["input.1"], [name]) for name in names]
    picture = [1, channels, 64, 64]
    return save(path, nodes, {}, [("input.1", picture)], [(name, picture) for name in names])


def dbcnn_state(best: float = 1.0) -> dict[str, torch.Tensor]:
    """Random weights for the published DB-CNN, with scores near the middle of 0 to `best`."""
    generator = torch.Generator().manual_seed(7)
    filled = {}
    for key, value in DBCNN().state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith(("running_var", "num_batches_tracked")):
            filled[key] = value if "num" in key else noise.abs() + 0.5
        elif key == "fc.weight":
            filled[key] = best * noise / 8
        elif key == "fc.bias":
            filled[key] = torch.full_like(value, best / 2)
        elif value.ndim > 1:
            filled[key] = noise * math.sqrt(2 / value[0].numel())
        else:
            filled[key] = 0.1 * noise + (1 if key.endswith("weight") else 0)
    return filled


def dbcnn(path: Path, best: float = 1.0) -> Path:
    """A checkpoint with the layout of DBCNN_KonIQ10k-2de81c0a.pth. If `best` is not 1, it scores on a scale
    up to `best`."""
    torch.save({"params": dbcnn_state(best)}, path)
    return path
