"""DB-CNN-Lite in ONNX Runtime compared with DB-CNN-Lite in torch."""

import numpy as np
import pytest
import torch

from faceq.iqa.dbcnn_lite import DBCNNLite, load_dbcnn_lite
from faceq.iqa.dbcnn_lite_onnx import OnnxQuality
from faceq.iqa.dbcnn_lite_weights import DBCNN_LITE_WEIGHTS, FIRST, SECOND


@pytest.fixture(scope="module", params=["first", "second"])
def model(request) -> DBCNNLite:
    """The shipped weights, and random ones of the second layout."""
    if request.param == "first":
        return load_dbcnn_lite(DBCNN_LITE_WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return DBCNNLite(SECOND).eval()


@pytest.fixture(scope="module")
def pictures(astronaut) -> np.ndarray:
    """A face, its mirror image, and another part of the photo, (3, 256, 256, 3) uint8 RGB."""
    face = astronaut[:256, 100:356]
    return np.stack([face, face[:, ::-1], astronaut[256:, 256:]])


@pytest.fixture(scope="module")
def quality(model: DBCNNLite) -> OnnxQuality:
    return OnnxQuality(model.arrays(), 3, 256, threads=1)


@torch.inference_mode()
def test_every_map_is_the_one_that_torch_computes(model, quality, pictures) -> None:
    expected = model.maps(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    for wanted, found in zip(
        [*expected.levels, expected.distortion], map(torch.from_numpy, quality.maps(pictures)), strict=True
    ):
        assert wanted.shape == found.shape
        assert torch.allclose(wanted, found, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@torch.inference_mode()
def test_scores_inside_any_mask_are_the_same_to_a_thousandth_of_a_point(model, quality, pictures) -> None:
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    masks = np.zeros((3, 256, 256), np.float32)
    masks[0, 40:120, 50:110] = 1
    masks[1, 33:36, 7:9] = 0.5  # smaller than a position of any map; the third mask is empty
    wanted = model(images, torch.from_numpy(masks)[:, None]).numpy()
    (found,) = quality(pictures, masks)
    assert np.abs(found - wanted).max() < 1e-3
    assert len({round(float(score), 3) for score in found}) == 3


def test_a_side_that_the_strides_do_not_divide_is_refused(model: DBCNNLite) -> None:
    unit = 32 if model.layout == FIRST else 128
    with pytest.raises(ValueError, match=f"250 pixels: it must be a multiple of {unit}"):
        OnnxQuality(model.arrays(), 1, 250, threads=1)
