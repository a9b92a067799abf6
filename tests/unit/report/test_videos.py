"""The section of the report about videos."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from here import write_table
from PIL import Image
from videos import write_video

import faceq
from faceq.query.rows import Rows
from faceq.report.page import build
from faceq.report.sheets import FRAMES, SHEETS, SIDE
from faceq.report.timelines import BINS
from faceq.report.videos import TIMELINES, Videos, videos
from faceq.storage.settings import S3Settings
from faceq.table.schema import SCHEMA, frame_id

FPS = 10


def video(source: str, dbcnn: list[float | None], member: str | None = None, **columns: Any) -> dict:
    """Columns of a video with FPS frames per second; frames without a `dbcnn` have no face."""
    count = len(dbcnn)
    faces = [value is not None for value in dbcnn]
    return {
        "frame_id": [frame_id(source, member, i) for i in range(count)],
        "source": [source] * count,
        "member": [member] * count,
        "frame_index": range(count),
        "timestamp_s": [i / FPS for i in range(count)],
        "status": ["scored" if face else "no_face" for face in faces],
        **{f"face_{side}": [16.0 if face else None for face in faces] for side in "xywh"},
        "serfiq": [0.9 if face else None for face in faces],
        "dbcnn": dbcnn,
        "shot": [0] * count,
        "run_id": ["1"] * count,
        **columns,
    }


@pytest.fixture
def table_of(tmp_path):
    """Writes a table of videos; returns its path."""

    def write(*found: dict, columns: pa.Schema = SCHEMA) -> str:
        parts = [
            pa.table(
                {
                    field.name: pa.array(values[field.name], field.type)
                    if field.name in values
                    else pa.nulls(len(values["source"]), field.type)
                    for field in columns
                }
            )
            for values in found
        ]
        return write_table(tmp_path / "table", pa.concat_tables(parts))

    return write


def section(table: str, with_pictures: bool = False) -> Videos | None:
    with Rows(table, S3Settings()) as rows:
        return videos(rows, S3Settings(), with_pictures)


def part_of(page: str) -> str:
    """The HTML of the section."""
    (found,) = re.findall(r'<section aria-labelledby="videos-title">.*?</section>', page, re.DOTALL)
    return found


def heights(path: str) -> list[float]:
    return [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", path)]


def test_a_table_without_videos_has_no_section(table_of):
    images = video("/d/a.jpg", [60.0] * 50, timestamp_s=[None] * 50)
    broken = video("/d/b.mp4", [None], frame_index=[-1], timestamp_s=[3.0])  # only a break
    table = table_of(images, broken)
    assert section(table) is None
    assert "videos-title" not in build(table, S3Settings(), with_pictures=False)


def test_the_curve_has_the_values_of_the_frames(table_of):
    values = [60.0, 20.0, None, 80.0, 100.0, 0.0]
    (found,) = section(table_of(video("/d/a.mp4", values))).shown
    dbcnn, serfiq = found.chart.panels
    expected = [dbcnn.y.place(value) for value in values if value is not None]
    assert heights(dbcnn.mean) == pytest.approx(expected, abs=0.05)
    assert dbcnn.mean.count("M") == 2 and dbcnn.spread == ""
    assert heights(serfiq.mean) == pytest.approx([serfiq.y.place(0.9)] * 5, abs=0.05)


def test_a_long_video_is_drawn_in_few_bins(table_of):
    count = 100_000
    values = np.random.default_rng(0).uniform(0, 100, count).astype(np.float32)
    table = table_of(video("/d/a.mp4", values.tolist(), shot=np.arange(count) // 50))
    (found,) = section(table).shown
    assert (found.frames, found.shots, found.length) == (count, 2_000, "2:46:40")
    curve, y = found.chart.panels[0], found.chart.panels[0].y
    assert len(heights(curve.mean)) == BINS
    bins = np.round(np.arange(count) * (BINS - 1) / (count - 1) - 1e-9).astype(int)
    parts = [values[bins == number] for number in range(BINS)]
    means = [y.place(float(part.mean())) for part in parts]
    assert heights(curve.mean) == pytest.approx(means, abs=0.1)
    lowest = [y.place(float(part.min())) for part in parts]
    assert heights(curve.spread)[: -BINS - 1 : -1] == pytest.approx(lowest, abs=0.1)
    assert len(part_of(build(table, S3Settings(), with_pictures=False))) < 25_000


def test_bars_and_shots_are_those_of_the_clips(table_of):
    values = [60.0] * 80 + [10.0] * 20 + [60.0] * 60
    table = table_of(video("/d/a.mp4", values, shot=[0] * 40 + [1] * 120))
    clips = faceq.clips(table).to_pylist()
    assert [(clip["start_s"], clip["end_s"]) for clip in clips] == [(0, 3.9), (4.0, 7.9), (10.0, 15.9)]
    found = section(table)
    (shown,) = found.shown
    x = shown.chart.x
    bars = re.findall(r"M([\d.]+) [\d.]+H([\d.]+)", shown.chart.kept)
    expected = [x.place(clip["end_s"]) for clip in clips]
    assert [float(right) for _, right in bars] == pytest.approx(expected, abs=0.06)
    assert re.findall(r"M(\d+)", shown.chart.shots) == [str(round(x.place(4.0)))]
    assert (shown.shots, shown.clips, shown.kept) == (2, 3, "0:14")
    assert "Kept: 0:00 to 0:04, 0:04 to 0:08, 0:10 to 0:16." in shown.chart.text


def test_the_videos_with_the_longest_kept_time_are_shown(table_of):
    found = [video(f"/d/{n:02d}.mp4", [60.0] * (40 + n) + [10.0] * (60 - n)) for n in range(TIMELINES + 3)]
    shown = section(table_of(*found, video("/d/none.mp4", [10.0] * 500)))
    assert [each.name for each in shown.shown] == [f"{n:02d}.mp4" for n in range(TIMELINES + 2, 2, -1)]
    assert (shown.total, shown.clips) == (TIMELINES + 4, TIMELINES + 3)


def test_a_table_without_shots_or_scores_has_timelines(table_of):
    columns = pa.schema([field for field in SCHEMA if field.name != "shot"])
    table = table_of(video("/d/a.mp4", [None] * 30), video("/d/b.mp4", [70.0]), columns=columns)
    found = section(table, with_pictures=True)
    assert [(each.name, each.shots, each.clips) for each in found.shown] == [("a.mp4", 0, 0), ("b.mp4", 0, 0)]
    assert found.shown[0].chart.panels[0].mean == "" and found.sheets == []
    page = part_of(build(table, S3Settings()))
    assert page.count("nothing kept") == 2 and "shots</text>" not in page


def test_names_cannot_become_part_of_the_page(table_of):
    """File names and members can contain anything, and have any length."""
    evil = 'a"><script>alert(1)<b>\u202e.mp4'
    table = table_of(
        video(f"/d/{evil}", [60.0] * 40),
        video("/d/x.tar", [60.0] * 40, member="m" * 100_000),
        video("/d/" + "f" * 5_000 + "/y.mp4", [60.0] * 40),
    )
    page = part_of(build(table, S3Settings(), with_pictures=True))
    assert "<script" not in page and "\u202e" not in page
    assert "a&#34;&gt;&lt;script&gt;alert(1)&lt;b&gt;" in page
    assert "x.tar: mmm" in page and "y.mp4" in page and len(page) < 40_000


def test_contact_sheets_show_the_frames_of_their_times(table_of, tmp_path):
    """Each frame of the video is a shade that tells its index."""
    path = tmp_path / "a.mp4"
    shades = [np.full((120, 240, 3), 20 + 4 * i, np.uint8) for i in range(50)]
    write_video(path, shades, rate=FPS)
    table = table_of(video(str(path), [60.0] * 45 + [10.0] * 5))
    found = section(table, with_pictures=True)
    (sheet,) = found.sheets
    assert (sheet.folder, sheet.name) == (f"{tmp_path}/", "a.mp4")
    assert (sheet.start, sheet.end, sheet.lost, found.pictures) == ("0:00.0", "0:04.4", 0, FRAMES)
    assert (sheet.seconds, sheet.dbcnn) == pytest.approx((4.4, 60)) and sheet.serfiq == pytest.approx(0.9)
    assert [picture.time for picture in sheet.pictures] == [
        f"0:0{time:.1f}" for time in (0.0, 0.9, 1.8, 2.6, 3.5, 4.4)
    ]
    for picture, index in zip(sheet.pictures, (0, 9, 18, 26, 35, 44), strict=True):
        encoded = base64.b64decode(picture.image.removeprefix("data:image/jpeg;base64,"))
        image = Image.open(io.BytesIO(encoded))
        assert image.size == (picture.width, picture.height) == (SIDE, SIDE // 2)
        assert np.asarray(image).mean() == pytest.approx(20 + 4 * index, abs=2.5)


def test_the_longest_clips_are_of_different_videos(table_of):
    gap = [10.0] * 20
    two = video("/d/a.mp4", [60.0] * 100 + gap + [60.0] * 90)
    table = table_of(two, video("/d/b.mp4", [60.0] * 50), video("/d/c.mp4", [60.0] * 60))
    found = section(table, with_pictures=True).sheets
    assert [(sheet.name, sheet.start, sheet.end) for sheet in found] == [
        ("a.mp4", "0:00.0", "0:09.9"),
        ("a.mp4", "0:12.0", "0:20.9"),
        ("c.mp4", "0:00.0", "0:05.9"),
        ("b.mp4", "0:00.0", "0:04.9"),
    ]
    many = [video(f"/d/{n}.mp4", [60.0] * (40 + n)) for n in range(6)]
    assert [each.name for each in section(table_of(two, *many), True).sheets][1:] == [
        "5.mp4",
        "4.mp4",
        "3.mp4",
    ]


def test_videos_that_are_gone_leave_a_page_that_says_so(table_of, tmp_path):
    replaced = tmp_path / "b.mp4"
    replaced.write_bytes(b"no video")
    found = [video(str(tmp_path / "a.mp4"), [60.0] * 40), video(str(replaced), [60.0] * 40)]
    table = table_of(*found)
    assert [(sheet.pictures, sheet.lost) for sheet in section(table, True).sheets] == [([], FRAMES)] * 2
    page = re.sub(r"\s+", " ", build(table, S3Settings()))
    assert part_of(page).count(f"{FRAMES} frames can no longer be read") == 2
    assert part_of(page).count("<svg") == 2
    assert f"0 frames show the longest clips; {2 * FRAMES} more could no longer be read" in page


def test_a_page_without_faces_has_no_frames(table_of, tmp_path):
    path: Path = tmp_path / "a.mp4"
    write_video(path, [np.full((64, 64, 3), 128, np.uint8)] * 40, rate=FPS)
    table = table_of(video(str(path), [60.0] * 40))
    assert part_of(build(table, S3Settings())).count("<img") == FRAMES
    page = build(table, S3Settings(), with_pictures=False)
    assert "data:image" not in page and "The longest clips" not in page


def test_many_videos_make_a_section_of_limited_size(table_of):
    rng = np.random.default_rng(0)
    found = [
        video(f"/d/{n}.mp4", rng.uniform(40, 100, 4_000).round(1).tolist(), shot=np.arange(4_000) // 40)
        for n in range(20)
    ]
    page = part_of(build(table_of(*found), S3Settings()))
    assert page.count("<svg") == TIMELINES and page.count('class="sheet"') <= SHEETS
    assert len(page) < 250_000
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
