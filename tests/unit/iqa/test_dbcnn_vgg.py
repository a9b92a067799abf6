"""DB-CNN as published: every layer compared with the equations, and files that it accepts and refuses."""

import copy
import math
import zipfile
from pathlib import Path

import pytest
import torch
from published_dbcnn import State, published_score, scnn_layers, scnn_logits, vgg_layers
from safetensors.torch import save_file
from skimage.data import astronaut
from torch import Tensor

from faceq.iqa.dbcnn_vgg import DBCNN, SCNN, load_dbcnn, load_scnn, read_state
from faceq.models import zoo


def doubled(state: State) -> State:
    return {key: value.double() for key, value in state.items()}


def normalised(images: Tensor) -> Tensor:
    """Normalise by ImageNet's statistics, RGB, in double precision."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)
    return (images.double() - mean[:, None, None]) / std[:, None, None]


def randomised(state: State) -> State:
    """Random weights with which activations and the score have a magnitude of about 1."""
    generator = torch.Generator().manual_seed(7)
    filled = {}
    for key, value in state.items():
        noise = torch.randn(value.shape, generator=generator)
        if key.endswith(("running_var", "num_batches_tracked")):
            filled[key] = value if "num" in key else noise.abs() + 0.5
        elif key == "fc.weight":
            filled[key] = noise  # its input has an L2 norm of 1
        elif value.ndim > 1:
            filled[key] = noise * math.sqrt(2 / value[0].numel())
        else:
            filled[key] = 0.1 * noise + (1 if key.endswith("weight") else 0)
    return filled


def picture(height: int, width: int) -> Tensor:
    """(2, 3, H, W) float32 RGB 0..1: two parts of a portrait."""
    image = torch.from_numpy(astronaut().copy()).permute(2, 0, 1).float() / 255
    return torch.stack([image[:, :height, :width], image[:, 20 : 20 + height, 140 : 140 + width]])


@pytest.fixture(scope="module")
def state() -> State:
    return randomised(DBCNN().state_dict())


@pytest.fixture(scope="module")
def model(state: State) -> DBCNN:
    network = DBCNN()
    network.load_state_dict(state)
    return network.eval()


@pytest.fixture(scope="module")
def exact(model: DBCNN) -> DBCNN:
    """The model in double precision: rounding in single precision over thirty layers differs by processor."""
    return copy.deepcopy(model).double()


@pytest.fixture(scope="module")
def checkpoint(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as pyiqa publishes it."""
    path = tmp_path_factory.mktemp("published") / "DBCNN.pth"
    torch.save({"params": state}, path)
    return path


def outputs_of(branch: torch.nn.Sequential, images: Tensor) -> dict[int, Tensor]:
    """The output of each layer, copied before the next layer works in place."""
    seen: dict[int, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _, __, out, index=index: seen.update({index: out.clone()}))
        for index, layer in enumerate(branch)
    ]
    branch(images)
    for hook in hooks:
        hook.remove()
    return seen


@torch.inference_mode()
@pytest.mark.parametrize("branch", ["features1", "features2"])
def test_every_layer_is_the_published_one(exact: DBCNN, state: State, branch: str) -> None:
    images = normalised(picture(100, 130))
    if branch == "features1":
        expected = vgg_layers(doubled(state), images)
    else:
        expected = scnn_layers(doubled(state), branch, images)
    seen = outputs_of(getattr(exact, branch), images)
    assert seen.keys() == expected.keys()
    for index, output in expected.items():
        assert output.abs().max() > 0.5  # the values are large enough to differ
        assert (seen[index] - output).abs().max() <= 1e-5, f"{branch}.{index}"


@torch.inference_mode()
@pytest.mark.parametrize("size", [(96, 112), (100, 130), (31, 47)])
def test_the_score_is_the_published_one(
    model: DBCNN, exact: DBCNN, state: State, size: tuple[int, int]
) -> None:
    images = picture(*size)
    expected = published_score(doubled(state), normalised(images))
    assert (exact(images.double()) / 100 - expected).abs().max() <= 1e-5
    assert (model(images) / 100 - expected).abs().max() <= 1e-4  # relative to a score of 0..1
    assert torch.allclose(model(images), 100 * model.head(model.pool(*model.maps(images), None)))


@torch.inference_mode()
def test_a_mask_of_ones_changes_nothing(exact: DBCNN) -> None:
    for size in ((96, 112), (100, 130)):
        images = picture(*size).double()
        maps = exact.maps(images)
        ones = torch.ones_like(images[:, :1])
        assert (exact.pool(*maps, ones) - exact.pool(*maps, None)).abs().max() <= 1e-5
        assert (exact(images, ones) - exact(images)).abs().max() <= 1e-5 * 100  # 0..100, not 0..1


@torch.inference_mode()
def test_positions_outside_the_mask_do_not_change_the_score(exact: DBCNN, state: State) -> None:
    images = picture(96, 112).double()
    left = torch.zeros_like(images[:, :1])
    left[..., :64] = 0.5
    expected = published_score(doubled(state), normalised(images), columns=slice(0, 4))
    assert (exact(images, left) / 100 - expected).abs().max() <= 1e-5


@torch.inference_mode()
def test_an_empty_mask_gives_one_finite_constant(model: DBCNN) -> None:
    images = picture(64, 64)
    first, second = model(images, torch.zeros_like(images[:, :1])).tolist()
    assert math.isfinite(first) and first == pytest.approx(second, abs=1e-3)


@torch.inference_mode()
def test_half_precision_ends_where_the_maps_are_pooled(model: DBCNN) -> None:
    images = picture(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.maps(images)
        score = model(images)
    assert maps[0].dtype == torch.bfloat16 and score.dtype == torch.float32
    assert torch.allclose(score, 100 * model.head(model.pool(*maps, None)))


@torch.inference_mode()
def test_a_checkpoint_in_the_public_layout_loads_and_scores(
    checkpoint: Path, model: DBCNN, state: State, tmp_path: Path
) -> None:
    images = picture(96, 112)
    expected = model(images)
    loaded = load_dbcnn(checkpoint)
    assert not loaded.training
    assert torch.equal(loaded(images), expected)

    # The format of the authors' training: data-parallel names, at the top level, without batch counts.
    old = {f"module.{key}": value for key, value in state.items() if "num_batches" not in key}
    torch.save(old, tmp_path / "net_params_best.pkl", _use_new_zipfile_serialization=False)
    assert torch.equal(load_dbcnn(tmp_path / "net_params_best.pkl")(images), expected)

    save_file(state, tmp_path / "DBCNN.safetensors")
    assert torch.equal(load_dbcnn(tmp_path / "DBCNN.safetensors")(images), expected)


def test_a_checkpoint_is_as_large_as_the_public_one(checkpoint: Path) -> None:
    # The tensors and the container are the same. Names of entries differ by a few bytes each.
    assert abs(checkpoint.stat().st_size - zoo.get("dbcnn-koniq").size) < 10_000


def test_keys_and_shapes_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    state = SCNN().state_dict()
    other = dict(state)
    other["features.30.weight"] = other.pop("features.24.weight")
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other\.pth.*missing.*features\.24\.weight.*extra.*features\.30\.w"
    ):
        load_scnn(tmp_path / "other.pth")

    torch.save(state | {"classifier.bias": torch.zeros(40)}, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"wide\.pth.*classifier\.bias \(40,\), expected \(39,\)"):
        load_scnn(tmp_path / "wide.pth")


def test_dbcnn_refuses_another_networks_checkpoint_by_name(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing.*classifier\.bias.*extra.*fc\.bias"):
        load_scnn(checkpoint)
    torch.save(SCNN().state_dict(), tmp_path / "scnn.pkl")
    with pytest.raises(ValueError, match=r"missing.*features1\.0\.bias.*extra.*classifier\.bias"):
        load_dbcnn(tmp_path / "scnn.pkl")


class _Opens:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("opened", "w")


def test_a_file_that_is_no_checkpoint_is_named_and_never_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        load_dbcnn("absent.pth")
    broken = [b"", b"not weights", b"PK\x03\x04 cut off", b"\x80\x02}q\x00."]
    for number, content in enumerate(broken):
        path = tmp_path / f"broken{number}.pth"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"broken{number}\.pth"):
            load_dbcnn(path)
    torch.save({"params": _Opens()}, "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth is not a checkpoint of plain tensors"):
        load_dbcnn("evil.pth")
    assert not Path("opened").exists()
    torch.save({"params": [1, 2]}, "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth has no state dict"):
        load_dbcnn("list.pth")


@pytest.mark.shared
@torch.inference_mode()
def test_the_authors_scnn_classifies_distortions(shared: Path) -> None:
    path = shared / "weights" / "dbcnn_scnn_official.pkl"
    raw = torch.load(path, map_location="cpu", weights_only=True)
    state = {key.removeprefix("module."): value for key, value in raw.items()}
    images = picture(224, 224)
    logits = load_scnn(path).double()(images.double())
    assert logits.shape == (2, 39)
    assert logits.std() > 1  # a trained network separates the classes
    assert (logits - scnn_logits(doubled(state), normalised(images))).abs().max() <= 1e-5


def test_a_compressed_checkpoint_is_not_unpacked(tmp_path):
    """50 KB contain 50 MB of zeros, which PyTorch would read."""
    whole, packed = tmp_path / "whole.pth", tmp_path / "packed.pth"
    torch.save({"params": {"weight": torch.zeros(50_000_000, dtype=torch.uint8)}}, whole)
    with zipfile.ZipFile(whole) as parts, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as smaller:
        for name in parts.namelist():
            smaller.writestr(name, parts.read(name))
    assert read_state(whole)["weight"].shape == (50_000_000,)
    assert packed.stat().st_size < 100_000
    with pytest.raises(ValueError, match=r"packed\.pth would unpack to 50,\d{3},\d{3} bytes"):
        read_state(packed)
