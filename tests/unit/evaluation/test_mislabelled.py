"""Labels that disagree with the embeddings of their photos."""

import csv
from pathlib import Path

import numpy as np
import pytest
from face_rows import face, write_faces

from faceq.cli.main import main
from faceq.evaluation import mislabelled
from faceq.evaluation.mislabelled import similarities

PEOPLE, EACH = 20, 15


def labelled() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings (N, 32), their people, and labels of which 5% are wrong."""
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(PEOPLE), EACH)
    vectors = generator.standard_normal((PEOPLE, 32))[people]
    vectors = vectors + 0.9 * generator.standard_normal(vectors.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    labels = people.copy()
    wrong = generator.choice(len(people), len(people) // 20, replace=False)
    labels[wrong] = (people[wrong] + generator.integers(1, PEOPLE, len(wrong))) % PEOPLE
    return vectors, people, labels


@pytest.fixture
def table(tmp_path) -> tuple[str, Path]:
    """A table, and the list of the labels of its photos."""
    vectors, _, labels = labelled()
    names = [f"{i:03}" for i in range(len(labels))]
    rows = [
        face(name, embedding=vector, landmarks=[0.0] * 10, extra=f'{{"identity": "p{label}"}}')
        for name, vector, label in zip(names, vectors, labels, strict=True)
    ]
    places = tmp_path / "identities.csv"
    lines = [f"{name}.jpg,p{label}" for name, label in zip(names, labels, strict=True)]
    places.write_text("\n".join(["image,identity", *lines]))
    return write_faces(tmp_path / "table", rows), places


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


def test_planted_errors_are_the_most_suspicious(table, tmp_path, capsys):
    uri, identities = table
    _, people, labels = labelled()
    out = tmp_path / "labels.csv"
    assert main(["evaluate", "labels", uri, str(identities), "--out", str(out)]) == 0
    found = rows_of(out)
    assert list(found[0]) == [column.name for column in mislabelled.COLUMNS if column.name != "face"]
    wrong = {f"/photos/{i:03}.jpg": f"p{people[i]}" for i in np.flatnonzero(people != labels)}
    first = found[: len(wrong)]
    assert {row["source"]: row["resembles"] for row in first} == wrong
    suspicion = [float(row["suspicion"]) for row in found]
    disagreeing = sum(value > 0 for value in suspicion)
    said = f"{disagreeing} of {len(people)} photos resemble another label"
    assert len(wrong) <= disagreeing < 2 * len(wrong) and said in capsys.readouterr().out
    assert suspicion == sorted(suspicion, reverse=True)


def test_labels_in_the_table_give_the_same(table, tmp_path):
    uri, identities = table
    for name, given in (("a.csv", [str(identities)]), ("b.csv", ["--identity", "extra.identity"])):
        assert main(["evaluate", "labels", uri, *given, "--out", str(tmp_path / name)]) == 0
    assert rows_of(tmp_path / "a.csv") == rows_of(tmp_path / "b.csv")


def test_without_a_file_the_first_photos_are_printed(table, capsys):
    uri, identities = table
    assert main(["evaluate", "labels", uri, str(identities)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "suspicion" in printed[0] and len(printed) == 22
    assert main(["evaluate", "labels", uri]) == 2
    assert "evaluate labels: name either a file" in capsys.readouterr().err


def test_a_label_of_one_photo_is_not_judged(tmp_path, capsys):
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1]]
    rows = [
        face(str(i), embedding=v, landmarks=[0.0] * 10, extra=f'{{"id": "{"aab"[i]}"}}')
        for i, v in enumerate(vectors)
    ]
    uri = write_faces(tmp_path / "table", rows)
    assert main(["evaluate", "labels", uri, "--identity", "extra.id"]) == 0
    shown = capsys.readouterr()
    assert "0 of 2 photos" in shown.out
    assert "1 photos are the only ones with their label" in shown.err


def test_the_similarities_are_those_of_all_pairs(monkeypatch):
    vectors, _, labels = labelled()
    monkeypatch.setattr(mislabelled, "_ROWS", 7)
    monkeypatch.setattr(mislabelled, "_LABELS", 3)
    own, other, resembles = similarities(labels, vectors)
    cosines = vectors.astype(np.float64) @ vectors.T
    for i in range(len(labels)):
        means = np.array([cosines[i][labels == label].mean() for label in range(PEOPLE)])
        same = (labels == labels[i]) & (np.arange(len(labels)) != i)
        assert own[i] == pytest.approx(cosines[i][same].mean(), abs=1e-5)
        means[labels[i]] = -1
        assert resembles[i] == means.argmax() and other[i] == pytest.approx(means.max(), abs=1e-5)
