"""Clips: stretches of one shot whose frames fulfil a condition, by time and not by index."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from here import write_table

import faceq
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.query.rows import Rows
from faceq.selection import clip_values
from faceq.selection.clip_schema import SUMMARISED, schema
from faceq.selection.clips import Lengths, find
from faceq.storage.settings import S3Settings
from faceq.table.schema import EMBEDDING, SCHEMA, frame_id


def frame(source: str, index: int, time: float | None, dbcnn: float | None = 60.0, **values: Any) -> dict:
    return {
        "frame_id": frame_id(source, values.get("member"), index),
        "source": source,
        "frame_index": index,
        "timestamp_s": time,
        "status": "scored" if dbcnn is not None else "no_face",
        "serfiq": 0.9 if dbcnn is not None else None,
        "dbcnn": dbcnn,
        "run_id": "1",
        **values,
    }


def video(source: str, good: str, fps: float = 10.0, **values: Any) -> list[dict]:
    """A frame for each letter: `+` fulfils the recommended filter, `-` does not, a space is missing."""
    found = [(i, letter) for i, letter in enumerate(good) if letter != " "]
    return [frame(source, i, i / fps, 60.0 if letter == "+" else 10.0, **values) for i, letter in found]


@pytest.fixture
def table_of(tmp_path):
    """Writes a table of rows; returns its path."""

    def write(rows: list[dict], columns: pa.Schema = SCHEMA) -> str:
        return write_table(tmp_path / "table", pa.Table.from_pylist(rows, columns))

    return write


def spans(found: pa.Table) -> list[tuple[str, int, int]]:
    names = ("source", "start_frame", "end_frame")
    return list(zip(*(found[name].to_pylist() for name in names), strict=True))


@pytest.mark.parametrize(
    ("good", "expected"),
    [
        ("+" * 31, [(0, 30)]),
        ("+" * 30, []),  # 2.9 s from the first to the last frame
        ("-" * 9 + "+" * 40 + "-" * 9, [(9, 48)]),
        ("+" * 20 + "-" * 5 + "+" * 20, [(0, 44)]),  # a gap of 0.5 s
        ("+" * 20 + "-" * 6 + "+" * 20, []),
        ("+" * 20 + " " * 5 + "+" * 20, [(0, 44)]),  # missing frames are a gap, too
        ("+" * 20 + " " * 6 + "+" * 20, []),
        ("+-" * 20, [(0, 38)]),
        ("-" * 40, []),
        ("+" * 151, [(0, 150)]),
        ("+" * 153, [(0, 76), (77, 152)]),  # two equal clips
        ("+" * 310, [(0, 103), (104, 206), (207, 309)]),
    ],
)
def test_gaps_are_bridged_and_long_stretches_divided(table_of, good, expected):
    found = faceq.clips(table_of(video("v.mp4", good)))
    assert [span[1:] for span in spans(found)] == expected
    assert found.schema == schema(embeddings=False)


@pytest.mark.parametrize(
    ("frames", "lengths", "expected"),
    [
        (151, (10, 12), [(0, 120)]),  # two halves would be too short
        (251, (10, 12), [(0, 120), (121, 240)]),
        (51, (5, 5), [(0, 50)]),
        (101, (0, 5), [(0, 50), (51, 100)]),
        (1, (0, 5), [(0, 0)]),
    ],
)
def test_a_stretch_that_cannot_be_halved_is_cut_at_the_maximum(table_of, frames, lengths, expected):
    found = faceq.clips(
        table_of(video("v.mp4", "+" * frames)), min_seconds=lengths[0], max_seconds=lengths[1]
    )
    assert [span[1:] for span in spans(found)] == expected
    seconds = np.subtract(found["end_s"].to_numpy(), found["start_s"].to_numpy())
    assert (seconds >= lengths[0] - 1e-6).all() and (seconds <= lengths[1] + 1e-6).all()


def test_no_clip_crosses_a_shot_or_a_video(table_of):
    rows = (
        video("a.mp4", "+" * 80)
        + video("b.tar", "+" * 40, member="1.mp4")
        + video("b.tar", "+" * 40, member="2.mp4")
    )
    for row in rows:
        row["shot"] = int(row["source"] == "a.mp4" and row["frame_index"] >= 35)
    found = faceq.clips(table_of(rows[::-1]))
    assert spans(found) == [("a.mp4", 0, 34), ("a.mp4", 35, 79), ("b.tar", 0, 39), ("b.tar", 0, 39)]
    assert found["shot"].to_pylist() == [0, 1, 0, 0]
    assert found["member"].to_pylist() == [None, None, "1.mp4", "2.mp4"]
    assert len(set(found["clip_id"].to_pylist())) == 4
    assert found["clip_id"][1].as_py() == f"{frame_id('a.mp4', None, 35) % 2**64:016x}-79"


def test_time_decides_where_the_frame_rate_varies(table_of):
    """The first video has 10 frames per second, then 1; of the second, every tenth frame was scored."""
    times = [*np.arange(0, 4, 0.1), *np.arange(4, 10)]
    rows = [frame("a.mp4", i, float(time)) for i, time in enumerate(times)]
    rows += [frame("b.mp4", i, i / 10) for i in range(0, 60, 10)]
    found = faceq.clips(table_of(rows))
    assert spans(found) == [("a.mp4", 0, 40), ("b.mp4", 0, 50)]
    assert found["end_s"].to_pylist() == pytest.approx([4.0, 5.0])


def test_pictures_breaks_and_odd_timestamps_are_no_obstacle(table_of):
    rows = [frame("photo.jpg", 0, None), frame("one.mp4", 0, 0.0)]
    rows += [frame("same.mp4", i, 1.0) for i in range(50)]
    rows += [frame("back.mp4", i, i / 10 - 2) for i in range(50)]
    rows += [frame("back.mp4", -1, None, None, status="unreadable", error="it ends here")]
    found = faceq.clips(table_of(rows))
    assert spans(found) == [("back.mp4", 0, 49)]
    assert found["start_s"][0].as_py() == -2


def test_values_are_those_of_the_frames(table_of):
    """Compared with NumPy, with frames in a gap and one without a face."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        face = {"face_x": rng.uniform(0, 9), "face_y": rng.uniform(0, 9), "face_w": 50 + i, "face_h": 60.0}
        pose = {name: rng.uniform(-30, 30) for name in ("yaw", "pitch", "roll")}
        values = {name: rng.uniform(0, 1) for name in SUMMARISED if name not in ("serfiq", "dbcnn")}
        rows.append(
            frame("v.mp4", i, i / 10, 70 - abs(i - 20), n_faces=1 + (i == 3), **face, **pose, **values)
        )
    rows[30] = frame("v.mp4", 30, 3.0, None, n_faces=0)
    rows = [
        {key: np.float32(v) if isinstance(v, float) and key != "timestamp_s" else v for key, v in row.items()}
        for row in rows
    ]
    (clip,) = faceq.clips(table_of(rows), "dbcnn > 31.5").to_pylist()
    assert (clip["start_frame"], clip["end_frame"], clip["frames"], clip["best_frame"]) == (0, 58, 59, 20)
    inside = rows[:59]
    faces = [row for row in inside if row.get("face_w")]
    assert clip["share"] == pytest.approx(58 / 59)
    assert clip["one_face"] == pytest.approx(57 / 59)
    assert clip["smallest_face"] == 50
    for name in ("yaw", "pitch", "roll"):
        assert clip[f"{name}_min"] == min(row[name] for row in faces)
        assert clip[f"{name}_max"] == max(row[name] for row in faces)
    for name in SUMMARISED:
        values = np.array([row[name] for row in inside if row.get(name) is not None], np.float32)
        assert clip[f"{name}_mean"] == pytest.approx(values.mean(), rel=1e-5)
        assert clip[f"{name}_min"] == values.min()
        assert clip[f"{name}_p10"] == pytest.approx(np.quantile(values, 0.1), rel=1e-5)
    speeds = []
    for before, after in itertools.pairwise(faces):
        x, y = (
            (after[a] + after[s] / 2) - (before[a] + before[s] / 2)
            for a, s in (("face_x", "face_w"), ("face_y", "face_h"))
        )
        width = (before["face_w"] + after["face_w"]) / 2
        speeds.append(math.hypot(x, y) / width / (after["timestamp_s"] - before["timestamp_s"]))
    assert clip["motion_mean"] == pytest.approx(np.mean(speeds), rel=1e-5)
    assert clip["motion_max"] == pytest.approx(max(speeds), rel=1e-5)


def test_identity_is_the_lowest_cosine_to_the_mean(table_of, monkeypatch):
    """Read in several parts; frames without an embedding do not count."""
    monkeypatch.setattr(clip_values, "_FRAMES_AT_ONCE", 7)
    rng = np.random.default_rng(1)
    rows = video("a.mp4", "+" * 40) + video("b.mp4", "+" * 40)
    for row in rows[:40]:
        vector = rng.normal(size=8)
        row["embedding"] = list(vector / np.linalg.norm(vector)) if row["frame_index"] != 5 else None
    found = faceq.clips(table_of(rows, SCHEMA.append(EMBEDDING)))
    vectors = np.array([row["embedding"] for row in rows[:40] if row["embedding"]])
    mean = vectors.mean(0) / np.linalg.norm(vectors.mean(0))
    assert found["identity"].to_pylist() == [pytest.approx((vectors @ mean).min(), rel=1e-5), None]
    assert found.schema == schema(embeddings=True)


def test_the_condition_may_be_any_and_must_be_one(table_of):
    table = table_of(video("v.mp4", "+" * 40 + "-" * 40))
    assert spans(faceq.clips(table, "source like '%v%' -- all")) == [("v.mp4", 0, 79)]
    assert len(faceq.clips(table, "member like '%.jpg'")) == 0
    with pytest.raises(UsageError, match='no column "dbcn": did you mean "dbcnn"'):
        faceq.clips(table, "dbcn > 3")
    with pytest.raises(UsageError, match="query: "):
        faceq.clips(table, "true) or (true")
    with pytest.raises(UsageError, match="query: "):
        faceq.clips(table, "video > 0")  # a name that faceq uses inside


@pytest.mark.parametrize(
    "lengths", [(5, 3, 0.5), (-1, 3, 0.5), (1, 3, -1), (1, math.inf, 1), (math.nan, 3, 1)]
)
def test_lengths_that_no_clip_could_have_are_refused(lengths):
    with pytest.raises(UsageError, match=r"^clips: "):
        Lengths(*lengths)


def test_a_table_without_videos_is_refused(table_of):
    with pytest.raises(UsageError, match="has no frames of videos"):
        faceq.clips(table_of([frame("photo.jpg", 0, None)]))


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_the_command_writes_every_format(table_of, tmp_path, ending, capsys):
    table, out = table_of(video("v.mp4", "+" * 40)), tmp_path / f"clips.{ending}"
    assert main(["clips", table, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"1 clips, 3.9 s in {out}\n"
    if ending == "jsonl":
        found = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        found = {"parquet": pq.read_table, "csv": pyarrow.csv.read_csv}[ending](out).to_pylist()
    assert [row["clip_id"] for row in found] == faceq.clips(table)["clip_id"].to_pylist()
    assert list(found[0]) == schema(embeddings=False).names


def test_the_command_prints_clips_and_says_why_there_are_none(table_of, capsys):
    table = table_of(video("v.mp4", "+" * 40))
    assert main(["clips", table]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "v.mp4             0.000  3.900  1.000        0.900      60.000             ",
        "1 clips, 3.9 s",
    ]
    assert main(["clips", table, "--min-seconds", "9"]) == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("0 clips, 0.0 s\n") and "try a smaller --min-seconds" in shown.err


def test_rows_of_many_files_and_statuses_in_any_order_give_the_same(table_of):
    rows = [row for name in "abc" for row in video(f"{name}.mp4", "+" * 70 + "-" * 3 + "+" * 50)]
    expected = [(f"{name}.mp4", 0, 122) for name in "abc"]
    np.random.default_rng(2).shuffle(rows)
    table = table_of(rows)
    for threads in (1, 4):
        with Rows(table, S3Settings(), threads=threads) as opened:
            assert spans(find(opened, None, Lengths())) == expected
