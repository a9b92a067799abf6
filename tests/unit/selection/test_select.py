"""Selections: greedy choice compared with brute force, the same choice for any layout of the table, bad
input."""

import itertools
import json
import math
import shutil
import tarfile
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from here import write_table

import faceq
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.selection import choice, distinct_embeddings, distinct_hashes, greedy
from faceq.selection.distinct_hashes import Hashes
from faceq.selection.select import METADATA_KEY
from faceq.table.schema import EMBEDDING, SCHEMA, frame_id

CONNECT = duckdb.connect

ALL = "frame_index >= 0"
"""A condition that all frames fulfil."""

COLUMNS = SCHEMA.append(EMBEDDING)


def random_rows(seed: int, count: int = 120, videos: int = 4) -> list[dict[str, Any]]:
    """Rows whose hashes and embeddings have clusters, whose scores have ties, and some of which lack a
    value."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**63, 5, dtype=np.uint64)
    centres = rng.standard_normal((5, 8))
    rows = []
    for i in range(count):
        cluster, video = int(rng.integers(5)), int(rng.integers(videos))
        hash_ = int(hashes[cluster])
        for bit in rng.integers(0, 64, int(rng.integers(0, 9))):
            hash_ ^= 1 << int(bit)
        vector = centres[cluster] + 0.4 * rng.standard_normal(8)
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        source, member = (f"v{video}.mp4", None) if video else ("s.tar", f"{i % 2}.mp4")
        row = {
            "frame_id": frame_id(source, member, i),
            "source": source,
            "member": member,
            "frame_index": i,
            "timestamp_s": i / 25,
            "shot": i // 40,
            "status": "scored",
            "serfiq": float(np.float32(rng.integers(1, 9) / 8)),
            "dbcnn": float(rng.integers(1, 9) * 10),
            "yaw": float(rng.uniform(-90, 90)),
            "pitch": float(rng.uniform(-50, 50)),
            "dhash": hash_ - 2**64 if hash_ >= 2**63 else hash_,
            "embedding": vector.tolist(),
            "extra": json.dumps({"identity": f"p{rng.integers(3)}"}),
            "run_id": "1",
        }
        for name in ("dhash", "embedding", "yaw", "extra", "dbcnn", "shot"):
            if rng.random() < 0.05:
                row[name] = None
        rows.append(row)
    return rows


def write(path: Any, rows: list[dict[str, Any]], columns: pa.Schema = COLUMNS, files: int = 1) -> str:
    """A table of rows."""
    return write_table(path, pa.Table.from_pylist(rows, columns), files=files)


GROUPS = {
    None: lambda row: "",
    "source": lambda row: (row["source"], row["member"]),
    "shot": lambda row: None if row["shot"] is None else (row["source"], row["member"], row["shot"]),
    "extra.identity": lambda row: None if row["extra"] is None else json.loads(row["extra"])["identity"],
}


def bin_of(row: dict[str, Any], balance: str | None) -> tuple[int, ...] | None:
    """The bin of a frame, as the reference defines it; None without a pose."""
    found = []
    for part in balance.split(",") if balance else ():
        angle, count = part.split(":")
        if row[angle] is None:
            return None
        side = {"yaw": 75, "pitch": 45, "roll": 45}[angle]
        edges = np.linspace(-side, side, int(count) + 1)[1:-1]
        found.append(int(np.searchsorted(edges, row[angle], "right")))
    return tuple(found)


def too_similar(one: dict[str, Any], other: dict[str, Any], distinct: str | None) -> bool:
    if distinct is None:
        return False
    by, limit = distinct.split(":")
    if by == "hash":
        return ((one["dhash"] ^ other["dhash"]) & (2**64 - 1)).bit_count() < int(limit)
    return float(np.dot(np.float64(one["embedding"]), np.float64(other["embedding"]))) > float(limit)


def brute_force(
    rows: list[dict[str, Any]], per: str | None, top: int | None, distinct: str | None, balance: str | None
) -> dict[Any, list[dict[str, Any]]]:
    """The chosen frames of each group in their order. No two scores are equal."""
    needed = {"hash": "dhash", "embedding": "embedding"}.get((distinct or "").split(":")[0])
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: -row["score"]):
        has = needed is None or row[needed] is not None
        if has and GROUPS[per](row) is not None and bin_of(row, balance) is not None:
            groups.setdefault(GROUPS[per](row), []).append(row)
    chosen: dict[Any, list[dict[str, Any]]] = {}
    for group, frames in groups.items():
        found = chosen.setdefault(group, [])
        counts = dict.fromkeys((bin_of(frame, balance) for frame in frames), 0)
        while top is None or len(found) < top:
            left = [f for f in frames if f not in found]
            left = [f for f in left if not any(too_similar(f, each, distinct) for each in found)]
            if not left:
                break
            best = min(left, key=lambda f: (counts[bin_of(f, balance)], -f["score"]))
            found.append(best)
            counts[bin_of(best, balance)] += 1
    return chosen


@pytest.fixture(params=["usual", "divided"])
def sizes(request, monkeypatch):
    """The usual limits, and some that are so small that groups are divided, filled and read in parts."""
    if request.param == "divided":
        monkeypatch.setattr(greedy, "SMALL", 4)
        monkeypatch.setattr(greedy, "_AHEAD", 3)
        monkeypatch.setattr(greedy, "_WORK", 1)
        monkeypatch.setattr(greedy, "_CELLS", 8)
        monkeypatch.setattr(choice, "_FIRST", 2)
        monkeypatch.setattr(distinct_embeddings, "_VALUES_AT_ONCE", 64)
        monkeypatch.setattr(distinct_embeddings, "IN_MEMORY", 0)


@pytest.mark.parametrize("distinct", [None, "hash:1", "hash:9", "embedding:0.9"])
@pytest.mark.parametrize("per", list(GROUPS))
def test_the_choice_is_that_of_brute_force(tmp_path, sizes, per, distinct):
    rows = random_rows(len(distinct or "") + len(per or ""))
    uri = write(tmp_path / "table", rows)
    for number, row in enumerate(rows):  # no ties, so that the order is known
        row["score"] = float(np.float32(row["serfiq"])) + number / 1000
    by = "serfiq + frame_index / 1000"
    for top, balance in ((None, None), (1, None), (6, None), (6, "yaw:5"), (20, "yaw:5,pitch:3")):
        found = faceq.select(uri, ALL, per=per, top=top, by=by, distinct=distinct, balance=balance)
        expected = brute_force(rows, per, top, distinct, balance)
        ranks = {row["frame_id"]: rank for group in expected.values() for rank, row in enumerate(group, 1)}
        ids, given = found["frame_id"].to_pylist(), found["rank"].to_pylist()
        assert dict(zip(ids, given, strict=True)) == ranks


@pytest.mark.parametrize("balance", [None, "yaw:4,pitch:2"])
@pytest.mark.parametrize("distinct", ["hash:7", "embedding:0.85"])
def test_nothing_left_out_is_both_better_and_distinct(tmp_path, sizes, distinct, balance):
    """The guarantee, with ties: a frame left out is too similar to a chosen one, or all chosen ones of its
    group and bin are at least as good, and no other bin has more than one more."""
    rows = random_rows(3)
    found = faceq.select(
        write(tmp_path / "table", rows), ALL, per="source", top=9, distinct=distinct, balance=balance
    ).to_pylist()
    score = {row["frame_id"]: _blend(row) for row in rows if row["dbcnn"] is not None}
    needed = "dhash" if distinct.startswith("hash") else "embedding"
    assert len(found) > 20
    compared = 0
    for row in rows:
        has = row["dbcnn"] is not None and row[needed] is not None and bin_of(row, balance) is not None
        if not has or row["frame_id"] in [each["frame_id"] for each in found]:
            continue
        of_group = [each for each in found if GROUPS["source"](each) == GROUPS["source"](row)]
        similar = any(too_similar(row, each, distinct) for each in of_group)
        of_bin = [each for each in of_group if bin_of(each, balance) == bin_of(row, balance)]
        if not similar:
            compared += 1
            assert len(of_group) == 9
            assert all(score[each["frame_id"]] >= score[row["frame_id"]] - 1e-6 for each in of_bin)
            bins = [bin_of(each, balance) for each in of_group]
            assert max(map(bins.count, bins)) <= len(of_bin) + 1
    for one, other in itertools.combinations(found, 2):
        if GROUPS["source"](one) == GROUPS["source"](other):
            assert not too_similar(one, other, distinct)
    assert compared


def _blend(row: dict[str, Any]) -> float:
    return (row["serfiq"] * row["dbcnn"] / 100) ** 0.5


def test_files_order_of_rows_and_threads_do_not_change_the_choice(tmp_path, monkeypatch):
    """The scores have many ties."""
    rows = random_rows(5, 400)
    wanted = {"per": "source", "top": 7, "distinct": "embedding:0.9", "balance": "yaw:3", "total": 20}
    first = faceq.select(write(tmp_path / "first", rows), ALL, **wanted)
    assert len(first) == 20
    order = np.random.default_rng(0).permutation(len(rows))
    other = write(tmp_path / "other", [rows[i] for i in order], files=7)
    monkeypatch.setattr("faceq.selection.limited_rows.MEMORY", "300MB")
    for threads in (1, 3):
        monkeypatch.setattr(
            "faceq.query.confined.duckdb.connect",
            lambda config, threads=threads, connect=CONNECT: connect(config={**config, "threads": threads}),
        )
        assert faceq.select(other, ALL, **wanted).equals(first)
    reseeded = faceq.select(other, ALL, **wanted, seed=1)
    assert reseeded["frame_id"].to_pylist() != first["frame_id"].to_pylist()


def test_a_total_takes_the_best_of_each_group_before_the_second_ones(tmp_path):
    rows = random_rows(6, 60)
    uri = write(tmp_path / "table", rows)
    whole = faceq.select(uri, ALL, per="source", by="frame_index", distinct="hash:9").to_pylist()
    for total in (1, 3, 8, 25, 1000):
        found = faceq.select(uri, ALL, per="source", by="frame_index", distinct="hash:9", total=total)
        expected = sorted(whole, key=lambda row: (row["rank"], -row["frame_index"]))[:total]
        assert set(found["frame_id"].to_pylist()) == {row["frame_id"] for row in expected}


def test_clusters_are_groups(tmp_path):
    rows = random_rows(7, 40)
    uri = write(tmp_path / "table", rows)
    people = [None if i % 5 == 0 else i % 3 for i in range(40)]
    ids = [row["frame_id"] for row in rows]
    clusters = pa.table({"frame_id": ids[:-4], "cluster": pa.array(people[:-4], pa.int32())})
    pq.write_table(clusters, tmp_path / "people.parquet")
    found = faceq.select(
        uri, ALL, per="cluster", clusters=str(tmp_path / "people.parquet"), top=3, by="frame_index"
    )
    expected = [(str(c), i) for c in range(3) for i in range(35, -1, -1) if people[i] == c]
    best = [pair for c in range(3) for pair in [each for each in expected if each[0] == str(c)][:3]]
    assert list(zip(found["group"].to_pylist(), found["frame_index"].to_pylist(), strict=True)) == best


def test_each_chosen_row_says_its_group_rank_and_bin(tmp_path, capsys):
    rows = random_rows(8)
    uri = write(tmp_path / "table", rows)
    command = [
        "select",
        uri,
        ALL,
        "--per",
        "shot",
        "--top",
        "4",
        "--distinct",
        "hash:5",
        "--balance",
        "yaw:5",
    ]
    tables = []
    for ending in ("parquet", "csv", "jsonl"):
        out = str(tmp_path / f"chosen.{ending}")
        assert main([*command, "--out", out]) == 0
        tables.append(out)
    assert "too similar" in capsys.readouterr().out
    found = pq.read_table(tables[0])
    assert found.column_names == [*COLUMNS.names, "group", "rank", "bin"]
    assert found.schema.field("rank").type == pa.int32()
    for row in found.to_pylist():
        name = [row["source"], row["member"], f"shot {row['shot']}"]
        assert row["group"] == ": ".join(filter(None, name))
        low = np.floor((row["yaw"] + 75) / 30) * 30 - 75
        assert row["bin"] == (
            "yaw below -45" if low < -45 else "yaw from 45" if low >= 45 else f"yaw {low:g} to {low + 30:g}"
        )
    assert pyarrow.csv.read_csv(tables[1])["frame_id"].to_pylist() == found["frame_id"].to_pylist()
    with open(tables[2]) as lines:
        assert [json.loads(line)["rank"] for line in lines] == found["rank"].to_pylist()
    record = json.loads(found.schema.metadata[METADATA_KEY])
    assert record["chosen"] == len(found) and record["where"] == ALL
    assert record["candidates"] == record["chosen"] + record["similar"] + record["beyond"]


def test_the_summary_counts_what_is_left_out(tmp_path, capsys):
    """Two groups: in one, three of five frames are alike; the other has a frame without a score."""
    rows = random_rows(9, 8)
    for number, row in enumerate(rows):
        row |= {"source": "a" if number < 5 else "b", "member": None, "dbcnn": 50.0 + number, "shot": 0}
        row |= {"dhash": 0 if number < 3 else 2**number - 1 << 10, "serfiq": 0.5, "frame_index": number}
    rows[7]["dbcnn"] = None
    uri = write(tmp_path / "table", rows)
    assert main(["select", uri, ALL, "--per", "source", "--top", "4", "--distinct", "hash:1"]) == 0
    said = capsys.readouterr()
    lines = dict(
        line.split(maxsplit=1) for line in said.out.splitlines() if line.startswith(("groups", "ca"))
    )
    assert lines["groups"] == "2, 2 of them with fewer than 4 to choose"
    assert lines["candidates"] == "7"
    assert "chosen       5\ntoo similar  2\nnot needed   0\n" in said.out
    assert "1 frames that fulfil the condition are left out: no score (--by)" in said.err


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"per": "extra.persona"}, "no frame .* has this value in `extra`: its keys are identity"),
        ({"per": "person"}, "choose from source, shot, cluster, track, extra.KEY"),
        ({"per": "track"}, "--per track needs --faces"),
        ({"per": "cluster"}, "needs --clusters people.parquet"),
        ({"clusters": "people.parquet"}, "--clusters needs --per cluster"),
        ({"by": "sharpnes"}, 'no column "sharpnes": did you mean "sharpness"'),
        ({"by": "source"}, "expected a number for each frame, not VARCHAR"),
        ({"by": "serfiq, dbcnn"}, "expected a number"),
        ({"by": "1) AS a, (2"}, "expected one expression"),
        ({"by": "max(serfiq)"}, "GROUP BY"),
        ({"distinct": "hash:0"}, "hash:BITS with 1 to 64 bits"),
        ({"distinct": "hash:65"}, "hash:BITS with 1 to 64 bits"),
        ({"distinct": "embedding:1.5"}, "COSINE"),
        ({"distinct": "pixels"}, "hash:BITS"),
        ({"balance": "yaw:5"}, "needs --top N or --total N"),
        ({"balance": "age:5", "top": 3}, "expected ANGLE:BINS for some of yaw, pitch, roll"),
        ({"balance": "yaw:5,yaw:3", "top": 3}, "each once"),
        ({"balance": "yaw:99,pitch:99", "top": 3}, "1,000 at most"),
        ({"top": 0}, "must be 1 or more"),
        ({"total": -1}, "must be 1 or more"),
        ({"where": "true) or (true"}, "query:"),
    ],
)
def test_bad_options_are_errors_that_say_what_to_do(tmp_path, wanted, reason):
    uri = write(tmp_path / "table", random_rows(10, 10))
    with pytest.raises(UsageError, match=reason):
        faceq.select(uri, wanted.pop("where", ALL), **wanted)


def test_a_table_without_embeddings_says_how_to_make_them(tmp_path):
    rows = [{**row, "embedding": None} for row in random_rows(11, 10)]
    uri = write(tmp_path / "table", rows, SCHEMA)
    with pytest.raises(UsageError, match="has no embeddings: score it with --embeddings"):
        faceq.select(uri, ALL, distinct="embedding")
    assert len(faceq.select(uri, ALL, distinct="hash")) > 0


def test_embeddings_without_a_direction_count_as_missing(tmp_path):
    """The cosine with a vector of zeros or NaN says nothing."""
    rows = [row for row in random_rows(11, 40) if row["embedding"]]
    for row, value in zip(rows, (0.0, math.nan, math.inf), strict=False):
        row["embedding"] = [value] * 8
        row["serfiq"], row["dbcnn"] = 1.0, 100.0  # they would be chosen first
    uri = write(tmp_path / "bad", rows)
    without = write(tmp_path / "without", [*({**row, "embedding": None} for row in rows[:3]), *rows[3:]])
    chosen = [faceq.select(table, ALL, distinct="embedding:0.9") for table in (uri, without)]
    assert chosen[0]["frame_id"].equals(chosen[1]["frame_id"]) and len(chosen[0]) > 3
    assert not {row["frame_id"] for row in rows[:3]} & set(chosen[0]["frame_id"].to_pylist())


def test_embeddings_of_different_recognisers_are_refused(tmp_path):
    rows = [row for row in random_rows(11, 20) if row["embedding"]]
    rows[3]["embedding"] = rows[3]["embedding"] * 2
    uri = write(tmp_path / "table", rows)
    with pytest.raises(UsageError, match=r"of 8 numbers .* and 16 numbers \(1 rows\): name those of one"):
        faceq.select(uri, ALL, distinct="embedding")
    assert len(faceq.select(uri, "len(embedding) = 8", distinct="embedding")) > 0


@pytest.mark.parametrize(
    ("clusters", "reason"),
    [
        (b"not Parquet", "is not a Parquet file"),
        ({"frame_id": [1, 1], "cluster": [0, 1]}, "two rows for one frame"),
        ({"frame_id": [1], "person": [0]}, "no integer columns frame_id and cluster"),
        ({"frame_id": [1], "cluster": [0]}, "is --clusters of another table?"),
        (None, "cannot be read: .*: No such file"),
    ],
)
def test_a_wrong_file_of_clusters_is_an_error(tmp_path, clusters, reason):
    uri = write(tmp_path / "table", random_rows(12, 10))
    path = tmp_path / "people.parquet"
    if isinstance(clusters, bytes):
        path.write_bytes(clusters)
    elif clusters is not None:
        pq.write_table(pa.table(clusters), path)
    with pytest.raises(UsageError, match=reason):
        faceq.select(uri, ALL, per="cluster", clusters=str(path))


@pytest.mark.parametrize("condition", ["true", "serfiq > 2"])
def test_breaks_are_no_candidates_and_nothing_may_be_left(tmp_path, condition):
    rows = random_rows(13, 20)
    source = {**dict.fromkeys(COLUMNS.names), "source": "bad.tar", "frame_index": -1, "frame_id": 1}
    rows.append({**source, "status": "unreadable", "error": "it ends here", "run_id": "1"})
    uri = write(tmp_path / "table", rows)
    wanted = {"by": "1", "per": "source", "top": 2, "total": 99, "balance": "yaw:3"}
    for distinct in ("hash", "embedding"):
        assert len(faceq.select(uri, condition, distinct=distinct, **wanted)) == 0 or condition == "true"
    found = faceq.select(uri, condition, **wanted)
    assert found.column_names[-3:] == ["group", "rank", "bin"]
    assert 1 not in found["frame_id"].to_pylist()
    assert bool(len(found)) == (condition == "true")


def test_the_index_finds_what_comparing_all_pairs_finds(monkeypatch):
    """For radii up to 12 bits, with hashes that have any number of bits in common."""
    rng = np.random.default_rng(0)
    known = rng.integers(0, 2**63, 600, dtype=np.uint64)
    known[:100] = known[0] & ~np.uint64(0xFFFF) | np.arange(100, dtype=np.uint64)  # many with one key
    queries = known[rng.integers(0, 600, 400)]
    for _ in range(16):
        change = rng.random(400) < 0.5
        queries = np.where(
            change, queries ^ np.uint64(1) << rng.integers(0, 64, 400).astype(np.uint64), queries
        )
    monkeypatch.setattr(distinct_hashes, "_PAIRS_AT_ONCE", 1000)
    distances = np.bitwise_count(queries[:, None] ^ known).min(1)
    assert len(set(distances)) > 8
    for radius in (0, 1, 2, 5, 7, 10, 12):
        for parts in range(3, 7):
            found = distinct_hashes._any_by_index(queries, known, radius, parts, radius // parts)
            assert (found == (distances <= radius)).all()
    both = np.concatenate([queries, known])
    near = Hashes(both, 7).any(np.arange(400), np.arange(400, 1000))
    assert (near == (distances < 7)).all()


def test_chosen_frames_are_exported_with_their_rows(looked_at, tmp_path, capsys):
    """Again: nothing is written; with another choice, the folder is refused; a frame that has vanished is
    reported."""
    folder, copy = tmp_path / "shards", tmp_path / "copy"
    chosen = ["select", looked_at, "dbcnn > 0 and timestamp_s is null", "--top", "3", "--distinct", "hash"]
    command = [*chosen, "--export-shards", str(folder)]
    assert main([*command, "--out", str(tmp_path / "chosen.parquet")]) == 0
    expected = pq.read_table(tmp_path / "chosen.parquet").to_pylist()
    with tarfile.open(folder / "frames-000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    rows = [json.loads(content) for name, content in members.items() if name.endswith(".faceq.json")]
    assert {row["frame_id"]: row["rank"] for row in rows} == {r["frame_id"]: r["rank"] for r in expected}
    assert len(members) >= 2 * len(expected)
    assert main(command) == 0
    assert "3 were exported before" in capsys.readouterr().out
    assert main([*command, "--top", "2"]) == 2
    assert "contains another export" in capsys.readouterr().err
    shutil.copytree(looked_at, copy)
    lost = pq.read_table(next((copy / "status=scored").glob("*.parquet"))).to_pylist()
    gone = [{**row, "source": "/gone.jpg", "member": None, "status": "scored"} for row in lost[:2]]
    uri = write(tmp_path / "gone", gone, SCHEMA)
    assert main(["select", uri, "dbcnn > 0", "--export-shards", str(tmp_path / "lost")]) == 1
    assert "2 frames could not be read" in capsys.readouterr().err
