"""The whole training of DB-CNN-Lite on a small scale, which takes minutes of CPU time."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import torch
from lite0_files import published_state

from faceq.evaluation.distortions import LADDERS
from faceq.iqa.dbcnn_lite import load_dbcnn_lite
from jobs.training import (
    agreement,
    cut_faces,
    cut_views,
    frozen_features,
    name_distortions,
    train_dbcnn,
    train_loop,
    train_teacher,
)

NAME = train_dbcnn.NAME


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Seventy rated images, a sharp one, and a person with one photo."""
    folder = tmp_path / "data"
    (folder / "kodak24").mkdir(parents=True)
    cv2.imwrite(str(folder / "kodak24/kodim01.png"), skimage.data.coffee()[..., ::-1])
    (folder / "live_challenge/images").mkdir(parents=True)
    (folder / "celeba_dev/images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["image,mos,mos_std"]
    for number in range(70):
        photo = (skimage.data.coffee(), skimage.data.astronaut())[number % 2]
        top, left = rng.integers(0, 12, 2)
        degrade = list(LADDERS.values())[number % 5]
        image = degrade(photo[top : top + 384, left : left + 384], number // 14, 0)
        cv2.imwrite(str(folder / f"live_challenge/images/{number}.png"), image[..., ::-1])
        lines.append(f"{number}.png,{90 - number},20")
    (folder / "live_challenge/mos.csv").write_text("\n".join(lines) + "\n")
    notice = "START ---\nthe notice\n-----------COPYRIGHT NOTICE ENDS\n"
    (folder / "live_challenge/NOTICE.txt").write_text(notice)
    photo = cv2.resize(skimage.data.astronaut()[..., ::-1], (400, 400))
    cv2.imwrite(str(folder / "celeba_dev/images/one.jpg"), photo)
    cv2.imwrite(str(folder / "celeba_dev/images/left_out.jpg"), photo)
    (folder / "celeba_dev/identity.csv").write_text("image,identity\none.jpg,3\nleft_out.jpg,7\n")
    return folder


def test_a_small_training_writes_loadable_weights_and_a_model_card(
    data: Path, tmp_path: Path, monkeypatch
) -> None:
    """Only the lengths differ from the real training."""
    torch.save(published_state(3), tmp_path / "lite0.pth")
    names = ("faces", "views", "features.npz", "teacher", "out")
    faces, views, features, teacher, out = (tmp_path / name for name in names)
    for module, name, value in (
        *((train_teacher, "EPOCHS", 2), (train_dbcnn, "EPOCHS", 2), (train_dbcnn, "FACES_EPOCHS", 1)),
        *((name_distortions, "EPOCHS", 1), (name_distortions, "STEPS", 2)),
        *((train_loop, "BATCH", 4), (train_loop, "FACES_A_STEP", 2)),
    ):
        monkeypatch.setattr(module, name, value)

    def run(module, *arguments) -> None:
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        module.main()

    run(name_distortions, "--data", data, "--out", tmp_path / "scnn.pt")
    of_faces = ("--data", data, "--faces", faces, "--init", tmp_path / "lite0.pth")
    run(cut_faces, "--data", data, "--out", faces, "--ladders", 5)
    run(cut_views, "--data", data, "--out", views, "--views", 20)
    run(frozen_features, *of_faces, "--out", features)
    start = ("--distortion", tmp_path / "scnn.pt", "--views", views)
    run(train_teacher, *of_faces, *start, "--features", features, "--out", teacher)
    run(train_dbcnn, *of_faces, *start, "--teacher", teacher, "--out", out)

    assert np.isfinite(np.load(teacher / "labels.npy")).all()
    weights = (out / f"{NAME}.safetensors").read_bytes()
    assert load_dbcnn_lite(out / f"{NAME}.safetensors")
    monkeypatch.setattr(train_loop, "rating_loss", None)  # a finished training is not repeated
    run(train_dbcnn, *of_faces, *start, "--teacher", teacher, "--out", out)
    assert (out / f"{NAME}.safetensors").read_bytes() == weights
    card = (out / f"{NAME}.md").read_text()
    assert "held out (fold 0)" in card and "the notice" in card
    assert json.loads((out / "figures.json").read_text())["held_out"]["n"] > 10
    assert (out / "faces.png").stat().st_size > 5000
    assert (out / "ratings.csv").read_text().startswith("epoch,rating_loss,seconds")
    assert (out / "faces.csv").read_text().startswith("epoch,rating_loss,label_loss,difference_loss,")
    run(agreement, out / "held_out.csv", teacher / "held_out.csv")
