"""The whole training of DB-CNN-Lite on a small scale, which takes minutes of CPU time."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import skimage
import torch
from lite0_files import published_state

from faceq.iqa.dbcnn_lite import load_dbcnn_lite
from jobs.training import train_dbcnn
from jobs.training.train_distortions import RANKED, degraded


def test_a_small_training_writes_loadable_weights_and_a_model_card(tmp_path: Path, monkeypatch) -> None:
    """Sixteen images, and one or two epochs per stage. Only the lengths differ from the real training."""
    data = tmp_path / "data"
    (data / "live_challenge/images").mkdir(parents=True)
    (data / "kodak24").mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,mos,mos_std"]
    for number in range(16):
        photo = (skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut())[number % 3]
        top, left = rng.integers(0, 40, 2)
        image = degraded(photo[top : top + 256, left : left + 256], RANKED[number % 5], number / 16, 0)
        cv2.imwrite(str(data / f"live_challenge/images/{number}.png"), image[..., ::-1])
        lines.append(f"{number}.png,{90 - 5 * number},20")
    (data / "live_challenge/mos.csv").write_text("\n".join(lines) + "\n")
    notice = "START ---\nthe notice\n-----------COPYRIGHT NOTICE ENDS\n"
    (data / "live_challenge/NOTICE.txt").write_text(notice)
    shutil.copy(data / "live_challenge/images/0.png", data / "kodak24/kodim01.png")
    torch.save(published_state(3), tmp_path / "lite0.pth")

    for name, value in (
        *(("NAMING_EPOCHS", 1), ("NAMING_STEPS", 2), ("RATING_EPOCHS", 2), ("RATING_BATCH", 4)),
        *(("FINISH_LADDERS", 4), ("FINISH_STEPS", 3)),
    ):
        monkeypatch.setattr(train_dbcnn, name, value)
    out = tmp_path / "out"
    arguments = ["train", "--data", data, "--init", tmp_path / "lite0.pth", "--out", out, "--all"]
    monkeypatch.setattr("sys.argv", [str(argument) for argument in arguments])
    train_dbcnn.main()

    weights = (out / "dbcnn-lite.safetensors").read_bytes()
    assert load_dbcnn_lite(out / "dbcnn-lite.safetensors")
    monkeypatch.setattr(train_dbcnn, "rating_loss", None)  # a finished stage is not trained again
    train_dbcnn.main()
    assert (out / "dbcnn-lite.safetensors").read_bytes() == weights
    assert "16 images for training, 0 held out" in (out / "dbcnn-lite.md").read_text()
    assert "the notice" in (out / "dbcnn-lite.md").read_text()
    assert json.loads((out / "figures.json").read_text()) == {}
    assert (out / "curves.png").stat().st_size > 5000
    assert (out / "rating.csv").read_text().startswith("epoch,rating_loss,ranking_loss,seconds")
