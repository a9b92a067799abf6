"""The shipped weights on a real image: what the scores mean, and what they do not depend on."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from skimage.data import astronaut
from torch import Tensor, nn

from faceq.errors import ModelFileError
from faceq.evaluation.distortions import LADDERS
from faceq.iqa.dbcnn_lite import DBCNNLite, load_dbcnn_lite
from faceq.iqa.dbcnn_lite_weights import DBCNN_LITE_WEIGHTS, shapes

FACE = (slice(10, 210), slice(120, 320))  # rows and columns of the astronaut's head


@pytest.fixture(scope="module")
def model() -> DBCNNLite:
    return load_dbcnn_lite(DBCNN_LITE_WEIGHTS)


@pytest.fixture(scope="module")
def face() -> NDArray[np.uint8]:
    crop = np.ascontiguousarray(astronaut()[FACE])
    return np.asarray(cv2.resize(crop, (256, 256), interpolation=cv2.INTER_LINEAR), np.uint8)


def tensor(*images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def oval(side: int = 256) -> Tensor:
    mask = np.zeros((side, side), np.float32)
    cv2.ellipse(mask, (side // 2, side // 2), (side // 4, side // 3), 0, 0, 360, 1.0, -1)
    return torch.from_numpy(mask)[None, None]


def whole(images: Tensor) -> Tensor:
    return torch.ones_like(images[:, :1])


@torch.inference_mode()
def scores(model: DBCNNLite, images: Tensor, mask: Tensor | None = None) -> Tensor:
    mask = whole(images) if mask is None else mask.expand(len(images), -1, -1, -1)
    return model(images, mask)


def test_a_good_portrait_scores_on_the_upper_half_of_the_scale(
    model: DBCNNLite, face: NDArray[np.uint8]
) -> None:
    good = scores(model, tensor(face))
    assert good.shape == (1,) and good.dtype == torch.float32
    assert 50 < good.item() < 110


@pytest.mark.parametrize("kind", LADDERS)
@pytest.mark.parametrize("masked", [True, False])
def test_scores_fall_as_the_face_is_degraded(
    model: DBCNNLite, face: NDArray[np.uint8], kind: str, masked: bool
) -> None:
    ladder = tensor(*(LADDERS[kind](face, severity, 3) for severity in (0, 2, 3, 5)))
    found = scores(model, ladder, oval() if masked else None).tolist()
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] > 15


@pytest.mark.parametrize("kind", LADDERS)
def test_the_mask_gives_more_weight_to_the_part_inside_it(
    model: DBCNNLite, face: NDArray[np.uint8], kind: str
) -> None:
    inside = oval()[0, 0].bool().numpy()[..., None]
    spoiled = LADDERS[kind](face, 5, 0)
    pictures = tensor(face, np.where(inside, face, spoiled), np.where(inside, spoiled, face))
    clean, around, within = scores(model, pictures, oval()).tolist()
    clean_whole, around_whole, within_whole = scores(model, pictures).tolist()
    assert clean - around < clean_whole - around_whole - 1
    assert clean - within > clean_whole - within_whole + 1


def test_a_mask_of_ones_and_a_mask_of_halves_give_the_same_score(
    model: DBCNNLite, face: NDArray[np.uint8]
) -> None:
    images = tensor(face)
    assert torch.allclose(scores(model, images), scores(model, images, 0.5 * whole(images)), atol=1e-2)


def test_an_empty_mask_gives_one_constant_for_any_picture(model: DBCNNLite, face: NDArray[np.uint8]) -> None:
    images = tensor(face, LADDERS["blur"](face, 5, 0))
    good, bad = scores(model, images, 0 * whole(images)[:1]).tolist()
    assert np.isfinite(good) and good == bad


def test_the_score_does_not_depend_on_the_rest_of_the_batch(
    model: DBCNNLite, face: NDArray[np.uint8]
) -> None:
    others = [LADDERS[kind](face, 4, 0) for kind in LADDERS]
    alone = scores(model, tensor(face), oval())
    together = scores(model, tensor(face, *others), oval())
    assert abs(alone[0] - together[0]) < 1e-2


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (256, 192)])
def test_any_size_from_64_up(model: DBCNNLite, face: NDArray[np.uint8], size: tuple[int, int]) -> None:
    assert torch.isfinite(scores(model, tensor(np.asarray(cv2.resize(face, size[::-1]), np.uint8)))).all()


def test_both_branches_together_stay_within_their_budget(model: DBCNNLite, face: NDArray[np.uint8]) -> None:
    macs = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        macs += output.numel() * layer.weight[0].numel()

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    scores(model, tensor(face))
    for hook in hooks:
        hook.remove()
    assert 1e9 < 2 * macs <= 2.5e9


def test_the_weights_file_is_small() -> None:
    assert DBCNN_LITE_WEIGHTS.stat().st_size <= 12e6


def test_the_weights_are_those_of_the_network(model: DBCNNLite) -> None:
    """The shapes are known without torch."""
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == shapes(model.layout)


def test_a_file_with_other_keys_is_refused_by_name(tmp_path: Path) -> None:
    state = load_file(DBCNN_LITE_WEIGHTS)
    state["stray"] = state.pop("head.bias")
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=r"other\.safetensors.*head\.bias.*stray"):
        load_dbcnn_lite(tmp_path / "other.safetensors")


def test_a_file_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"absent\.safetensors"):
        load_dbcnn_lite(tmp_path / "absent.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not weights")
    with pytest.raises(ModelFileError, match=r"broken\.safetensors"):
        load_dbcnn_lite(broken)
