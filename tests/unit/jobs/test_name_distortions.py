"""The 39 distortions that S-CNN learns to tell apart, and its training."""

import numpy as np
import pytest
import skimage
import torch

from faceq.iqa.dbcnn_lite_weights import SECOND
from jobs.training import name_distortions, train_distortions
from jobs.training.name_distortions import NamingBatches, learn, network
from jobs.training.train_distortions import NAMED


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.ascontiguousarray(skimage.data.coffee()[100:356, 200:456])


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


def test_a_batch_is_the_same_each_time_it_is_requested(picture) -> None:
    naming = NamingBatches([picture], seed=3, epoch=1, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(naming[1], naming[1], strict=True))
    assert naming[0][0].shape == (64, 3, 112, 112)


def test_the_trained_layers_fold_into_those_of_db_cnn_lite(picture, monkeypatch) -> None:
    monkeypatch.setattr(name_distortions, "EPOCHS", 1)
    monkeypatch.setattr(name_distortions, "STEPS", 2)
    made = learn([picture])
    assert [layer[0].out_channels for layer in made] == [channels for channels, _ in SECOND.scnn]
    maps = made(torch.rand(1, 3, 64, 64))
    assert maps.shape == (1, 64, 4, 4) and torch.isfinite(maps).all() and (maps >= 0).all()
    assert len(network()) == len(made)
