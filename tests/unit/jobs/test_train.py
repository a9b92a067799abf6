"""The training of DB-CNN-Lite on a small scale: its data, its networks, and resuming after a kill."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import torch
from lite0_files import published_state
from torch import Tensor, nn
from torch.nn import functional as F

from faceq.iqa.dbcnn_lite import VIEW_SIDE, DBCNNLite, SemanticNet
from faceq.iqa.dbcnn_lite_weights import LITE0_BLOCKS, SECOND, Layout
from jobs.training import train_data
from jobs.training.cut_views import view_of
from jobs.training.train_data import (
    CROPS,
    FaceBatches,
    FaceLadders,
    LabelledViews,
    Rated,
    RatedBatches,
    Views,
)
from jobs.training.train_loop import LiveLite, face_losses, fit_scale, gather_statistics, train_stage
from jobs.training.train_norms import blocks_of, fold, unfold
from jobs.training.train_teacher import falling


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.coffee()[100:356, 200:456])


# --- training data --------------------------------------------------------------------------------


@pytest.fixture
def faces() -> FaceLadders:
    """Six faces of eight pixels, all pixels of crop c of face f with the value 10 * f + c."""
    values = 10 * np.arange(6)[:, None] + np.arange(CROPS)
    crops = np.broadcast_to(values[..., None, None, None], (6, CROPS, 8, 8, 3)).astype(np.uint8)
    masks = np.tile(np.array([0b11110000], np.uint8), (6, CROPS, 8, 1))
    falls = np.tile(np.array([0, 0, 0.1, 0.4, 1], np.float32), (6, 1))
    return FaceLadders(crops, masks, falls)


def test_a_batch_of_faces_has_the_crops_masks_and_labels_of_each(faces: FaceLadders) -> None:
    labels = np.repeat(np.arange(6, dtype=np.float32)[:, None], CROPS, axis=1)
    batches = FaceBatches(faces, labels, seed=1, epoch=0, steps=3, each=2)
    images, masks, falls, found = batches[1]
    assert all(torch.equal(a, b) for a, b in zip(batches[1], (images, masks, falls, found), strict=True))
    assert images.shape == (2 * CROPS, 3, 8, 8) and masks.shape == (2 * CROPS, 1, 8, 8)
    expected = (10 * found + torch.arange(CROPS)) / 255
    assert torch.allclose(images[:, 0, 0, 0].view(2, CROPS), expected)
    mirrored = masks[:, 0, 0, 0] == 0
    assert 0 < mirrored.sum() < len(masks) and (mirrored[::CROPS] != mirrored[1::CROPS]).all()
    assert (torch.where(mirrored[:, None, None, None], masks.flip(3), masks) == masks[~mirrored][:1]).all()
    assert falls.shape == (2, CROPS)


def test_every_face_is_seen_before_one_is_seen_again(faces: FaceLadders) -> None:
    labels = np.arange(6, dtype=np.float32)
    seen = [
        label
        for epoch in (0, 1)
        for batch in [FaceBatches(faces, labels, seed=3, epoch=epoch, steps=2, each=3)]
        for index in range(2)
        for label in batch[index][3].tolist()
    ]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))


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


def test_half_of_a_batch_are_usable_views_with_the_scores_of_the_teacher(picture) -> None:
    rated = Rated([str(i) for i in range(6)], [picture] * 6, np.arange(6, dtype=np.float32))
    images = np.stack([np.full_like(picture, number) for number in range(8)])
    usable = np.array([1, 2, 4, 6, 7])
    views = LabelledViews(Views(images, np.zeros(8, np.int64)), 100 + np.arange(8, dtype=np.float32), usable)
    seen: list[float] = []
    for epoch in (0, 1):
        batches = RatedBatches(rated, seed=1, epoch=epoch, batch=4, views=views)
        assert len(batches) == 3
        for crops, wanted in batches:
            assert (wanted[:2] < 6).all()
            assert torch.allclose(crops[2:, 0, 0, 0] * 255, wanted[2:] - 100)
            seen += (wanted[2:] - 100).tolist()
    assert sorted(seen[:5]) == sorted(seen[5:10]) == usable.tolist()


@pytest.mark.parametrize("size", [(500, 500), (300, 240), (900, 1200)])
def test_a_view_shows_a_part_of_its_image_and_depends_on_the_seed_only(size: tuple[int, int]) -> None:
    image = cv2.resize(skimage.data.astronaut(), size)
    seen = [view_of(image, np.random.default_rng(seed)) for seed in (1, 1, 2, 3, 4, 5)]
    assert all(view.shape == (VIEW_SIDE, VIEW_SIDE, 3) and view.dtype == np.uint8 for view in seen)
    assert (seen[0] == seen[1]).all() and (seen[1] != seen[2]).any()
    assert 40 < np.mean(seen) < 200 and min(view.std() for view in seen) > 20


# --- networks ------------------------------------------------------------------------------------


def test_published_weights_compute_the_same_unfolded_and_folded(tmp_path: Path) -> None:
    state = published_state(1)
    torch.save(state, tmp_path / "lite0.pth")
    network = SemanticNet(SECOND.blocks, SECOND.level_blocks).eval()
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


def test_the_blocks_of_a_published_checkpoint_are_read_from_its_shapes(tmp_path: Path) -> None:
    torch.save(published_state(1), tmp_path / "lite0.pth")
    assert blocks_of(tmp_path / "lite0.pth") == LITE0_BLOCKS
    assert Layout((3, 4), SECOND.scnn, LITE0_BLOCKS).level_blocks == (4, 10, 15)


def test_frozen_statistics_give_the_scores_that_were_learned(picture, tmp_path: Path) -> None:
    torch.save(published_state(4), tmp_path / "lite0.pth")
    model = DBCNNLite(SECOND)
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


LABELS = [70.0, 70.0, 67.0, 58.0, 40.0]


def losses(scores: list[float]) -> list[float]:
    """The three losses of one ladder that has LABELS, and must fall by 3, 12 and 30 points."""
    falls = torch.tensor([[0.0, 0.0, 0.1, 0.4, 1.0]])
    found = face_losses(torch.tensor([scores]).float(), falls, torch.tensor([LABELS]))
    return [float(loss) for loss in found]


def test_a_ladder_that_falls_enough_from_its_label_has_no_loss() -> None:
    assert losses(LABELS) == pytest.approx([0, 0, 0], abs=1e-6)
    wrong, apart, rank = losses([70, 70, 60, 40, 10])
    assert wrong > 0 and apart == rank == pytest.approx(0, abs=1e-6)


def test_each_fault_of_a_ladder_has_its_own_loss() -> None:
    off, apart, rank = losses([80, 80, 77, 68, 50])
    assert off > 0.1 and apart == rank == pytest.approx(0, abs=1e-6)
    off, apart, rank = losses([71, 69, 67, 58, 40])
    assert off == pytest.approx(0.001) and apart == pytest.approx(0.01) and rank == pytest.approx(0, abs=1e-6)
    small, large = (losses([70, 70, step, 58, 40])[2] for step in (69, 75))
    assert 0 < small < large


def test_gathered_statistics_belong_to_the_final_weights(picture, tmp_path: Path) -> None:
    """Statistics recorded during training belong to earlier weights."""
    torch.save(published_state(4), tmp_path / "lite0.pth")
    lite = LiveLite(DBCNNLite(SECOND))
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


def test_labels_follow_the_teacher_unless_its_scores_do_not_fall_enough() -> None:
    falls = np.array([[0, 0, 0.1, 0.4, 1.0]] * 2, np.float32)
    scores = np.array([[60, 62, 51, 41, 11], [60, 60, 70, 55, 40]], float)  # the second rises at first
    labels = falling(np.array([71.0, 60.0]), scores, falls)
    assert labels[0] == pytest.approx([71, 71, 61, 51, 21])
    assert labels[1] == pytest.approx([60, 60, 57, 48, 30])


def test_scores_are_stretched_to_the_ratings(picture, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = DBCNNLite(SECOND).eval()
    pictures = [np.roll(picture, shift, (0, 1)) for shift in range(0, 80, 10)]
    images = train_data.to_tensor(pictures)
    with torch.no_grad():
        before = model(images, torch.ones_like(images[:, :1])).numpy()
    wanted = (20 + 3 * before).astype(np.float32)
    rated = Rated([str(i) for i in range(8)], pictures, wanted)
    crops = RatedBatches(rated, seed=1, epoch=0, batch=4)
    with torch.no_grad():
        seen = [(model(images, torch.ones_like(images[:, :1])), ratings) for images, ratings in crops]
    expected = np.polyfit(*(torch.cat(values).numpy() for values in zip(*seen, strict=True)), 1)
    fit_scale(model, crops)
    with torch.no_grad():
        after = model(images, torch.ones_like(images[:, :1])).numpy()
    assert after == pytest.approx(np.polyval(expected, before), abs=1e-2)


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
