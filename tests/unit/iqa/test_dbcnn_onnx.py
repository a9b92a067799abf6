"""DB-CNN-Lite's networks in ONNX Runtime compared with the same networks in torch."""

import dataclasses

import numpy as np
import pytest
import torch

from faceq.iqa.dbcnn_lite import DBCNN_LITE_WEIGHTS, DBCNNLite, load_dbcnn_lite
from faceq.iqa.dbcnn_lite_onnx import OnnxMaps


@pytest.fixture(scope="module")
def model() -> DBCNNLite:
    return load_dbcnn_lite(DBCNN_LITE_WEIGHTS)


@pytest.fixture(scope="module")
def pictures(astronaut) -> np.ndarray:
    """A face, its mirror image, and another part of the photo, (3, 160, 160, 3) uint8 RGB."""
    face = astronaut[30:190, 140:300]
    return np.stack([face, face[:, ::-1], astronaut[300:460, 300:460]])


@torch.inference_mode()
def test_every_map_is_the_one_that_torch_computes(model: DBCNNLite, pictures: np.ndarray) -> None:
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    expected, found = model.maps(images), OnnxMaps(model, 3, 160, threads=1)(pictures)
    for field in dataclasses.fields(expected):
        pairs = [getattr(maps, field.name) for maps in (expected, found)]
        there, here = (list(values) if field.name == "levels" else [values] for values in pairs)
        assert [values.shape for values in there] == [values.shape for values in here]
        for torchs, onnxs in zip(there, here, strict=True):
            assert torch.allclose(torchs, onnxs, rtol=1e-4, atol=1e-5 * float(torchs.abs().max()))


@torch.inference_mode()
def test_scores_are_the_same_to_a_thousandth_of_a_point(model: DBCNNLite, pictures: np.ndarray) -> None:
    mask = torch.zeros(3, 1, 160, 160)
    mask[:, :, 40:120, 50:110] = 1
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    expected = model(images, mask)
    found = model.rate(OnnxMaps(model, 3, 160, threads=1)(pictures), mask)
    assert torch.allclose(expected, found, atol=1e-3)


def test_a_side_that_the_strides_do_not_divide_is_refused(model: DBCNNLite) -> None:
    with pytest.raises(ValueError, match="250 pixels: it must be a multiple of 32"):
        OnnxMaps(model, 1, 250, threads=1)
