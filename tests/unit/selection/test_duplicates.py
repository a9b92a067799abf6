"""Near-duplicates of a table: all pairs, connected groups, and what happens without hashes or embeddings."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from face_rows import face, write_faces
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

import faceq
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.selection import duplicates as module
from faceq.selection import embedding_pairs
from faceq.selection.duplicate_schema import GROUP_COLUMNS, PAIR_COLUMNS
from faceq.selection.duplicates import likeness
from faceq.table.schema import SCHEMA

DIRECTIONS = 8


def made_up(count: int) -> list[dict[str, Any]]:
    """Faces around a few hashes and directions; a fifth of them have the hash of another one."""
    generator = np.random.default_rng(0)
    centres = generator.integers(0, 2**64, count // 8 + 1, np.uint64)
    hashes = centres[generator.integers(0, len(centres), count)]
    for _ in range(3):
        bit = np.uint64(1) << generator.integers(0, 64, count).astype(np.uint64)
        hashes = np.where(generator.random(count) < 0.5, hashes ^ bit, hashes)
    copies = generator.random(count) < 0.2
    hashes[copies] = hashes[generator.integers(0, count, copies.sum())]
    towards = generator.standard_normal((count // 4 + 1, DIRECTIONS))
    vectors = towards[generator.integers(0, len(towards), count)]
    vectors = vectors + 0.1 * generator.standard_normal(vectors.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return [
        face(
            f"{i:04}",
            dhash=int(hashes[i].view(np.int64)),
            embedding=vectors[i],
            dbcnn=float(generator.integers(0, 50)),  # some are equal
            serfiq=float(generator.random()),
        )
        for i in range(count)
    ]


def best_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (-row["dbcnn"], -row["serfiq"], row["frame_id"]))


def distances(rows: list[dict[str, Any]], by: str) -> np.ndarray:
    """(N, N): different bits, or 1 - cosine."""
    if by == "hash":
        hashes = np.array([row["dhash"] for row in rows], np.int64).view(np.uint64)
        return np.bitwise_count(hashes[:, None] ^ hashes).astype(float)
    vectors = np.stack([row["embedding"] for row in rows]).astype(np.float64)
    return 1 - vectors @ vectors.T


def near(rows: list[dict[str, Any]], by: str, limit: float) -> np.ndarray:
    """(N, N) bool: the pairs of different frames."""
    found = distances(rows, by) <= limit
    np.fill_diagonal(found, False)
    return found


def upper(near: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(*np.nonzero(np.triu(near)), strict=True))


def places(found: pa.Table, ordered: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """The pairs of a list, by positions in `ordered`."""
    place = {row["frame_id"]: i for i, row in enumerate(ordered)}
    ids = (found[f"frame_id_{side}"].to_pylist() for side in "ab")
    return [(place[a], place[b]) for a, b in zip(*ids, strict=True)]


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return made_up(400)


@pytest.fixture(scope="module")
def table(rows, tmp_path_factory) -> str:
    return write_faces(tmp_path_factory.mktemp("duplicates") / "table", rows)


def test_pairs_by_hash_join_the_best_of_equal_hashes(rows, table):
    ordered = best_first(rows)
    head: dict[int, int] = {}
    for i, row in enumerate(ordered):
        head.setdefault(row["dhash"], i)
    expected = {(head[row["dhash"]], i) for i, row in enumerate(ordered) if head[row["dhash"]] != i}
    assert len(expected) > 50  # stars of equal hashes
    heads = sorted(head.values())
    apart = near([ordered[i] for i in heads], "hash", 3)
    expected |= {(heads[i], heads[j]) for i, j in upper(apart)}
    found = faceq.duplicates(table, by="hash:3")
    assert found.column_names == [column.name for column in PAIR_COLUMNS]
    assert found.schema.types == [column.type for column in PAIR_COLUMNS]
    pairs = places(found, ordered)
    assert pairs == sorted(expected)
    far = distances(ordered, "hash")
    assert found["distance"].to_pylist() == [far[pair] for pair in pairs]
    sources = (found[f"source_{side}"].to_pylist() for side in "ab")
    named = [(ordered[a]["source"], ordered[b]["source"]) for a, b in pairs]
    assert list(zip(*sources, strict=True)) == named


def test_pairs_by_embedding_are_all_pairs(rows, table):
    ordered = best_first(rows)
    found = faceq.duplicates(table, by="embedding:0.98")
    pairs = places(found, ordered)
    assert pairs == upper(near(ordered, "embedding", 0.02)) != []
    far = distances(ordered, "embedding")
    assert found["distance"].to_pylist() == pytest.approx([far[pair] for pair in pairs], abs=1e-6)


@pytest.mark.parametrize(
    ("by", "kind", "limit"), [("hash:2", "hash", 2), ("embedding:0.97", "embedding", 0.03)]
)
def test_groups_are_connected_and_led_by_their_best_frame(rows, table, by, kind, limit):
    ordered = best_first(rows)
    _, component = connected_components(coo_array(near(ordered, kind, limit)))
    found = faceq.duplicates(table, by=by, group=True)
    assert found.column_names == [column.name for column in GROUP_COLUMNS]
    assert found.schema.types == [column.type for column in GROUP_COLUMNS]
    place = {row["frame_id"]: i for i, row in enumerate(ordered)}
    members: dict[int, list[int]] = {}
    for row in found.to_pylist():
        members.setdefault(row["group"], []).append(place[row["frame_id"]])
        assert row["representative"] == ordered[members[row["group"]][0]]["frame_id"]
    expected = [np.flatnonzero(component == c).tolist() for c in set(component) if (component == c).sum() > 1]
    assert sorted(map(sorted, members.values())) == sorted(expected) != []
    assert all(group[0] == min(group) for group in members.values())
    assert list(members) == list(range(len(expected)))
    sizes = [len(group) for group in members.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert found["frames"].to_pylist() == [size for size in sizes for _ in range(size)]
    far = distances(ordered, kind)
    expected_far = [far[group[0], i] for group in members.values() for i in group]
    assert found["distance"].to_pylist() == pytest.approx(expected_far, abs=1e-6)


def test_the_files_and_threads_do_not_matter(rows, table, tmp_path, monkeypatch):
    mixed = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    other = write_faces(tmp_path / "table", mixed, files=5)
    ways = [{"by": "hash:2"}, {"by": "hash:2", "group": True}, {"by": "embedding"}]
    expected = [faceq.duplicates(table, **way) for way in ways]
    assert [faceq.duplicates(other, **way) for way in ways] == expected
    monkeypatch.setattr("faceq.selection.hash_pairs.usable_cpus", lambda: 1)
    monkeypatch.setattr(embedding_pairs, "_ROWS", 50)  # BLAS rounds differently
    assert [faceq.duplicates(other, **way) for way in ways] == expected


def test_a_still_video_has_a_pair_per_frame(tmp_path):
    still = [face("a", frame_index=i, frame_id=i, dhash=7, dbcnn=float(i)) for i in range(3000)]
    table = write_faces(tmp_path / "table", still, SCHEMA)
    found = faceq.duplicates(table)
    assert len(found) == 2999
    assert set(found["frame_id_a"].to_pylist()) == {2999}
    groups = faceq.duplicates(table, group=True)
    assert len(groups) == 3000 and set(groups["representative"].to_pylist()) == {2999}


def test_only_rows_that_fulfil_the_condition_are_compared(rows, table):
    kept = {row["frame_id"] for row in rows if row["dbcnn"] >= 25}
    found = faceq.duplicates(table, "dbcnn >= 25", by="hash:2", group=True)
    assert len(found) and set(found["frame_id"].to_pylist()) <= kept
    assert not len(faceq.duplicates(table, "dbcnn >= 1000"))
    with pytest.raises(UsageError, match="did you mean"):
        faceq.duplicates(table, "dbcn >= 1")


@pytest.mark.parametrize("by", ["hash", "embedding"])
@pytest.mark.parametrize("group", [False, True])
def test_one_row_has_no_duplicates(tmp_path, by, group):
    table = write_faces(tmp_path / "table", [face("a", dhash=1, embedding=np.eye(DIRECTIONS)[0])])
    found = faceq.duplicates(table, by=by, group=group)
    assert len(found) == 0
    assert found.schema.types == [column.type for column in (GROUP_COLUMNS if group else PAIR_COLUMNS)]


def test_rows_without_a_hash_or_embedding_are_left_out_and_counted(tmp_path, capsys):
    table = write_faces(tmp_path / "table", [face("a"), face("b"), *made_up(20)])
    for by, missing in (("hash", "a hash"), ("embedding", "an embedding")):
        assert main(["duplicates", table, "--by", by, "--out", str(tmp_path / "found.csv")]) == 0
        shown = capsys.readouterr()
        assert f"2 rows without {missing} are left out" in shown.err
        assert "of 20 frames" in shown.out


def test_missing_columns_are_explained(tmp_path):
    columns = pa.schema([field for field in SCHEMA if field.name != "dhash"])
    table = write_faces(tmp_path / "table", [face("a")], columns)
    with pytest.raises(UsageError, match=r"has no hashes .*older version"):
        faceq.duplicates(table)
    with pytest.raises(UsageError, match=r"has no embeddings: .* --embeddings"):
        faceq.duplicates(table, by="embedding")


def test_embeddings_of_two_recognisers_are_refused(tmp_path):
    vectors = [np.eye(4)[0], np.eye(6)[0], np.eye(6)[1]]
    table = write_faces(tmp_path / "table", [face(str(i), embedding=v) for i, v in enumerate(vectors)])
    said = r'4 numbers \(1 rows\) and 6 numbers \(2 rows\).*"len\(embedding\) = 6"'
    with pytest.raises(UsageError, match=said):
        faceq.duplicates(table, by="embedding")
    assert not len(faceq.duplicates(table, "len(embedding) = 6", by="embedding"))


def test_embeddings_without_a_direction_are_left_out(tmp_path, capsys):
    vectors = [np.eye(4)[0], np.eye(4)[0], np.zeros(4), np.full(4, np.nan)]
    table = write_faces(tmp_path / "table", [face(str(i), embedding=v) for i, v in enumerate(vectors)])
    out = str(tmp_path / "found.csv")
    assert main(["duplicates", table, "--by", "embedding", "--out", out]) == 0
    shown = capsys.readouterr()
    assert "2 embeddings are zero or not finite" in shown.err
    assert "1 pairs of 2 frames" in shown.out


@pytest.mark.parametrize(
    "by",
    ["", "phash", "hash:", "hash:-1", "hash:17", "hash:2.5", "hash:nan", "embedding:1", "embedding:x"],
)
def test_an_unknown_likeness_is_refused(by):
    with pytest.raises(UsageError, match="expected hash:BITS"):
        likeness(by)


def test_too_many_pairs_are_an_error_with_the_way_out(table, monkeypatch):
    monkeypatch.setattr(module, "MOST_PAIRS", 10)
    with pytest.raises(UsageError, match="more than 10 pairs: use --group"):
        faceq.duplicates(table, by="embedding:0.5")
    assert len(faceq.duplicates(table, by="embedding:0.5", group=True))


def test_the_command_writes_the_same_as_the_function(table, tmp_path, capsys):
    pairs, groups = tmp_path / "pairs.parquet", tmp_path / "groups.jsonl"
    assert main(["duplicates", table, "--out", str(pairs)]) == 0
    assert pq.read_table(pairs).to_pylist() == faceq.duplicates(table).to_pylist()
    assert main(["duplicates", table, "--group", "--by", "hash:4", "--out", str(groups)]) == 0
    found = [json.loads(line) for line in groups.read_text().splitlines()]
    assert found == faceq.duplicates(table, by="hash:4", group=True).to_pylist()
    shown = capsys.readouterr()
    assert "groups of" in shown.out and "groups are connected, frame by frame" in shown.err


def test_a_wrong_file_name_is_refused_before_the_work(table, tmp_path, capsys):
    assert main(["duplicates", table, "--out", str(tmp_path / "pairs.txt")]) == 2
    assert main(["duplicates", table, "--out", str(tmp_path / "missing" / "pairs.csv")]) == 2
    assert "there is no folder" in capsys.readouterr().err
