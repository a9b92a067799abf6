"""Clips of tracks: one person's face through a shot, while others are in the frame."""

import itertools
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from here import write_table

import faceq
from faceq.cli.main import main
from faceq.errors import UsageError
from faceq.query.compact import compact
from faceq.selection.cut_clip import Clip
from faceq.selection.cutting import lanes
from faceq.storage.settings import S3Settings
from faceq.table.schema import EMBEDDING, FACE, frame_id, schema

FPS = 10.0
HASHES = {"left": 0x0F0F_3C3C_5A5A_6969, "right": -0x1111_2222_3333_4445}


def face(who: str, x: float, dbcnn: float = 60.0, size: float = 80.0) -> dict[str, Any]:
    """A face of 80 pixels; two people have different hashes."""
    box = {"face_x": x, "face_y": 50.0, "face_w": size, "face_h": size}
    return {**box, "serfiq": 0.9, "dbcnn": dbcnn, "dhash": HASHES[who], "yaw": 0.0, "status": "scored"}


def frame(source: str, index: int, faces: list[dict[str, Any]], shot: int = 0) -> dict[str, Any]:
    """A frame; its main face is the first one."""
    main_face = faces[0] if faces else {"status": "no_face"}
    return {
        **main_face,
        "frame_id": frame_id(source, None, index),
        "source": source,
        "frame_index": index,
        "timestamp_s": index / FPS,
        "width": 640,
        "height": 360,
        "n_faces": len(faces),
        "shot": shot,
        "faces": faces,
        "run_id": "1",
    }


def two(index: int, right: float = 60.0) -> list[dict[str, Any]]:
    """Two people beside each other, the left one larger."""
    return [face("left", 50.0 + index / 5, size=100.0), face("right", 400.0 - index / 5, right)]


@pytest.fixture
def table_of(tmp_path):
    """Writes a table of rows; returns its path."""

    def write(
        rows: list[dict[str, Any]], embeddings: bool = False, faces: str = "all", preset: str = "embedded"
    ) -> str:
        columns = schema(embeddings, all_faces=faces == "all")
        record = {"faces": faces, "embeddings": embeddings, "preset": preset}
        return write_table(tmp_path / "table", pa.Table.from_pylist(rows, columns), record)

    return write


def spans(found: pa.Table) -> list[tuple[int, int, int]]:
    names = ("track", "start_frame", "end_frame")
    return list(zip(*(found[name].to_pylist() for name in names), strict=True))


def test_each_person_has_clips_of_their_own(table_of):
    """The right one is bad from frame 60 on, and gone from frame 80 on."""
    rows = [frame("v", i, two(i, 60.0 if i < 60 else 20.0)[: 2 if i < 80 else 1]) for i in range(100)]
    uri = table_of(rows)
    found = faceq.clips(uri, per="track")
    assert spans(found) == [(0, 0, 99), (1, 0, 59)]
    assert found["frames"].to_pylist() == [100, 60]
    assert found["track_share"].to_pylist() == [1.0, pytest.approx(0.8)]
    assert found["track_size"].to_pylist() == [100.0, 80.0]
    assert found["smallest_face"].to_pylist() == [100.0, 80.0]
    assert len(set(found["clip_id"].to_pylist())) == 2
    (whole,) = faceq.clips(uri).to_pylist()
    assert (whole["start_frame"], whole["end_frame"]) == (0, 99) and "track" not in whole


def test_a_track_ends_with_its_shot(table_of):
    uri = table_of([frame("v", i, two(i), shot=i // 50) for i in range(100)])
    assert spans(faceq.clips(uri, per="track")) == [(0, 0, 49), (1, 0, 49), (2, 50, 99), (3, 50, 99)]
    assert faceq.clips(uri, per="track")["shot"].to_pylist() == [0, 0, 1, 1]


def test_a_gap_is_measured_by_the_frames_of_the_video(table_of):
    """The right one is seen in every eighth frame only, which is not the distance of the video's frames."""
    rows = [frame("v", i, two(i)[: 1 if i % 8 else 2]) for i in range(100)]
    uri = table_of(rows)
    assert spans(faceq.clips(uri, "dhash < 0", per="track")) == []
    assert spans(faceq.clips(uri, "dhash < 0", per="track", max_gap=0.7)) == [(1, 0, 96)]


def test_tracks_are_shown_only_if_they_are_asked_for(table_of, capsys, tmp_path):
    uri = table_of([frame(name, i, two(i)) for name in "ab" for i in range(10)])
    assert set(faceq.read_table(uri, "main", ["track"], faces=True)["track"].to_pylist()) == {0}
    assert faceq.read_table(uri, "track = 1", ["main"], faces=True)["main"].to_pylist() == [False] * 20
    assert main(["query", "--faces", uri, "track = 1", "--count"]) == 0
    assert capsys.readouterr().out == "20\n"
    assert main(["explain", "--faces", uri, "track = 1"]) == 0
    assert "20 of 40 faces pass" in capsys.readouterr().out
    statement = "select source, track, count(*) as n from faces group by all order by all"
    assert main(["query", "--faces", uri, "--sql", statement]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:5]] == [[name, t, "10"] for name in "ab" for t in "01"]
    assert main(["query", "--faces", uri, "--export", str(tmp_path / "faces.parquet")]) == 0
    exported = pq.read_table(tmp_path / "faces.parquet")
    assert sorted(exported["track"].to_pylist()) == [0] * 20 + [1] * 20


def test_a_query_of_frames_says_that_their_tracks_are_not_there_yet(table_of, capsys, tmp_path):
    uri = table_of([frame("v", i, two(i)) for i in range(10)])
    arguments = ["faces[1].track = 0", "--count"]
    assert main(["query", uri, *arguments]) == 0
    shown = capsys.readouterr()
    assert shown.out == "0\n" and "until faceq compact has filled it in" in shown.err
    compact(uri, str(tmp_path / "compact"), S3Settings())
    assert main(["query", str(tmp_path / "compact"), *arguments]) == 0
    shown = capsys.readouterr()
    assert shown.out == "10\n" and not shown.err


@pytest.mark.parametrize(
    "statement",
    [
        "select * from faces",
        "FROM faces",
        "select columns('tra.*') from faces",
        "with f as (select f.* from faces as f) select TRACK, count(*) over () as n from f",
    ],
)
def test_a_statement_for_all_columns_has_tracks(table_of, statement, tmp_path):
    uri = table_of([frame("v", i, two(i)) for i in range(10)])
    out = str(tmp_path / "faces.parquet")
    assert main(["query", "--faces", uri, "--sql", statement, "--export", out]) == 0
    found = pq.read_table(out)
    (name,) = (name for name in found.column_names if name.lower() == "track")
    assert sorted(found[name].to_pylist()) == [0] * 10 + [1] * 10


def test_a_statement_that_counts_faces_does_not_follow_them(table_of, monkeypatch):
    uri = table_of([frame("v", i, two(i)) for i in range(10)])
    monkeypatch.setattr("faceq.query.tracks.track_numbers", None)
    statement = "select source, count( * ) as n, avg(dbcnn) from faces group by source"
    assert main(["query", "--faces", uri, "--sql", statement]) == 0


def test_a_table_of_main_faces_has_tracks_of_these(table_of):
    uri = table_of([frame("v", i, two(i)[:1]) for i in range(40)], faces="largest")
    found = faceq.clips(uri, per="track")
    assert spans(found) == [(0, 0, 39)] and found["track_share"].to_pylist() == [1.0]


def test_frames_without_faces_and_pictures_have_no_tracks(table_of):
    pictures = [{**frame(f"{i}.jpg", 0, two(i)), "timestamp_s": None, "shot": None} for i in range(3)]
    uri = table_of([*pictures, *(frame("v", i, []) for i in range(9))])
    assert set(faceq.read_table(uri, None, ["track"], faces=True)["track"].to_pylist()) == {None}
    with pytest.raises(UsageError, match="has no faces in videos"):
        faceq.clips(uri, per="track")


def test_embeddings_tell_people_apart_and_are_compared_within_a_track(table_of):
    vectors = {"left": [1.0, 0.0], "right": [0.0, 1.0]}
    rows = []
    for i in range(40):
        faces = two(i)
        for each, who in zip(faces, vectors, strict=True):
            each[EMBEDDING.name] = vectors[who]
        rows.append({**frame("v", i, faces), EMBEDDING.name: vectors["left"]})
    found = faceq.clips(table_of(rows, embeddings=True), per="track")
    assert found["identity"].to_pylist() == [pytest.approx(1.0)] * 2


@pytest.mark.parametrize(("preset", "tracks"), [("insightface", 1), ("embedded", 2)])
def test_a_person_who_returns_is_known_by_the_threshold_of_the_recogniser(table_of, preset, tracks):
    """A cosine of 0.33: one in 1,000 pairs of different people has 0.25 for ArcFace, 0.39 for SFace."""
    vectors = [[1.0, 0.0], [0.33, (1 - 0.33**2) ** 0.5]]
    rows = []
    for i in range(60):
        faces = two(i)[:1] if not 10 <= i < 50 else []
        for each in faces:
            each[EMBEDDING.name] = vectors[i >= 50]
        rows.append(frame("v", i, faces))
    found = faceq.read_table(table_of(rows, True, preset=preset), None, ["track"], faces=True)
    assert len(set(found["track"].to_pylist())) == tracks


def test_a_compacted_table_keeps_the_tracks(table_of, tmp_path, monkeypatch):
    uri = table_of([*(frame("v", i, two(i)) for i in range(40)), frame("v", 40, [])])
    expected = faceq.clips(uri, per="track")
    compact(uri, str(tmp_path / "compact"), S3Settings())
    stored = faceq.read_table(str(tmp_path / "compact"), "n_faces = 2", ["faces"])["faces"].to_pylist()
    assert [[each["track"] for each in faces] for faces in stored] == [[0, 1]] * 40
    assert all(set(each) == set(FACE.names) for faces in stored for each in faces)
    monkeypatch.setattr("faceq.query.tracks.track_numbers", None)  # not needed again
    assert faceq.clips(str(tmp_path / "compact"), per="track").equals(expected)


def test_a_frame_with_two_rows_has_its_faces_followed_once(table_of, tmp_path):
    rows = [frame("v", i, two(i)) for i in range(20)]
    uri = table_of([*rows, *rows[5:9]])
    found = faceq.read_table(uri, None, ["face", "track"], faces=True)
    assert len(found) == 48 and found["track"].equals(found["face"])
    compact(uri, str(tmp_path / "compact"), S3Settings())
    stored = faceq.read_table(str(tmp_path / "compact"), None, ["faces"])["faces"].to_pylist()
    assert [[each["track"] for each in faces] for faces in stored] == [[0, 1]] * 24


def test_overlapping_clips_are_cut_in_as_few_passes_as_possible():
    def clip(name: str, start: int, end: int) -> Clip:
        return Clip(name, "v", None, start / FPS, end / FPS, start, end)

    clips = [clip("a", 0, 9), clip("b", 20, 29), clip("c", 5, 19), clip("d", 10, 19), clip("e", 25, 40)]
    found = lanes(clips)
    assert [[each.clip_id for each in lane] for lane in found] == [["a", "d", "b"], ["c", "e"]]
    for lane in found:
        assert all(one.end_frame < two.start_frame for one, two in itertools.pairwise(lane))


def test_each_person_is_cut_out_of_the_same_frames(table_of, tmp_path, capsys):
    """The left half of the video is red, the right one blue."""
    path = str(tmp_path / "v.mp4")
    picture = np.zeros((360, 640, 3), np.uint8)
    picture[:, :320, 0] = picture[:, 320:, 2] = 200
    with av.open(path, "w") as video:
        stream = video.add_stream("libx264", rate=int(FPS))
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for _ in range(40):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        video.mux(stream.encode())
    uri = table_of([frame(path, i, two(i)) for i in range(40)])
    cut = str(tmp_path / "cut")
    arguments = ["clips", uri, "--per", "track", "--cut", cut, "--crop", "face", "--crop-size", "64"]
    assert main(arguments) == 0
    listed = pq.read_table(f"{cut}/clips.parquet").to_pylist()
    assert [row["track"] for row in listed] == [0, 1] and not any(row["error"] for row in listed)
    for row, channel in zip(listed, (0, 2), strict=True):
        with av.open(f"{cut}/{row['file']}") as video:
            shown = [each.to_ndarray(format="rgb24") for each in video.decode(video=0)]
        assert len(shown) == 40
        means = np.mean(shown, axis=(0, 1, 2))
        assert means[channel] > 150 and means[2 - channel] < 40
    assert main([each for each in arguments if each not in ("--per", "track")]) == 2
    assert "per was 'track', is now None" in capsys.readouterr().err
