"""Exports of crops: which pixels they have, in which format, and what cannot be cropped."""

import io
import json
import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pytest
import yaml
from exported import samples
from here import score_here, write_rows
from PIL import Image
from places import PHOTOS
from tars import write_tar
from videos import write_video

import faceq
from faceq.cli import main
from faceq.errors import UsageError
from faceq.faces import ffhq
from faceq.query import shard_export
from faceq.query.export_pictures import ExportPictures
from faceq.query.rows import Rows
from faceq.query.shard_export import Selection, export_shards
from faceq.sources.decode.image import decode
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

WITH_FACE = "face_w is not null"


@pytest.fixture(scope="module")
def faces_in(tmp_path_factory, astronaut):
    """A folder with photos of one face: upright, on its side by EXIF, upside down, cut off, in a tar with a
    caption, in a video; and frames without one."""
    folder = tmp_path_factory.mktemp("crops") / "in"
    folder.mkdir()
    photo = Image.fromarray(astronaut)
    photo.save(folder / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.rotate(90, expand=True).save(folder / "exif.jpg", exif=exif, quality=95)
    photo.rotate(180).save(folder / "upside.png")
    photo.crop((200, 60, 512, 512)).save(folder / "cut.png")
    Image.fromarray(astronaut[300:, 300:]).save(folder / "noface.png")
    (folder / "broken.jpg").write_bytes((PHOTOS / "t1.jpg").read_bytes()[:9000])
    write_tar(folder / "a.tar", [("1.jpg", (PHOTOS / "t1.jpg").read_bytes()), ("1.txt", b"six friends")])
    write_video(folder / "v.mp4", [astronaut, astronaut[::-1], astronaut], crf="10")
    return folder


@pytest.fixture(scope="module")
def scored(faces_in):
    return score_here(str(faces_in), str(faces_in.parent / "table"))


def export(table, folder, selection=Selection(), **pictures):  # noqa: B008 - Selection is frozen
    with Rows(table, S3Settings()) as rows:
        return export_shards(rows, selection, str(folder), S3Settings(), pictures=ExportPictures(**pictures))


def opened(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def frames_by_id(table) -> dict[int, np.ndarray]:
    """The upright frames of single images with a face."""
    rows = faceq.read_table(table, f"{WITH_FACE} and member is null and timestamp_s is null").to_pylist()
    return {row["frame_id"]: decode(open(row["source"], "rb").read(), 1 << 24) for row in rows}


def in_frame(row: dict, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of a crop are in its frame, by its row: x and y, (size, size) each."""
    a, b, c, d, e, f = row["crop_to_frame"]
    v, u = np.mgrid[:size, :size]
    return a * u + b * v + c, d * u + e * v + f


def test_the_square_around_the_face_has_the_pixels_of_the_frame(scored, tmp_path):
    export(scored, tmp_path, crop="face:0.4")
    pictures, rows = samples(tmp_path)
    frames = frames_by_id(scored)
    assert len(frames) == 4
    for number, frame in frames.items():
        row, crop = rows[number], opened(pictures[number])
        assert crop.shape[0] == crop.shape[1]
        assert crop.shape[0] == pytest.approx(1.8 * max(row["face_w"], row["face_h"]), abs=0.6)
        x, y = in_frame(row, crop.shape[0])
        assert (crop == frame[y.astype(int), x.astype(int)]).all() and row["crop_inside"] == 1


@pytest.mark.parametrize("size", [112, 256])
def test_the_row_says_where_each_pixel_of_an_aligned_crop_is_in_the_frame(scored, tmp_path, size):
    export(scored, tmp_path, crop=f"aligned:{size}")
    pictures, rows = samples(tmp_path)
    for number, frame in frames_by_id(scored).items():
        row, crop = rows[number], opened(pictures[number])
        x, y = (np.rint(at).astype(int) for at in in_frame(row, size))
        height, width = frame.shape[:2]
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        assert inside.mean() == pytest.approx(row["crop_inside"], abs=0.01)
        middle = slice(size // 4, -size // 4)
        away = np.abs(crop.astype(float)[middle, middle] - frame[y, x][middle, middle])
        assert np.median(away) < 6
        # The eyes are level and upright, however the photo was rotated.
        landmarks = np.array(row["landmarks"]).reshape(5, 2)
        to_frame = np.array(row["crop_to_frame"]).reshape(2, 3)
        eye, other, _, mouth, _ = np.linalg.solve(to_frame[:, :2], (landmarks - to_frame[:, 2]).T).T
        assert abs(eye[1] - other[1]) < size / 20 and eye[0] < other[0] and eye[1] < mouth[1]


def test_an_aligned_crop_is_what_the_recogniser_gets(scored, tmp_path):
    """Scored as an aligned face, it has the SER-FIQ of the photo."""
    export(scored, tmp_path / "out", Selection("status in ('scored', 'below_fiq')"), crop="aligned")
    pictures, rows = samples(tmp_path / "out")
    (tmp_path / "in").mkdir()
    for number, image in pictures.items():
        (tmp_path / "in" / f"{number}.png").write_bytes(image)
    again = faceq.read_table(
        score_here(str(tmp_path / "in"), str(tmp_path / "table"), faces="aligned", fiq_threshold=0)
    )
    assert len(again) == len(rows) >= 6
    for row in again.to_pylist():
        before = rows[int(row["source"].rsplit("/", 1)[1][:-4])]
        assert (row["serfiq_raw"], row["dhash"]) == (before["serfiq_raw"], before["dhash"])


def test_a_large_aligned_crop_is_in_ffhqs_alignment(scored, tmp_path):
    export(scored, tmp_path, crop="aligned:512", format="webp")
    pictures, rows = samples(tmp_path)
    for number, frame in frames_by_id(scored).items():
        wanted, _ = ffhq.crop(frame, np.array(rows[number]["landmarks"], np.float32).reshape(5, 2), 512)
        assert (opened(pictures[number]) == wanted).all()


def test_frames_of_videos_are_cropped_and_sidecars_kept(scored, tmp_path):
    export(scored, tmp_path, Selection("source like '%.mp4' or source like '%.tar'"), crop="aligned:256")
    with tarfile.open(tmp_path / "frames-000000.tar") as tar:
        files = {info.name: tar.extractfile(info).read() for info in tar}
    captions = [name for name in files if name.endswith(".txt")]
    assert [files[name] for name in captions] == [b"six friends"]
    of_video = [
        name.split(".")[0]
        for name, content in files.items()
        if name.endswith(".json") and json.loads(content)["timestamp_s"] is not None
    ]
    assert len(of_video) == 3
    first, flipped, last = (opened(files[f"{key}.png"]).astype(float) for key in sorted(of_video))
    assert first.shape == (256, 256, 3) and flipped.std() > 20
    same = [np.abs(one - other).mean() for one, other in ((first, last), (first, flipped), (flipped, last))]
    assert min(same) < 2


@pytest.mark.parametrize(
    ("chosen", "ending", "kind", "exact"),
    [
        ("png", "png", "PNG", True),
        ("webp", "webp", "WEBP", True),
        ("webp:90", "webp", "WEBP", False),
        ("jpeg:95", "jpg", "JPEG", False),
        ("jpeg:40", "jpg", "JPEG", False),
    ],
)
def test_whole_frames_in_a_format(scored, tmp_path, chosen, ending, kind, exact):
    """They are upright."""
    export(scored, tmp_path, Selection("source like '%exif.jpg'"), format=chosen)
    with tarfile.open(tmp_path / "frames-000000.tar") as tar:
        assert {name.split(".", 1)[1] for name in tar.getnames()} == {ending, "faceq.json"}
    ((number, data),) = samples(tmp_path)[0].items()
    assert Image.open(io.BytesIO(data)).format == kind
    assert not Image.open(io.BytesIO(data)).getexif()
    away = np.abs(opened(data).astype(float) - frames_by_id(scored)[number]).mean()
    assert away == 0 if exact else 0 < away < 5
    assert "crop_to_frame" not in samples(tmp_path)[1][number]


def test_the_quality_decides_the_size(scored, tmp_path):
    sizes = []
    for quality in (40, 80, 95):
        export(scored, tmp_path / str(quality), crop="face", format=f"jpeg:{quality}")
        sizes.append(sum(map(len, samples(tmp_path / str(quality))[0].values())))
    assert sizes[0] * 1.5 < sizes[1] and sizes[1] * 1.5 < sizes[2]


def test_frames_without_a_face_are_left_out_and_counted(scored, tmp_path, capsys):
    total = len(faceq.read_table(scored))
    faces = len(faceq.read_table(scored, WITH_FACE))
    command = ["query", scored, "--export-shards", str(tmp_path), "--crop", "face"]
    assert main.main(command) == 0
    assert 0 < faces < total
    said = f"{faces} frames in {tmp_path}; {total - faces} without a face were left out\n"
    assert capsys.readouterr().out == said
    assert main.main(command) == 0
    said = f"{faces} were exported before; {total - faces} without a face were left out\n"
    assert capsys.readouterr().out == f"0 frames in {tmp_path}; {said}"
    assert samples(tmp_path)[0].keys() == set(faceq.read_table(scored, WITH_FACE)["frame_id"].to_pylist())


def test_a_frame_that_changed_or_cannot_be_encoded_is_reported(scored, faces_in, tmp_path, capsys):
    changed = faces_in / "cut.png"
    content = changed.read_bytes()
    Image.new("RGB", (90, 60)).save(changed)
    try:
        command = ["query", scored, WITH_FACE, "--crop", "aligned", "--export-shards", str(tmp_path / "a")]
        assert main.main(command) == 1
        said = f"1 frames could not be read, the first: {changed}: it has 90x60 pixels, and had 312x452"
        assert said in capsys.readouterr().err
    finally:
        changed.write_bytes(content)
    assert main.main(command) == 0
    assert capsys.readouterr().out.startswith("1 frames in ")
    broken = ["query", scored, "source like '%broken.jpg'", "--format", "png"]
    assert main.main([*broken, "--export-shards", str(tmp_path / "b")]) == 1
    assert "broken.jpg: the image is damaged" in capsys.readouterr().err


def test_landmarks_that_are_damaged_or_missing_are_errors(scored, tmp_path):
    rows = faceq.read_table(scored, f"{WITH_FACE} and member is null and timestamp_s is null")
    place = rows.schema.get_field_index("landmarks")
    damaged = [[float("nan")] * 10, [5.0] * 10, [1.0, 2.0], [1e30] * 9 + [0.0]]

    def table_with(landmarks: list, name: str) -> str:
        other = Table(str(tmp_path / name), S3Settings())
        for run in Table(scored, S3Settings()).runs():
            other.put_record(run)
        field = rows.schema.field("landmarks")
        changed = rows.set_column(place, field, pa.array(landmarks, field.type))
        write_rows(changed, other, rows["run_id"][0].as_py())
        return other.uri

    for crop in ("aligned", "aligned:256"):
        done = export(table_with(damaged, f"bad-{crop[8:]}"), tmp_path / f"out-{crop[8:]}", crop=crop)
        assert (done.written, done.lost) == (0, 4) and "landmarks are not those of a face" in done.reason
    table = table_with([None] * 4, "none")
    with pytest.raises(UsageError, match="4 of the chosen faces have no `landmarks`, which --crop aligned"):
        export(table, tmp_path / "none-out", crop="aligned")
    assert export(table, tmp_path / "none-out", crop="face").written == 4


def test_an_export_of_other_pictures_is_not_continued(scored, tmp_path):
    export(scored, tmp_path, crop="face", format="jpeg:90")
    again = export(scored, tmp_path, crop="face:0.5", format="jpeg:90")
    assert again.written == 0 and again.already > 0
    with pytest.raises(UsageError, match=r"\(crop was 'face:0.5', is now 'aligned:112'\)"):
        export(scored, tmp_path, crop="aligned", format="jpeg:90")
    with pytest.raises(UsageError, match=r"\(format was 'jpeg:90', is now 'png'\)"):
        export(scored, tmp_path, crop="face")
    with pytest.raises(UsageError, match=r"\(crop was 'face:0.5', is now 'frame'\)"):
        export(scored, tmp_path)


def test_an_export_from_before_there_were_crops_is_continued(scored, tmp_path):
    export(scored, tmp_path)
    record = tmp_path / "_faceq" / "export.json"
    earlier = json.loads(record.read_text())
    assert (earlier.pop("crop"), earlier.pop("format")) == ("frame", "keep")
    record.write_text(json.dumps(earlier))
    assert export(scored, tmp_path).written == 0
    with pytest.raises(UsageError, match="crop was 'frame'"):
        export(scored, tmp_path, crop="face")


def test_exports_are_the_same_to_the_byte_and_continue(scored, tmp_path, monkeypatch):
    """On one CPU or several, and if the export was stopped."""
    monkeypatch.setattr(shard_export, "SHARD_FRAMES", 2)
    contents = {}
    for name, cpus in (("a", 1), ("b", 4)):
        monkeypatch.setattr(shard_export, "usable_cpus", lambda cpus=cpus: cpus)
        export(scored, tmp_path / name, crop="aligned:256")
        contents[name] = {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.tar")}
    assert contents["a"] == contents["b"]

    class StopError(Exception):
        pass

    def stop(_: int, left: list[int] = [4]) -> None:  # noqa: B006 - it keeps the countdown
        left[0] -= 1
        if not left[0]:
            raise StopError

    pictures = ExportPictures("aligned:256")
    with Rows(scored, S3Settings()) as rows, pytest.raises(StopError):
        export_shards(rows, Selection(), str(tmp_path / "c"), S3Settings(), stop, pictures)
    before = len(samples(tmp_path / "c")[0])
    done = export(scored, tmp_path / "c", crop="aligned:256")
    assert done.already == before > 0
    assert samples(tmp_path / "c") == samples(tmp_path / "a")


def test_datasets_reads_crops_and_the_card_says_what_they_are(scored, tmp_path):
    export(scored, tmp_path, crop="aligned:256", format="webp:90")
    card = (tmp_path / "README.md").read_text()
    assert "Images are faces of 256x256 pixels, in FFHQ's alignment" in card
    names = [each["name"] for each in yaml.safe_load(card.split("---")[1])["dataset_info"]["features"]]
    assert names[:2] == ["webp", "txt"]
    read = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(read) == len(samples(tmp_path)[0])
    assert {sample["webp"].size for sample in read} == {(256, 256)}
    assert all(len(sample["faceq.json"]["crop_to_frame"]) == 6 for sample in read)


@pytest.mark.parametrize(
    ("crop", "chosen", "found"),
    [
        ("frame", None, ("frame", "keep")),
        ("face", None, ("face:0.5", "png")),
        ("face:0", "webp:080", ("face:0", "webp:80")),
        ("face:.250", "jpeg:100", ("face:0.25", "jpeg:100")),
        ("aligned", "webp", ("aligned:112", "webp")),
    ],
)
def test_crops_and_formats_have_one_spelling(crop, chosen, found):
    pictures = ExportPictures(crop, chosen)
    assert (pictures.crop, pictures.format) == found
    assert pictures == ExportPictures(*found)


@pytest.mark.parametrize(
    ("crop", "chosen", "said"),
    [
        ("head", None, "--crop head: choose frame, face, face:MARGIN"),
        ("frame:2", None, "--crop frame:2: choose"),
        ("face:-0.1", None, "--crop face:-0.1: the margin must be a number from 0 to 10"),
        ("face:nan", None, "the margin must be a number"),
        ("face:", None, "the margin must be a number"),
        ("face:11", None, "the margin must be a number"),
        ("aligned:224", None, "crops of 112, 256, 512 and 1024 pixels"),
        ("aligned:", None, "crops of 112, 256, 512 and 1024 pixels"),
        ("face", "keep", "--format keep: a crop (face:0.5) has other bytes"),
        ("frame", "gif", "--format gif: choose keep, png, webp"),
        ("frame", "png:3", "--format png:3: choose"),
        ("frame", "jpeg", "add the quality, such as jpeg:95"),
        ("frame", "jpeg:0", "a whole number from 1 to 100"),
        ("frame", "jpeg:101", "a whole number from 1 to 100"),
        ("frame", "webp:", "a whole number from 1 to 100"),
        ("frame", "webp:9e1", "a whole number from 1 to 100"),
    ],
)
def test_wrong_crops_and_formats_are_refused(scored, tmp_path, crop, chosen, said, capsys):
    arguments = ["--crop", crop, *(["--format", chosen] if chosen else [])]
    assert main.main(["query", scored, "--export-shards", str(tmp_path / "x"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_crops_need_an_export(scored, capsys):
    assert main.main(["query", scored, "--crop", "face"]) == 2
    assert "--crop and --format need --export-shards DIR" in capsys.readouterr().err
