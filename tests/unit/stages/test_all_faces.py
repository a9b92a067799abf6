"""All faces of a frame: the setting `faces: all`."""

import io
from pathlib import Path

import cv2
import insightface
import numpy as np
import pyarrow as pa
import pytest
from here import score_here
from PIL import Image

import faceq
from faceq import config
from faceq.errors import UsageError
from faceq.faces.all_faces import all_faces
from faceq.faces.search import run
from faceq.sources.frame import READ_SCHEMA, Frame, to_table
from faceq.stages import frame_faces
from faceq.stages.chosen_models import choose, comparison_record
from faceq.stages.find_face import FindFace
from faceq.stages.frame_faces import main_face, per_face, with_faces, with_main_face
from faceq.stages.placement import CROPS_IN_A_BATCH, frames_at_once, with_bounded_batches
from faceq.stages.scores import ScoreFiq, ScoreQuality
from faceq.storage.settings import S3Settings
from faceq.table import comparable, repair
from faceq.table.schema import FACE, FACES_COLUMN, SCHEMA, schema
from faceq.table.store import Table
from jobs import demo

pytestmark = pytest.mark.usefixtures("models_loaded_once")

ALL = {"faces": "all", "fiq_threshold": 0}
FLAT = [name for name in FACE.names if name in SCHEMA.names]
VALUES = [name for name in SCHEMA.names if name not in {"frame_id", "source", "run_id"}]


def png(image: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def faces() -> dict[str, np.ndarray]:
    """The demo's eight sharp faces in 384-pixel frames."""
    return demo.source_faces()


@pytest.fixture(scope="module")
def group() -> np.ndarray:
    """A photo of six people."""
    return np.array(Image.open(Path(insightface.__file__).parent / "data/images/t1.jpg").convert("RGB"))


@pytest.fixture(scope="module")
def group_row(group) -> dict:
    (row,) = faceq.score_images([group], **ALL).to_pylist()
    return row


def box(face: dict) -> np.ndarray:
    return np.array([face[f"face_{side}"] for side in "xywh"])


# --- values ---------------------------------------------------------------------------------------


def test_a_frame_with_one_face_has_its_columns_as_the_only_element(faces, photos):
    sharp = faces["astronaut"]
    frames = [
        *faces.values(),
        cv2.cvtColor(cv2.cvtColor(sharp, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
        demo._far_away(sharp),  # too small
        demo.degraded(sharp, "blur", 5, 0),  # below the threshold
        (photos / "mask_blue.jpg").read_bytes(),  # no face
        b"",
    ]
    settings = {"fiq_threshold": 0.6, "embeddings": True}
    largest = faceq.score_images(frames, **settings)
    every = faceq.score_images(frames, **settings, faces="all")
    assert every.schema.equals(schema(embeddings=True, all_faces=True))
    assert every.select([*VALUES, "embedding"]).equals(largest.select([*VALUES, "embedding"]))
    statuses = set()
    for row in every.to_pylist():
        statuses.add(row["status"])
        if row["status"] in ("unreadable", "no_face"):
            assert row["faces"] == (None if row["error"] else [])
            continue
        (face,) = row["faces"]
        assert {**{name: row[name] for name in [*FLAT, "embedding"]}, "track": None} == face
    assert statuses == {"scored", "below_fiq", "face_too_small", "no_face", "unreadable"}


def test_every_face_of_a_group_is_scored_and_the_flat_columns_are_those_of_the_largest(group, group_row):
    (largest,) = faceq.score_images([group], fiq_threshold=0).select(VALUES).to_pylist()
    assert {name: group_row[name] for name in VALUES} == largest
    found = group_row["faces"]
    assert len(found) == group_row["n_faces"] == 6
    assert [face["status"] for face in found] == ["scored"] * 6
    areas = [face["face_w"] * face["face_h"] for face in found]
    assert areas == sorted(areas, reverse=True)
    assert sum(all(face[name] == group_row[name] for name in FLAT) for face in found) == 1
    assert {face["single_face"] for face in found} == {group_row["single_face"]}


def test_each_face_scores_as_if_it_were_the_only_one_in_its_frame(faces):
    tiles = [
        cv2.resize(faces[name], (side, side), interpolation=cv2.INTER_AREA) for name, side in SIDES.items()
    ]
    frame = np.full((384, 4 * 384, 3), 128, np.uint8)
    alone = []
    for at, tile in enumerate(tiles):
        frame[: len(tile), at * 384 : at * 384 + len(tile)] = tile
        alone.append(np.full_like(frame, 128))
        alone[at][: len(tile), at * 384 : at * 384 + len(tile)] = tile
    (row,) = faceq.score_images([frame], **ALL).to_pylist()
    assert len(row["faces"]) == row["n_faces"] == 4
    for at, one in enumerate(faceq.score_images(alone, fiq_threshold=0).to_pylist()):
        (face,) = [face for face in row["faces"] if face["face_x"] // 384 == at]
        # The detector, for which the frame is 320 pixels wide, sees the other frames: its boxes move.
        assert one["n_faces"] == 1 and np.abs(box(one) - box(face)).max() < 0.1 * face["face_w"]
        assert np.allclose(one["landmarks"], face["landmarks"], atol=0.5)
        tolerances = {"serfiq": 0.005, "dbcnn": 1, "yaw": 1, "head_size": 0.001, "sharpness": 0.005}
        for name, most in tolerances.items():
            assert one[name] == pytest.approx(face[name], abs=most), name


SIDES = {"astronaut": 384, "portrait": 330, "group0": 360, "group3": 300}


def test_each_face_scores_as_it_does_when_it_is_cut_out(group, group_row):
    """The detector sees a cut-out face at another scale, so landmarks move by up to 1.5% of the face."""
    cuts = []
    for face in group_row["faces"]:
        x, y, width, height = box(face)
        margin = max(width, height)
        low = np.maximum((x - margin, y - margin), 0).astype(int)
        high = (int(x + width + margin), int(y + height + margin))
        cuts.append((low, np.ascontiguousarray(group[low[1] : high[1], low[0] : high[0]])))
    rows = faceq.score_images([cut for _, cut in cuts], **ALL).to_pylist()
    for face, (low, _), row in zip(group_row["faces"], cuts, rows, strict=True):
        place = box(face)[:2] - low
        same = min(row["faces"], key=lambda each: np.abs(box(each)[:2] - place).max())
        assert same["serfiq"] == pytest.approx(face["serfiq"], abs=0.01)
        assert same["dbcnn"] == pytest.approx(face["dbcnn"], abs=1)


def test_small_faces_in_a_large_frame_are_where_they_are_alone_and_listed_once(faces):
    """In the first detection pass, these faces are 10 pixels wide. It misplaces their boxes."""
    tiles = [
        np.ascontiguousarray(cv2.resize(face, (160, 160), interpolation=cv2.INTER_AREA)[:, ::step])
        for face in faces.values()
        for step in (-1, 1)
    ]
    cells = [tiles[2 * (at % 8) + at % 2] for at in range(144)]
    frame = np.vstack([np.hstack(cells[at : at + 12]) for at in range(0, 144, 12)])
    settings = config.build(ALL)
    find = FindFace(settings, choose(settings))._find
    found: dict[int, np.ndarray] = {}
    for face in run(all_faces(find, frame, find(frame), 40, 256)):
        x, y = face.face.landmarks.mean(axis=0)
        cell = int(y // 160 * 12 + x // 160)
        assert cell not in found
        found[cell] = face.face.landmarks - np.array([cell % 12, cell // 12]) * 160
    alone = {id(tile): find(tile).face for tile in tiles}
    for cell, marks in found.items():
        assert np.abs(marks - alone[id(cells[cell])].landmarks).max() < 2
    assert len(found) > 80


def test_the_largest_faces_are_listed_as_they_are_seen_upright(group):
    """The largest one is tilted: it is the smallest one in the first detection pass."""
    settings = config.build(ALL)
    find = FindFace(settings, choose(settings))._find
    main = find(group)
    every = [face.face for face in run(all_faces(find, group, main, 40, 16))]
    assert len(every) == 6
    for most in range(1, 7):
        largest = [face for face in every if face is not main.face][: most - 1]
        listed = [found.face for found in run(all_faces(find, group, main, 40, most))]
        expected = sorted([main.face, *largest], key=lambda face: -face.area)
        assert [face.box.tolist() for face in listed] == [face.box.tolist() for face in expected]


@pytest.mark.shared
def test_a_face_with_two_overlapping_detections_is_listed_once(shared):
    """The box of the levelled main face is twice as large as that of the first pass."""
    (row,) = faceq.score_images([shared / "live_challenge" / "images" / "56.jpg"], **ALL).to_pylist()
    assert len(row["faces"]) == 3


@pytest.mark.shared
@pytest.mark.parametrize(("name", "count"), [("group_many_faces.jpg", 5), ("person_62.jpg", 2)])
def test_the_faces_of_other_groups_are_scored(name, count, shared):
    picture = shared / "faces" / name
    every, largest = (faceq.score_images([picture], **values) for values in (ALL, {"fiq_threshold": 0}))
    assert every.select(VALUES).equals(largest.select(VALUES))
    (row,) = every.to_pylist()
    assert [face["status"] for face in row["faces"]] == ["scored"] * count


def test_a_tilted_face_in_a_group_is_levelled(faces):
    upright, other = faces["group0"], faces["astronaut"]
    for degrees in (40, 180):
        turn = cv2.getRotationMatrix2D((191.5, 191.5), -degrees, 0.8)
        tilted = cv2.warpAffine(other, turn, (384, 384), borderMode=cv2.BORDER_REPLICATE)
        (row,) = faceq.score_images([np.hstack([upright, tilted])], **ALL).to_pylist()
        right = [face for face in row["faces"] if face["face_x"] > 384]
        if right:  # the detector misses most faces that are upside down
            assert abs(right[0]["roll"]) == pytest.approx(degrees, abs=8)
            assert right[0]["serfiq"] > 0.8
        assert bool(right) or degrees == 180


# --- the main face --------------------------------------------------------------------------------


def test_the_main_face_is_the_largest_the_central_or_the_best_one(group, group_row):
    for main in ("centre", "best"):
        (row,) = faceq.score_images([group], **ALL, main=main).to_pylist()
        assert row["faces"] == group_row["faces"]
        (flat,) = [face for face in row["faces"] if np.array_equal(box(face), box(row))]
        assert all(flat[name] == row[name] for name in FLAT)
        if main == "best":
            assert row["serfiq"] == max(face["serfiq"] for face in row["faces"])
        else:
            away = [np.hypot(*(box(face)[:2] + box(face)[2:] / 2 - (640, 443))) for face in row["faces"]]
            assert row["faces"].index(flat) == int(np.argmin(away))


def made(status: str = "scored", serfiq: float | None = 0.5, dbcnn: float | None = 50, x: float = 0) -> dict:
    where = {"face_x": x, "face_y": 0.0, "face_w": 10.0, "face_h": 10.0}
    return {"status": status, "serfiq": serfiq, "dbcnn": dbcnn, **where, "is_main": False}


@pytest.mark.parametrize(
    ("main", "found", "wanted"),
    [
        ("best", [made(serfiq=0.5), made(serfiq=0.7), made(serfiq=0.6)], 1),
        ("best", [made(dbcnn=None), made(dbcnn=3)], 1),  # as good for recognition: DB-CNN decides
        ("best", [made(), made()], 0),
        ("best", [made("face_too_small", None, None), made("below_fiq", 0.01, None)], 1),
        ("centre", [made(x=0), made(x=70), made(x=40)], 2),
        ("centre", [made(x=20), made(x=70)], 0),  # both at 25 pixels
        ("centre", [made("face_too_small", None, None, x=45), made(x=0)], 1),
        ("centre", [{**made("unreadable", None, None), "face_x": None}, made(x=0)], 1),
        ("largest", [made(), {**made(), "is_main": True}], 1),
        ("largest", [made(), {**made("unreadable"), "is_main": None}], 1),
    ],
)
def test_nulls_and_equal_faces_have_their_order(main, found, wanted):
    assert main_face(found, main, (100, 10)) == wanted


def test_main_without_all_faces_is_refused():
    with pytest.raises(UsageError, match="main: centre chooses among all faces: set faces: all, too"):
        config.build({"main": "centre"})


def test_a_frame_is_scored_when_its_main_face_is(faces):
    """The larger face is blurred."""
    canvas = two_faces(demo.degraded(faces["astronaut"], "blur", 2, 0), faces["group0"])
    scored = faceq.score_images([canvas], **ALL).to_pylist()[0]["faces"]
    large, small = (face["serfiq"] for face in scored)
    for main, status in (("largest", "below_fiq"), ("best", "scored")):
        settings = {"faces": "all", "fiq_threshold": (large + small) / 2, "main": main}
        (row,) = faceq.score_images([canvas], **settings).to_pylist()
        assert row["status"] == status and (row["dbcnn"] is None) == (main == "largest")
        assert [face["status"] for face in row["faces"]] == ["below_fiq", "scored"]
        assert row["faces"][1] == scored[1]


def two_faces(large: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Two frames of 384 pixels side by side; the second one is smaller."""
    canvas = np.full((384, 768, 3), 128, np.uint8)
    canvas[:, :384] = large
    canvas[:288, 480:] = cv2.resize(small, (288, 288), interpolation=cv2.INTER_AREA)
    return canvas


# --- odd frames -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(faces) -> np.ndarray:
    """Five hundred faces of about 55 pixels."""
    small = cv2.resize(faces["astronaut"], (160, 160), interpolation=cv2.INTER_AREA)
    (row,) = faceq.score_images([small], **ALL).to_pylist()
    x, y, width, height = box(row["faces"][0])
    left, top = int(x + width / 2 - 40), max(0, int(y + height / 2 - 40))
    return np.tile(small[top : top + 80, left : left + 80], (20, 25, 1))


def test_of_five_hundred_faces_the_largest_are_scored(crowd):
    once, again = (faceq.score_images([crowd], **ALL).to_pylist()[0] for _ in range(2))
    assert 475 <= once["n_faces"] <= 500 and len(once["faces"]) == 16
    assert once["faces"] == again["faces"]
    order = [(-face["face_w"] * face["face_h"], face["face_y"], face["face_x"]) for face in once["faces"]]
    assert order == sorted(order)
    assert sum(np.array_equal(box(face), box(once)) for face in once["faces"]) == 1


def test_equally_large_faces_come_from_top_to_bottom_and_left_to_right(faces):
    face = faces["portrait"]
    frame = np.vstack([np.hstack([face, face])] * 2)
    settings = config.build(ALL)
    found = FindFace(settings, choose(settings))(to_table([Frame("a", None, 0, png(frame))]))
    of_frame = found["faces"][0].as_py()
    assert len(of_frame) == 4
    order = [(-face["face_w"] * face["face_h"], face["face_y"], face["face_x"]) for face in of_frame]
    assert order == sorted(order)


def test_faces_that_the_frame_cuts_off_are_scored_too(group, group_row):
    left, right = (sorted(group_row["faces"], key=lambda face: face["face_x"])[at] for at in (0, -1))
    start = int(left["face_x"] + 0.35 * left["face_w"])
    end = int(right["face_x"] + 0.65 * right["face_w"])
    (row,) = faceq.score_images([np.ascontiguousarray(group[:, start:end])], **ALL).to_pylist()
    cut = [face for face in row["faces"] if face["face_inside"] < 0.9]
    assert len(row["faces"]) == 6 and len(cut) == 2
    assert all(face["face_inside"] > 0.3 and face["dbcnn"] is not None for face in cut)
    assert not any(np.array_equal(box(face), box(row)) for face in cut)


def test_small_faces_are_left_out_and_counted(group, group_row):
    least = sorted(min(face["face_w"], face["face_h"]) for face in group_row["faces"])[3]
    settings = {**ALL, "min_face": int(np.ceil(least))}
    (row,) = faceq.score_images([group], **settings).to_pylist()
    # The main face of `faces: largest` is always there.
    assert [face["status"] for face in row["faces"]] == ["scored", "scored", "face_too_small"]
    assert (row["n_faces"], row["status"]) == (6, "face_too_small")
    (row,) = faceq.score_images([group], **settings, main="best").to_pylist()
    assert row["status"] == "scored" and len(row["faces"]) == 3
    (row,) = faceq.score_images([group], **ALL, min_face=500).to_pylist()
    assert row["status"] == "face_too_small" and [f["status"] for f in row["faces"]] == ["face_too_small"]


# --- batches --------------------------------------------------------------------------------------


def test_faces_do_not_depend_on_their_batch_and_fill_the_mini_batches(group, faces):
    settings = config.build(ALL)
    models = choose(settings)
    find, fiq, quality = (
        FindFace(settings, models),
        ScoreFiq(settings, models),
        ScoreQuality(settings, models),
    )
    images = [
        png(group),
        b"",
        png(faces["astronaut"]),
        png(np.zeros((50, 60, 3), np.uint8)),
        png(group[:, ::-1]),
    ]
    frames = [Frame(str(at), None, 0, image) for at, image in enumerate(images)]
    sizes: dict[str, list[int]] = {"fiq": [], "quality": []}
    distances, rate = fiq._distances, quality._rate
    fiq._distances = lambda crops: (sizes["fiq"].append(len(crops)), distances(crops))[1]
    quality._rate = lambda crops, masks: (sizes["quality"].append(len(crops)), rate(crops, masks))[1]
    together = quality(fiq(find(to_table(frames))))
    assert sizes == {"fiq": [13], "quality": [13]}
    alone = pa.concat_tables([quality(fiq(find(to_table([frame])))) for frame in frames])
    assert together.select([*FLAT, "faces"]).equals(alone.select([*FLAT, "faces"]))
    assert [len(of_frame or ()) for of_frame in together["faces"].to_pylist()] == [6, 0, 1, 0, 6]


def test_many_searches_together_find_the_same_faces(group, faces):
    settings = config.build({**ALL, "find_face": {"mini_batch": 8, "num_cpus": 2}})
    frames = to_table(
        [Frame(str(at), None, 0, png(image)) for at, image in enumerate([group, *faces.values()])]
    )
    one, other = (
        FindFace(settings, choose(settings), batched)(frames).to_pylist() for batched in (False, True)
    )
    assert [len(row["faces"]) for row in one] == [6, *[1] * 8]
    for row, again in zip(one, other, strict=True):
        for face, same in zip(row["faces"], again["faces"], strict=True):
            for name in ("status", "dhash", "landmarks", "is_main"):
                assert face[name] == same[name], name
            away = np.frombuffer(face["crop"], np.uint8).astype(int) - np.frombuffer(same["crop"], np.uint8)
            assert np.abs(away).max() <= 1


def test_batches_hold_a_bounded_number_of_crops():
    few, many, none = (
        config.build(values) for values in (ALL, {**ALL, "max_faces": 256}, {"fiq_threshold": 0})
    )
    assert frames_at_once(none, 100_000) == 100_000
    for settings in (few, many):
        find = FindFace(settings, choose(settings))
        (row,) = find(to_table([Frame("a", None, 0, png(demo.source_faces()["astronaut"]))])).to_pylist()
        pixels = sum(len(row["faces"][0][name]) for name in ("crop", "aligned"))
        most = frames_at_once(settings, 100_000)
        assert 0.8 * CROPS_IN_A_BATCH < most * settings.max_faces * pixels <= CROPS_IN_A_BATCH
    assert with_bounded_batches(few).dbcnn.batch_size == few.dbcnn.batch_size
    assert with_bounded_batches(many).find_face.batch_size == frames_at_once(many, 32) < 32


# --- unreadable faces -----------------------------------------------------------------------------


def three_frames() -> pa.Table:
    """Frames with two faces, with one face and without a face."""
    rows = [{"frame_id": 1, "source": "a"}, {"frame_id": 2, "source": "b"}, {"frame_id": 3, "source": "c"}]
    batch = pa.Table.from_pylist(
        [{**row, "frame_index": 0} for row in rows], READ_SCHEMA.remove(READ_SCHEMA.get_field_index("image"))
    )
    for name in ("width", "height", "n_faces"):
        batch = batch.append_column(name, pa.array([100, 100, 100], pa.int32()))
    where = {"face_x": 1.0, "face_y": 2.0, "face_w": 50.0, "face_h": 60.0, "crop": b"pixels"}
    found = [[{**where, "is_main": True}, {**where, "is_main": False}], [{**where, "is_main": True}], []]
    return with_faces(batch, found, ("status", "error", *where))


@pytest.mark.parametrize(
    ("lost", "statuses", "errors"),
    [
        ([], ["scored", "scored"], [None, None]),
        ([0], ["unreadable", "scored"], ["no features", None]),  # the main face of the first frame
        ([1], ["scored", "scored"], [None, None]),
        ([0, 1], ["unreadable", "scored"], ["no features", None]),
        ([2], ["scored", "unreadable"], [None, "no features"]),
        ([0, 1, 2], ["unreadable"] * 2, ["no features"] * 2),
    ],
)
def test_a_frame_is_unreadable_when_its_main_face_is(lost, statuses, errors):
    def stage(faces: pa.Table) -> pa.Table:
        assert faces["crop"].to_pylist() == [b"pixels"] * 3
        done = ["scored"] * len(faces)
        faces = faces.set_column(faces.schema.get_field_index("status"), "status", pa.array(done))
        return frame_faces.without_values(faces, np.array(lost, int), "no features").drop_columns(["crop"])

    rows = with_main_face(per_face(stage, three_frames()), "largest").to_pylist()
    assert [row["status"] for row in rows] == [*statuses, None]
    assert [row["error"] for row in rows] == [*errors, None]
    for row, of_frame in zip(rows, ([0, 1], [2], []), strict=True):
        if row["status"] == "unreadable":
            assert row["faces"] is None and row["width"] is row["face_x"] is None
        else:
            wanted = ["unreadable" if face in lost else "scored" for face in of_frame]
            assert [face["status"] for face in row["faces"]] == wanted
            assert row["width"] == 100


# --- tables ---------------------------------------------------------------------------------------


def record(**values: object) -> dict:
    settings = config.build(values)
    return comparison_record(settings, choose(settings))


def test_a_table_of_the_largest_faces_can_be_continued_with_all_of_them_but_not_back():
    largest, every, few = record(), record(faces="all"), record(faces="all", max_faces=3)
    comparable.check("table", largest, every)
    comparable.check("table", every, every)
    for before, now, what in (
        (every, largest, r'faces was "all", is now "largest"; max_faces was 16, is now null'),
        (every, few, "max_faces was 16, is now 3"),
        (largest, record(faces="all", main="best"), 'main was "largest", is now "best"'),
        (record(faces="aligned"), every, 'faces was "aligned", is now "all"; max_faces was null, is now 16'),
    ):
        with pytest.raises(UsageError, match=rf"\({what}\)"):
            comparable.check("table", before, now)


def test_a_table_holds_the_faces_and_reads_with_and_without_them(group, faces, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "group.png").write_bytes(png(group))
    (tmp_path / "in" / "one.png").write_bytes(png(faces["astronaut"]))
    uri = score_here(str(tmp_path / "in"), str(tmp_path / "table"), **ALL)
    table = Table(uri, S3Settings())
    rows = table.rows(["source", "faces"]).sort_by("source")
    assert rows.schema.field("faces").type == FACES_COLUMN.type
    assert [len(of_frame) for of_frame in rows["faces"].to_pylist()] == [6, 1]
    assert faceq.read_table(uri).schema.field("faces").type == FACES_COLUMN.type
    found = faceq.read_table(uri, "list_max(list_transform(faces, lambda face: face.dbcnn)) > 0", ["source"])
    assert len(found) == 2
    table.find_damage()


def test_a_lower_threshold_scores_frames_again_in_which_another_face_passes(faces, tmp_path):
    canvas = two_faces(faces["astronaut"], demo.degraded(faces["group0"], "blur", 4, 0))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "two.png").write_bytes(png(canvas))
    (tmp_path / "in" / "one.png").write_bytes(png(faces["astronaut"]))
    (tmp_path / "older.png").write_bytes(png(faces["astronaut"]))
    score_here(str(tmp_path / "older.png"), str(tmp_path / "table"))  # without the column
    (scored,) = faceq.score_images([canvas], **ALL).to_pylist()
    low, high = sorted(face["serfiq"] for face in scored["faces"])
    uri = score_here(
        str(tmp_path / "in"), str(tmp_path / "table"), faces="all", fiq_threshold=(low + high) / 2
    )
    table = Table(uri, S3Settings())
    assert set(table.rows(["status"])["status"].to_pylist()) == {"scored"}
    sources = {str(path) for path in tmp_path.rglob("*.png")}
    again = repair.passing(table, sources, low)
    assert [Path(source).name for source in again["source"].to_pylist()] == ["two.png"]
    assert len(repair.passing(table, sources, (low + high) / 2 - 1e-4)) == 0
