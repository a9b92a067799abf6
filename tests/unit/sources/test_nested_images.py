"""Parquet shards whose rows have several images, images in structs, pixels or base64 text."""

import base64
import io
import json

import datasets
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Array2D, Array3D, Features, List, Sequence, Value
from PIL import Image

from faceq.config import Limits
from faceq.errors import UnreadableError
from faceq.sources import Findings, read_again, read_shards
from faceq.sources.decode.image import decode
from faceq.sources.frame import Frame, to_table
from faceq.sources.listing import list_shards
from faceq.sources.reread import last_frames
from faceq.storage.settings import S3Settings
from faceq.table.schema import BREAK

H, W = 11, 7
RGB = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
GREY = RGB[..., 0]
MOST = 16 << 10


def png(pixels: np.ndarray = RGB) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PNGS = [png(np.roll(RGB, n)) for n in range(4)]
A, B, C, D = PNGS


def read(path, **options) -> list[Frame]:
    shards = list_shards([str(path)], S3Settings())
    return list(read_shards(shards, S3Settings(), extra_bytes=MOST, **options))


def read_table(folder, columns, **options) -> list[Frame]:
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, folder / "s.parquet")
    return read(folder / "s.parquet", **options)


def read_rows_again(frames: list[Frame]) -> list[Frame]:
    return list(read_again(last_frames(to_table(frames)), {frame.id for frame in frames}, S3Settings()))


def images(frames) -> dict[str | None, bytes | None]:
    assert len({frame.id for frame in frames}) == len(frames)
    return {frame.member: frame.image for frame in frames}


def pixels(frames) -> list[np.ndarray]:
    assert [frame.error for frame in frames if frame.error] == []
    return [decode(frame.image, 10_000) for frame in frames]


def error(frames) -> str:
    (frame,) = frames
    assert frame.image is None and frame.error
    return frame.error


# --- lists ---

BINARY_LISTS = [
    *(pa.list_(pa.binary()), pa.large_list(pa.large_binary()), pa.list_view(pa.binary())),
    *(pa.large_list_view(pa.binary()), pa.list_(pa.binary_view())),
]


@pytest.mark.parametrize("kind", BINARY_LISTS, ids=str)
@pytest.mark.parametrize("name", ["image", "clip"])
def test_each_image_of_a_list_is_a_frame(tmp_path, kind, name):
    rows = pa.array([[A, B], [C], [], None, [None, None], [A, None, D]], kind)
    frames = read_table(tmp_path, {"key": list("uvwxyz"), name: rows})
    assert images(frames) == {
        **{"u#0": A, "u#1": B, "v": C, "w": None, "x": None, "y": None, "z#0": A, "z#2": D}
    }
    assert all(frame.error == "the image column is null in this row" for frame in frames[3:6])


def test_lists_of_a_fixed_size(tmp_path):
    frames = read_table(tmp_path, {"image": pa.array([[A, B], None, [None, C]], pa.list_(pa.binary(), 2))})
    assert images(frames) == {"0#0": A, "0#1": B, "1": None, "2": C}


@pytest.mark.parametrize("feature", [Sequence, List])
def test_lists_of_images_from_hugging_face(tmp_path, feature):
    given = [Image.open(io.BytesIO(data)) for data in PNGS]
    rows = {"images": [given[:3], given[3:], [], None], "caption": ["a", "b", "c", "d"]}
    features = Features({"images": feature(datasets.Image()), "caption": Value("string")})
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "s.parquet")
    frames = read(tmp_path / "s.parquet")
    assert [frame.member for frame in frames] == ["0#0", "0#1", "0#2", "1", "2", "3"]
    for frame, data in zip(frames, PNGS, strict=False):
        np.testing.assert_array_equal(decode(frame.image, 10_000), decode(data, 10_000))
    assert [json.loads(frame.extra)["caption"] for frame in frames] == list("aaabcd")


def test_lists_from_polars(tmp_path):
    pl.DataFrame({"frames": [[A, B], [C]], "id": ["p", "q"]}).write_parquet(tmp_path / "s.parquet")
    assert images(read(tmp_path / "s.parquet")) == {"p#0": A, "p#1": B, "q": C}


def test_lists_in_lists(tmp_path):
    frames = read_table(tmp_path, {"frames": [[[A, B], [C]], [[D]]]})
    assert images(frames) == {"0#0#0": A, "0#0#1": B, "0#1": C, "1": D}


def test_paths_in_lists_are_files(tmp_path):
    (tmp_path / "a.png").write_bytes(A)
    rows = [[{"bytes": None, "path": "a.png"}, {"bytes": B, "path": "b"}, {"bytes": None, "path": None}]]
    kind = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    frames = read_table(tmp_path, {"images": pa.array(rows, kind)})
    assert images(frames) == {"0#0": A, "0#1": B, "0#2": None}


def test_names_of_images_in_lists_stay_apart_from_other_names(tmp_path):
    rows = pa.array([[A], [B, C], [D], [A], [B, C]], pa.list_(pa.binary()))
    table = pa.table({"key": ["a#1", "a", "a#0", "a", "a"], "image": rows})
    frames = read_table(tmp_path, table)
    assert [frame.image for frame in frames] == [A, B, C, D, A, B, C]
    assert len(images(frames)) == 7
    assert [frame.member for frame in frames][:3] == ["a#1", "a#0", "a#1#2"]
    assert read_rows_again(frames[4:]) == [Frame(f.source, f.member, 0, f.image) for f in frames[4:]]


def test_a_file_with_one_image_in_each_row_of_another_column_is_read_as_before(tmp_path):
    rows = {"photo": [A, B], "frames": [[C, D], [D, C]]}
    assert images(read_table(tmp_path, rows)) == {"0": A, "1": B}


def test_frames_that_are_done_are_not_read_and_all_are_counted(tmp_path):
    rows = {"images": [[A, B, C], [D]], "pixels": [RGB.tolist(), None]}
    frames = read_table(tmp_path, rows)
    findings = Findings()
    later = read(tmp_path / "s.parquet", done={frames[1].id}, findings=findings)
    assert [frame.done for frame in later] == [False, True, False, False]
    assert [finished.frames for finished in findings.finished] == [4]


def test_a_long_list_takes_little_memory(tmp_path):
    noise = np.random.default_rng(1).bytes(100_000)
    row = [b"\xff\xd8\xff" + noise] * 1_000  # 100 MB, stored once
    pq.write_table(pa.table({"images": pa.array([row, [A]])}), tmp_path / "s.parquet", compression="zstd")
    before = pa.total_allocated_bytes()
    most = count = 0
    shards = list_shards([str(tmp_path / "s.parquet")], S3Settings())
    for frame in read_shards(shards, S3Settings()):
        assert frame.image is not None
        count, most = count + 1, max(most, pa.total_allocated_bytes() - before)
    assert count == 1_001
    assert most < 50 << 20


def test_a_list_that_expands_beyond_the_limit_is_a_break(tmp_path):
    row = [b"\xff\xd8\xff" + bytes(100_000)] * 200
    frames = read_table(tmp_path, {"images": [row]}, limits=Limits(source_memory=8 << 20))
    assert 0 < len(frames) < 200
    assert frames[-1].frame_index == BREAK and "limits.source_memory" in frames[-1].error


def test_rows_that_take_too_much_memory_are_a_break_and_a_long_file_is_not(tmp_path):
    noise = np.random.default_rng(1)
    row = [b"\xff\xd8\xff" + noise.bytes(100_000) for _ in range(40)]
    limits = Limits(source_memory=16 << 20)

    def written(rows):
        pq.write_table(pa.table({"image": rows}), tmp_path / "s.parquet", 20, use_dictionary=False)
        return read(tmp_path / "s.parquet", limits=limits)

    assert [frame.error for frame in written([row[:10]] * 20)] == [None] * 200
    *frames, last = written([row[:10]] * 20 + [row])
    assert [frame.error for frame in frames] == [None] * 200
    assert last.frame_index == BREAK and "store fewer images in a row" in last.error


# --- structs ---


def test_images_in_structs_and_what_comes_with_them(tmp_path):
    sample = {"image": {"bytes": A, "path": "x.png"}, "caption": "a face", "mask": b"m", "size": {"w": 7}}
    rows = {"sample": [sample, {**sample, "image": None}, None], "label": [1, 2, 3]}
    frames = read_table(tmp_path, rows)
    assert images(frames) == {"0": A, "1": None, "2": None}
    with_it = {"caption": "a face", "size": {"w": 7}}
    assert [json.loads(frame.extra) for frame in frames] == [
        {"label": 1, "sample": with_it, "_left_out": ["sample.mask"]},
        {"label": 2, "sample": with_it, "_left_out": ["sample.mask"]},
        {"label": 3, "_left_out": ["sample.mask"]},
    ]


def test_only_the_needed_fields_are_read(tmp_path):
    sample = pa.array([{"photo": {"jpg": A}, "video": bytes(10_000)}] * 100)
    pq.write_table(pa.table({"sample": sample}), tmp_path / "s.parquet")
    limits = Limits(frame_bytes=len(A))
    assert [f.image for f in read(tmp_path / "s.parquet", limits=limits)] == [A] * 100


def test_images_in_lists_of_structs(tmp_path):
    image = Image.open(io.BytesIO(A))
    rows = {
        "faces": [
            [{"image": image, "name": "x"}, {"image": None, "name": "y"}, {"image": image, "name": "z"}]
        ]
    }
    features = Features({"faces": [{"image": datasets.Image(), "name": Value("string")}]})
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "s.parquet")
    frames = read(tmp_path / "s.parquet")
    assert [frame.member for frame in frames] == ["0#0", "0#2"]
    assert json.loads(frames[1].extra) == {"faces": [{"name": "x"}, {"name": "y"}, {"name": "z"}]}


def test_several_images_without_a_known_name_are_an_error(tmp_path):
    rows = {"sample": [{"left": A, "right": B}]}
    assert "several columns contain images (sample.left, sample.right)" in error(read_table(tmp_path, rows))


def test_a_known_name_decides_between_several(tmp_path):
    assert images(read_table(tmp_path, {"sample": [{"left": A, "image": B}]})) == {"0": B}


# --- pixels ---


def tensors(array: np.ndarray, names=None, permutation=None) -> pa.Array:
    kind = pa.fixed_shape_tensor(pa.uint8(), array.shape[1:], names, permutation)
    storage = pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array[0].size)
    return pa.ExtensionArray.from_storage(kind, storage)


def lists(*arrays: np.ndarray) -> pa.Array:
    kind = pa.uint8()
    for _ in arrays[0].shape:
        kind = pa.list_(kind)
    return pa.array([array.tolist() for array in arrays], kind)


CHW = RGB.transpose(2, 0, 1)
FLAT = pa.array([RGB.tobytes()] * 2)
STORED = {
    "HWC lists": {"image": lists(RGB, RGB)},
    "CHW lists": {"image": lists(CHW, CHW)},
    "HWC tensor": {"image": tensors(np.stack([RGB, RGB]))},
    "CHW tensor": {"any": tensors(np.stack([CHW, CHW]))},
    "permuted tensor": {"image": tensors(np.stack([CHW, CHW]), permutation=[1, 2, 0])},
    "named axes": {"image": tensors(np.stack([CHW, CHW]), ["C", "H", "W"])},
    "named and permuted axes": {
        "image": tensors(np.stack([RGB.transpose(1, 2, 0)] * 2), ["W", "C", "H"], [2, 0, 1])
    },
    "flat": {"image": FLAT, "height": [H, H], "width": [W, W], "channels": [3, 3]},
    "flat without channels": {"image": FLAT, "height": [H, H], "width": [W, W]},
    "flat with a shape": {"pixels": FLAT, "shape": [[H, W, 3]] * 2},
    "flat CHW": {"pixels": pa.array([CHW.tobytes()] * 2), "shape": [[3, H, W]] * 2},
    "flat list": {"image": pa.array([RGB.ravel()] * 2), "height": [H, H], "width": [W, W]},
    "in a struct": {"sample": pa.StructArray.from_arrays([lists(RGB, RGB)], ["pixels"])},
}


@pytest.mark.parametrize("columns", STORED.values(), ids=STORED)
def test_pixels_become_exactly_these_pixels(tmp_path, columns):
    for found in (frames := pixels(read_table(tmp_path, columns))):
        np.testing.assert_array_equal(found, RGB)
    assert len(frames) == 2


@pytest.mark.parametrize(
    "columns",
    [
        {"image": lists(GREY)},
        {"image": lists(GREY[:, :, None])},
        {"image": lists(GREY[None])},
        {"image": tensors(GREY[None])},
        {"image": tensors(GREY.T[None], ["W", "H"])},
        {"image": [GREY.tobytes()], "height": [H], "width": [W]},
    ],
)
def test_grey_pixels_are_decoded_as_a_grey_png(tmp_path, columns):
    (found,) = pixels(read_table(tmp_path, columns))
    np.testing.assert_array_equal(found, decode(png(GREY), 10_000))


@pytest.mark.parametrize("first", [H, None], ids=["fixed", "any height"])
def test_arrays_from_hugging_face(tmp_path, first):
    features = Features({"image": Array3D((first, W, 3), "uint8"), "id": Value("string")})
    rows = {"image": [RGB, RGB[::-1], None], "id": ["a", "b", "c"]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "s.parquet")
    *good, null = read(tmp_path / "s.parquet")
    np.testing.assert_array_equal(np.stack(pixels(good)), [RGB, RGB[::-1]])
    assert (null.member, null.error) == ("c", "the image column is null in this row")


def test_grey_arrays_from_hugging_face(tmp_path):
    features = Features({"image": Array2D((H, W), "uint8")})
    datasets.Dataset.from_dict({"image": [GREY, GREY]}, features).to_parquet(tmp_path / "s.parquet")
    for found in pixels(read(tmp_path / "s.parquet")):
        np.testing.assert_array_equal(found, decode(png(GREY), 10_000))


def test_arrays_from_polars(tmp_path):
    pl.DataFrame({"image": pl.Series(np.stack([RGB, RGB]))}).write_parquet(tmp_path / "s.parquet")
    np.testing.assert_array_equal(np.stack(pixels(read(tmp_path / "s.parquet"))), [RGB, RGB])


CLIP = np.stack([RGB, RGB[::-1]])


@pytest.mark.parametrize(
    "column",
    [lists(CLIP, CLIP), tensors(np.stack([CLIP, CLIP]), ["N", "H", "W", "C"])],
    ids=["lists", "tensor"],
)
def test_an_array_of_four_axes_is_a_list_of_images(tmp_path, column):
    frames = read_table(tmp_path, {"key": ["a", "b"], "frames": column})
    assert [frame.member for frame in frames] == ["a#0", "a#1", "b#0", "b#1"]
    np.testing.assert_array_equal(np.stack(pixels(frames)), [*CLIP, *CLIP])


def test_encoded_images_as_lists_of_bytes_are_no_pixels(tmp_path):
    rows = pa.array([[list(A), list(B)], [list(C)]], pa.list_(pa.list_(pa.uint8())))
    assert images(read_table(tmp_path, {"image": rows})) == {"0#0": A, "0#1": B, "1": C}


BAD = {
    "ambiguous": (lists(RGB[:3, :, :].repeat(1, 0)), "does not tell whether the first or the last axis"),
    "four channels": (lists(np.zeros((H, W, 4))), "11 x 7 x 4 has no axis of 1 or 3 channels"),
    "ragged": (pa.array([[[1, 2], [3]]], pa.list_(pa.list_(pa.uint8()))), "different lengths (1 to 2)"),
    "a null": (pa.array([[[1, 2], [3, None]]], pa.list_(pa.list_(pa.uint8()))), "nulls"),
    "a null row": (pa.array([[[1, 2], None]], pa.list_(pa.list_(pa.uint8()))), "nulls"),
    "empty rows": (pa.array([[[], []]], pa.list_(pa.list_(pa.uint8()))), "has no pixels"),
}


@pytest.mark.parametrize(("column", "reason"), BAD.values(), ids=BAD)
def test_arrays_that_are_no_image_are_unreadable(tmp_path, column, reason):
    frames = read_table(tmp_path, {"image": column})
    assert reason in error(frames)
    assert frames[0].frame_index == 0


def test_named_axes_decide_an_ambiguous_shape(tmp_path):
    small = RGB[:3]
    (found,) = pixels(read_table(tmp_path, {"image": tensors(small[None], ["H", "W", "C"])}))
    np.testing.assert_array_equal(found, small)


@pytest.mark.parametrize(
    "column",
    [pa.array([(RGB / 255).tolist()]), pa.array([RGB.tolist()], pa.list_(pa.list_(pa.list_(pa.int64()))))],
    ids=["float", "int64"],
)
def test_numbers_of_another_type_are_one_break_that_says_what_to_do(tmp_path, column):
    frames = read_table(tmp_path, {"image": column})
    assert "`image` has arrays of numbers that are not uint8" in error(frames)
    assert frames[0].frame_index == BREAK


def test_flat_pixels_of_another_shape_are_unreadable_and_files_are_files(tmp_path):
    columns = {"image": [RGB.tobytes(), RGB.tobytes()[1:], A, None], "height": [H] * 4, "width": [W] * 4}
    first, second, third, fourth = read_table(tmp_path, columns)
    np.testing.assert_array_equal(decode(first.image, 10_000), RGB)
    assert "230 bytes are no image file, and not the pixels of the shape 11 x 7" in second.error
    assert third.image == A and json.loads(third.extra) == {"height": H, "width": W}
    assert fourth.error == "the image column is null in this row"


def test_limits_hold_for_pixels(tmp_path):
    (frame,) = read_table(tmp_path, {"image": lists(RGB)}, limits=Limits(frame_bytes=RGB.size - 1))
    assert "limits.frame_bytes" in frame.error
    (frame,) = read_table(tmp_path, {"image": lists(RGB)}, limits=Limits(frame_bytes=RGB.size))
    with pytest.raises(UnreadableError, match="max_pixels=76"):
        decode(frame.image, H * W - 1)


def test_a_large_array_is_read_with_fewer_rows_at_once(tmp_path):
    flat = np.zeros((40, 600, 500, 3), np.uint8)
    column = pa.array(flat.ravel())
    for size in (3, 500, 600):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    limits = Limits(source_memory=256 << 20)  # 16 bytes for each of 900,000 values of a row
    frames = read_table(tmp_path, {"image": column}, limits=limits)
    assert [frame.error for frame in frames] == [None] * 40
    np.testing.assert_array_equal(decode(frames[-1].image, 10**6), flat[0])


def test_an_array_beyond_the_limit_is_a_break(tmp_path):
    column = tensors(np.zeros((1, 1000, 1000, 3), np.uint8))
    frames = read_table(tmp_path, {"image": column}, limits=Limits(source_memory=32 << 20))
    assert "limits.source_memory" in error(frames) and frames[0].frame_index == BREAK


# --- base64 ---


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


TEXTS = {
    "plain": text,
    "url-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "without padding": lambda data: text(data).rstrip("="),
    "data URL": lambda data: f"data:image/png;base64,{text(data)}",
    "lines": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
@pytest.mark.parametrize("name", ["image", "any"])
@pytest.mark.parametrize("encode", TEXTS.values(), ids=TEXTS)
def test_base64_text_is_read_on_request(tmp_path, encode, name, kind):
    columns = {name: pa.array([encode(A), encode(B), None], kind), "caption": ["x", "y", "z"]}
    frames = read_table(tmp_path, columns, encoding="base64")
    assert images(frames) == {"0": A, "1": B, "2": None}
    assert json.loads(frames[1].extra) == {"caption": "y"}
    assert [frame.image for frame in read_rows_again(frames[1:2])] == [B]


def test_without_the_setting_the_error_names_it(tmp_path):
    frames = read_table(tmp_path, {"image": [text(A)], "caption": ["x"]})
    assert "`image` has images as base64 text: read them with --set read.encoding=base64" in error(frames)
    frames = read_table(tmp_path, {"image": ["photos/1.jpg"], "caption": ["x"]})
    assert "`image` is text: if it contains paths" in error(frames)


def test_lists_and_structs_of_base64(tmp_path):
    columns = {"images": [[text(A), text(B)], [text(C)]]}
    assert images(read_table(tmp_path, columns, encoding="base64")) == {"0#0": A, "0#1": B, "1": C}
    columns = {"sample": [{"image": {"bytes": text(A), "path": "x"}, "size": 1}]}
    frames = read_table(tmp_path, columns, encoding="base64")
    assert images(frames) == {"0": A}
    assert json.loads(frames[0].extra) == {"sample": {"image": {"path": "x"}, "size": 1}}


@pytest.mark.parametrize("bad", ["no base64!", "abcde", "data:image/png,abcd", "AA==AA==", "data:"])
def test_text_that_is_not_base64_is_unreadable(tmp_path, bad):
    frames = read_table(tmp_path, {"image": [text(A), bad, text(B)]}, encoding="base64")
    assert [frame.image for frame in frames] == [A, None, B]
    assert "base64" in frames[1].error and frames[1].frame_index == 0


def test_base64_keeps_to_the_limit(tmp_path):
    limits = Limits(frame_bytes=100)
    frames = read_table(tmp_path, {"image": [text(A)]}, encoding="base64", limits=limits)
    assert "limits.frame_bytes=100" in error(frames)


def test_encoded_images_take_precedence_over_base64(tmp_path):
    columns = {"photo": [A, B], "preview": [text(C), text(D)]}
    for encoding in ("bytes", "base64"):
        assert images(read_table(tmp_path, columns, encoding=encoding)) == {"0": A, "1": B}
