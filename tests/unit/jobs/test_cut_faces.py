"""The faces that DB-CNN-Lite is trained on: how they are cut, moved and degraded, and which are left out."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from faceq.faces import geometry
from jobs.benchmarks.measure_edits import shrunk
from jobs.training.cut_faces import Face, FaceCutter, endless_faces, ladder_of, photos
from jobs.training.train_data import CROPS, FaceLadders, fold_of
from jobs.training.train_ladders import KINDS

SIDE = geometry.CROP_SIZE


@pytest.fixture(scope="module")
def cut() -> FaceCutter:
    return FaceCutter()


@pytest.fixture(scope="module")
def face(cut: FaceCutter, astronaut) -> Face:
    found = cut(astronaut)
    assert found is not None
    return found


def test_the_crop_shows_the_face_inside_the_mask(face: Face) -> None:
    crop, mask = face.crop(face.part, None)
    assert crop.shape == (SIDE, SIDE, 3) and mask.shape == (SIDE, SIDE)
    assert mask[SIDE // 2, SIDE // 2] and not mask[:20].any() and 0.15 < mask.mean() < 0.5
    skin = crop[mask].mean(axis=0)
    assert skin[0] > skin[1] > skin[2] > 60  # red, green, blue


def test_a_moved_crop_shows_nearly_the_same_and_its_mask_moves_with_it(face: Face) -> None:
    still, still_mask = face.crop(face.part, None)
    for seed in range(6):
        moved, mask = face.crop(face.part, np.random.default_rng(seed))
        apart, mirrored = (np.abs(each.astype(int) - still).mean() for each in (moved, moved[:, ::-1]))
        assert 0 < apart < mirrored / 2
        assert (mask ^ still_mask).mean() < 0.04


def test_the_surroundings_can_be_degraded_alone(face: Face) -> None:
    noise = np.random.default_rng(0).integers(0, 256, face.part.shape, dtype=np.uint8)
    mixed = face.amid(face.part, noise)
    inside = np.zeros(face.part.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(face.outline).astype(np.int32)], 1)
    core, away = cv2.erode(inside, np.ones((9, 9))) > 0, cv2.dilate(inside, np.ones((41, 41))) == 0
    assert (mixed[core] == face.part[core]).mean() > 0.95
    assert (mixed[away] == noise[away]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_ladder_has_two_clean_crops_and_steps_that_must_fall(face: Face, kind: str) -> None:
    crops, masks, falls = ladder_of(face, kind, np.random.default_rng(5))
    assert len(crops) == len(masks) == len(falls) == CROPS
    assert falls[:2] == [0, 0] and falls == sorted(falls) and len(set(falls)) == CROPS - 1
    assert all(crop.shape == (SIDE, SIDE, 3) and crop.dtype == np.uint8 for crop in crops)
    again = ladder_of(face, kind, np.random.default_rng(5))
    assert all((one == other).all() for one, other in zip(crops, again[0], strict=True))


def test_masks_survive_packing(face: Face) -> None:
    crops, masks, falls = ladder_of(face, "blur", np.random.default_rng(1))
    packed = np.packbits(np.stack(masks), axis=-1)[None]
    ladders = FaceLadders(np.stack(crops)[None], packed, np.array([falls], np.float32))
    _, found = ladders.tensors(np.array([0]))
    assert (found[:, 0].numpy().astype(bool) == np.stack(masks)).all()


def test_people_of_the_first_fold_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "celeba_dev").mkdir()
    with (tmp_path / "celeba_dev/identity.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "identity"])
        writer.writerows((f"{person}-{photo}.jpg", person) for person in range(30) for photo in range(2))
    taken = {path.name for path in photos(tmp_path)}
    people = {int(name.partition("-")[0]) for name in taken}
    assert people == {person for person in range(30) if fold_of(str(person))}
    assert 0 < len(people) < 30 and len(taken) == 2 * len(people)


def test_photos_are_only_made_smaller(astronaut) -> None:
    assert shrunk(astronaut, 600) is astronaut
    assert shrunk(astronaut[:300], 256).shape == (150, 256, 3)


def test_photos_without_a_face_are_refused(cut: FaceCutter) -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    with pytest.raises(ValueError, match="none of 2 photos has a face that is large enough"):
        next(endless_faces(cut, [grey, grey], np.random.default_rng(0)))
