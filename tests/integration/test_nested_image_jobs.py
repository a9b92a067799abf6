"""Jobs over Parquet shards whose rows have several images, pixels or base64 text."""

import base64
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from here import settings
from PIL import Image

from faceq.cli import main
from faceq.job import dry_run, pipeline
from faceq.sources.decode.image import decode
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.usefixtures("light_job")

ROWS = 12
IMAGES_IN_A_ROW = 4


@pytest.fixture
def clips(tmp_path, astronaut):
    """48 images in 12 rows: two shards of lists."""
    image = demo._jpeg(demo._frame_around(astronaut, [200, 60, 80, 110]))
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(2):
        keys = [f"clip{part}{row}" for row in range(ROWS // 2)]
        frames = [[image] * IMAGES_IN_A_ROW] * (ROWS // 2)
        pq.write_table(pa.table({"key": keys, "frames": frames, "label": keys}), folder / f"{part}.parquet")
    return folder


def rows_of(table) -> list[dict]:
    names = ["source", "member", "frame_index", "status", "error", "dhash", "extra"]
    return Table(str(table), settings("", table).s3).rows(names).to_pylist()


def test_images_of_lists_are_counted_resumed_and_exported(clips, tmp_path):
    limited = settings(clips, tmp_path / "table", limit=30)
    assert pipeline.score(limited).run.frames == 30
    chosen = settings(clips, tmp_path / "table")
    rest = pipeline.score(chosen)
    assert (rest.run.frames, rest.run.already_done) == (18, 30)
    names = {f"clip{part}{row}#{i}" for part in range(2) for row in range(ROWS // 2) for i in range(4)}
    rows = rows_of(chosen.out)
    assert len(rows) == len(names) and {row["member"] for row in rows} == names
    assert len({row["dhash"] for row in rows}) == 1
    found = dry_run.survey(chosen)
    assert [(source.frames, source.done) for source in found.sources] == [(24, 24), (24, 24)]
    again = pipeline.score(chosen)
    assert (again.run.frames, again.run.already_done) == (0, len(names))
    out = tmp_path / "good"
    assert main.main(["query", chosen.out, "member like '%#2'", "--export-shards", str(out)]) == 0
    with tarfile.open(out / "frames-000000.tar") as tar:
        assert len([name for name in tar.getnames() if name.endswith(".jpg")]) == ROWS


def test_pixels_are_scored_as_their_png_and_exported_as_one(tmp_path, astronaut):
    frame = np.asarray(demo._frame_around(astronaut, [200, 60, 80, 110]))
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    (tmp_path / "in").mkdir()
    kind = pa.fixed_shape_tensor(pa.uint8(), frame.shape)
    tensor = pa.ExtensionArray.from_storage(
        kind, pa.FixedSizeListArray.from_arrays(pa.array(frame.ravel()), frame.size)
    )
    pq.write_table(pa.table({"image": tensor}), tmp_path / "in" / "pixels.parquet")
    pq.write_table(pa.table({"image": [file.getvalue()]}), tmp_path / "in" / "png.parquet")
    pipeline.score(settings(tmp_path / "in", tmp_path / "table"))
    first, second = (
        {name: value for name, value in row.items() if name != "source"}
        for row in rows_of(tmp_path / "table")
    )
    assert first == second and first["status"] == "scored"
    out = tmp_path / "good"
    assert main.main(["query", str(tmp_path / "table"), "true", "--export-shards", str(out)]) == 0
    with tarfile.open(out / "frames-000000.tar") as tar:
        exported = [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".png")]
    assert len(exported) == 2
    for data in exported:
        np.testing.assert_array_equal(decode(data, 10**7), frame)


def test_base64_is_read_after_the_setting_is_changed(tmp_path, astronaut):
    image = demo._jpeg(demo._frame_around(astronaut, [200, 60, 80, 110]))
    (tmp_path / "in").mkdir()
    texts = [base64.b64encode(image).decode()] * 3
    pq.write_table(pa.table({"image": texts}), tmp_path / "in" / "text.parquet")
    without = settings(tmp_path / "in", tmp_path / "table")
    pipeline.score(without)
    (row,) = rows_of(without.out)
    assert row["frame_index"] == -1 and "--set read.encoding=base64" in row["error"]
    given = settings(tmp_path / "in", tmp_path / "table", read={"encoding": "base64"})
    assert pipeline.score(given, retry_unreadable=True).run.frames == 3
    assert {(row["member"], row["status"]) for row in rows_of(given.out)} == {(n, "scored") for n in "012"}
    assert pipeline.score(given).run.already_done == 3
    out = tmp_path / "good"
    assert main.main(["query", given.out, "true", "--export-shards", str(out)]) == 0
    with tarfile.open(out / "frames-000000.tar") as tar:
        assert [tar.extractfile(name).read() for name in tar.getnames() if name.endswith(".jpg")] == [
            image
        ] * 3
