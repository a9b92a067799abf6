"""Which images a training leaves out, and the agreement of their scores with the ratings."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from jobs.training import agreement
from jobs.training.agreement import Scored, add_arguments, read_scores, split, write_scores
from jobs.training.train_data import FOLDS, Rated


def rated(count: int) -> Rated:
    names = [f"{i}.bmp" for i in range(count)]
    return Rated(names, [np.zeros((2, 2, 3), np.uint8)] * count, np.linspace(10, 90, count, dtype=np.float32))


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_each_image_is_held_out_in_exactly_one_fold() -> None:
    images = rated(200)
    held = np.stack([split(images, options("--fold", str(fold)))[0] for fold in range(FOLDS)])
    assert (held.sum(axis=0) == 1).all()
    assert (held.sum(axis=1) > 20).all()


def test_nothing_is_held_out_of_a_training_on_all() -> None:
    held, counts = split(rated(20), options("--all"))
    assert not held.any() and counts == "20 images for training, 0 held out"


def test_scores_are_read_as_they_were_written_and_pooled(tmp_path: Path, monkeypatch, capsys) -> None:
    images = rated(60)
    scores = images.ratings + np.random.default_rng(0).normal(0, 5, 60)
    files = []
    for fold in (0, 1):
        (tmp_path / str(fold)).mkdir()
        half = np.arange(60) % 2 == fold
        write_scores(tmp_path / str(fold), images.only(half), scores[half])
        files.append(tmp_path / str(fold) / "held_out.csv")
    assert read_scores(files[1]).scores == pytest.approx(scores[1::2])
    expected = Scored(images.ratings.astype(float), scores).correlations()
    monkeypatch.setattr(agreement, "DRAWS", 20)
    monkeypatch.setattr("sys.argv", ["agreement", *map(str, files)])
    agreement.main()
    printed = capsys.readouterr().out
    assert "60 images in 2 files" in printed
    assert all(f"{value:.4f}" in printed for value in expected)


def test_a_training_on_all_images_writes_no_scores(tmp_path: Path) -> None:
    write_scores(tmp_path, rated(0), np.zeros(0))
    assert not list(tmp_path.iterdir())
