"""The training of DB-CNN-Lite on a small scale: its data, its networks, and resuming after a kill."""

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from lite0_files import published_state
from torch import Tensor, nn
from torch.nn import functional as F

from faceq.iqa.dbcnn_lite import DBCNNLite, SemanticNet
from faceq.iqa.dbcnn_lite_weights import LITE0_BLOCKS
from jobs.training import train_data, train_distortions
from jobs.training.train_data import Ladders, NamingBatches, Rated, RatedBatches
from jobs.training.train_dbcnn import LiveLite, gather_statistics, ranking_loss, train_stage
from jobs.training.train_distortions import NAMED, RANKED, degraded
from jobs.training.train_norms import fold, unfold


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.coffee()[100:356, 200:456])


# --- training data --------------------------------------------------------------------------------


def test_there_are_39_distortions_and_no_two_look_alike(picture) -> None:
    assert len(NAMED) == 39
    made = [distort(picture, 5) for distort in NAMED]
    assert all(image.shape == picture.shape and image.dtype == np.uint8 for image in made)
    assert all(np.array_equal(image, distort(picture, 5)) for image, distort in zip(made, NAMED, strict=True))
    for at, image in enumerate(made):
        for other in made[:at]:
            assert np.abs(image.astype(int) - other).mean() > 0.1


@pytest.mark.parametrize("first", range(0, 35, 5))
def test_the_five_levels_of_a_distortion_get_further_from_the_picture(first: int, picture) -> None:
    far = [np.abs(distort(picture, 1).astype(float) - picture).mean() for distort in NAMED[first : first + 5]]
    assert far == sorted(far)
    assert far[4] > 1.5 * far[0]


def test_the_contrast_of_the_last_level_fills_two_hundredths_of_the_range(picture) -> None:
    flat = train_distortions.contrast(picture, 0.49, 0.51)
    assert flat.min() == 125 and flat.max() == 130


def test_a_dithered_image_has_the_requested_number_of_colours(picture) -> None:
    assert len(np.unique(train_distortions.dithered(picture, 8).reshape(-1, 3), axis=0)) <= 8


def test_pink_noise_is_stronger_at_low_frequencies() -> None:
    grey = np.full((128, 128, 3), 128, np.uint8)
    noise = train_distortions.pink_noise(grey, 0.3, 1)[..., 0].astype(float) - 128
    power = np.abs(np.fft.rfft2(noise)) ** 2
    assert power[1:4, 1:4].mean() > 50 * power[40:60, 40:60].mean()


@pytest.mark.parametrize("kind", RANKED)
def test_rungs_of_a_ladder_get_further_from_the_picture(kind, picture) -> None:
    assert degraded(picture, kind, 0, 2) is picture
    severities = (0.05, 0.3, 0.6, 1.0)
    far = [np.abs(degraded(picture, kind, s, 2).astype(float) - picture).mean() for s in severities]
    assert far == sorted(far)


def test_an_item_is_the_same_each_time_it_is_requested(picture) -> None:
    naming = NamingBatches([picture], seed=3, epoch=1, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(naming[1], naming[1], strict=True))
    assert naming[0][0].shape == (64, 3, 112, 112)
    first, again = (Ladders([picture], seed=3, epoch=0, count=10)[5] for _ in range(2))
    assert np.array_equal(np.stack(first.images), np.stack(again.images))
    assert np.all(np.diff(first.severities) > train_data.MINIMUM_STEP / 2)


def test_an_epoch_has_each_rated_image_once_in_its_own_order(picture) -> None:
    rated = Rated([str(i) for i in range(7)], [picture] * 7, np.arange(7, dtype=np.float32))
    seen = []
    for epoch in (0, 1):
        batches = RatedBatches(rated, seed=1, epoch=epoch, batch=3)
        assert len(batches) == 2 and batches[0][0].shape == (
            3,
            3,
            256,
            256,
        )  # no crop is larger than its image
        assert torch.equal(batches[1][0], batches[1][0])
        seen.append([rating for i in range(2) for rating in batches[i][1].tolist()])
        assert len(set(seen[-1])) == 6
    assert seen[0] != seen[1]


def test_half_of_the_ladders_are_degraded_independently_outside_the_mask(picture) -> None:
    ladders = Ladders([picture], seed=0, epoch=0, count=20)
    masked = [ladders[i] for i in range(20) if ladders[i].mask.min() == 0]
    assert len(masked) == 10
    assert all(0.1 < ladder.mask.mean() < 0.8 for ladder in masked)


# --- networks ------------------------------------------------------------------------------------


def test_published_weights_compute_the_same_unfolded_and_folded(tmp_path: Path) -> None:
    state = published_state(1)
    torch.save(state, tmp_path / "lite0.pth")
    network = SemanticNet().eval()
    keys = network.state_dict().keys()
    images = torch.randn(1, 3, 64, 64)

    def normed(convolution: str, norm: str, features: Tensor, stride: int, groups: int) -> Tensor:
        weight = state[f"{convolution}.weight"]
        size, kernel = features.shape[2], weight.shape[2]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads = (total // 2, total - total // 2) * 2
        out = F.conv2d(F.pad(features, pads), weight, stride=stride, groups=groups)
        values = [state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(out, *values, eps=1e-3)

    with torch.inference_mode():
        features = F.relu6(normed("_conv_stem", "_bn0", images, 2, 1))
        for index, (_, stride, expansion, _) in enumerate(LITE0_BLOCKS[:5]):
            inside, at = features, f"_blocks.{index}"
            if expansion > 1:
                inside = F.relu6(normed(f"{at}._expand_conv", f"{at}._bn0", inside, 1, 1))
            wide = inside.shape[1]
            inside = F.relu6(normed(f"{at}._depthwise_conv", f"{at}._bn1", inside, stride, wide))
            out = normed(f"{at}._project_conv", f"{at}._bn2", inside, 1, 1)
            features = out + features if out.shape == features.shape else out
        unfold(network, tmp_path / "lite0.pth")
        assert network.state_dict().keys() != keys
        unfolded = network.eval()(images)[0]
        fold(network)
        folded = network(images)[0]
    assert network.state_dict().keys() == keys
    close = {"rtol": 1e-3, "atol": 1e-4 * float(features.abs().max())}
    assert torch.allclose(unfolded, features, **close)
    assert torch.allclose(folded, features, **close)


def test_frozen_statistics_give_the_scores_that_were_learned(picture, tmp_path: Path) -> None:
    torch.save(published_state(4), tmp_path / "lite0.pth")
    model = DBCNNLite()
    unfold(model.semantic, tmp_path / "lite0.pth")
    lite = LiveLite(model.eval())
    images = train_data.to_tensor([picture, picture[::-1].copy(), picture[:, ::-1].copy()])
    everywhere = torch.ones_like(images[:, :1])
    with torch.no_grad():
        for _ in range(3):
            lite(images, everywhere, live=True)
        learned = lite(images, everywhere, live=False)
        lite.freeze()
        assert torch.allclose(model(images, everywhere), learned, atol=1e-3)
        fold(model.semantic)
        assert torch.allclose(model(images, everywhere), learned, atol=1e-2)
    assert learned.std() > 0.01


def test_the_ranking_loss_is_zero_once_each_step_lowers_the_score_enough() -> None:
    severities = torch.tensor([[0.0, 0.2, 0.6, 1.0]])
    assert ranking_loss(70 - 30 * severities, severities) == pytest.approx(0, abs=1e-5)
    assert ranking_loss(70 - 50 * severities, severities) == 0
    assert ranking_loss(70 - 10 * severities, severities) > 0
    assert ranking_loss(70 + 30 * severities, severities) > 2 * ranking_loss(70 - 10 * severities, severities)


def test_gathered_statistics_belong_to_the_final_weights(picture, tmp_path: Path) -> None:
    """Statistics recorded during training belong to earlier weights."""
    torch.save(published_state(4), tmp_path / "lite0.pth")
    lite = LiveLite(DBCNNLite())
    unfold(lite.model.semantic, tmp_path / "lite0.pth")
    pictures = [np.roll(picture, shift, (0, 1)) for shift in range(0, 80, 10)]
    rated = Rated([str(i) for i in range(8)], pictures, np.arange(8, dtype=np.float32))
    batches = RatedBatches(rated, seed=1, epoch=0, batch=4)
    crops = torch.cat([batches[i][0] for i in range(2)])
    gather_statistics(lite, batches)
    with torch.no_grad():
        lite.model.semantic.train(False)
        pooled = lite.model.pool(lite.model.maps(crops), torch.ones_like(crops[:, :1]))
    found = lite.norm.running_mean
    assert found is not None and lite.norm.num_batches_tracked == 2
    assert torch.allclose(found, pooled.mean(0), atol=0.05 * float(pooled.abs().max()))
    stem = lite.model.semantic.get_submodule("stem.0.norm")
    assert stem.num_batches_tracked == 2


# --- runs ----------------------------------------------------------------------------------------


def fit_line(folder: Path, epochs: int, dies_in: int | None = None, of: str = "seed 1") -> Tensor:
    """A tiny stage with dropout, Adam and random data. It can fail in the middle of an epoch."""
    torch.manual_seed(0)
    line = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 1))
    optimiser = torch.optim.AdamW(line.parameters(), lr=0.1)

    def run_epoch(epoch: int) -> dict[str, float]:
        inputs = torch.from_numpy(np.random.default_rng(epoch).standard_normal((32, 4)).astype(np.float32))
        loss = (line(inputs).squeeze(1) - inputs.sum(1)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if epoch == dies_in:
            raise KeyboardInterrupt
        return {"loss": loss.item()}

    train_stage("line", folder, {"line": line, "optimiser": optimiser}, epochs, run_epoch, of)
    return line[1].weight.detach()


def test_a_resumed_run_gives_the_result_of_an_undisturbed_run(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    expected = fit_line(tmp_path / "whole", 6)
    with pytest.raises(KeyboardInterrupt):
        fit_line(tmp_path / "killed", 6, dies_in=3)
    assert torch.equal(fit_line(tmp_path / "killed", 6), expected)
    curves = [(tmp_path / name / "line.csv").read_text().splitlines() for name in ("whole", "killed")]
    without_time = [[line.rsplit(",", 1)[0] for line in lines] for lines in curves]
    assert without_time[0] == without_time[1] and len(without_time[0]) == 7


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    fit_line(tmp_path, 2)
    with pytest.raises(ValueError, match=r"line\.checkpoint\.pt was made for epochs 2, not 3"):
        fit_line(tmp_path, 3)
    with pytest.raises(ValueError, match=r"was made for run 'seed 1', not 'seed 2': use another --out"):
        fit_line(tmp_path, 2, of="seed 2")
