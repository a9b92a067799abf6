"""What comes with frames: sidecars of tars, other columns of Parquet shards and of manifests."""

import datetime
import decimal
import io
import itertools
import json
import subprocess
import time
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from here import score_here
from PIL import Image
from tars import write_tar

import faceq
from faceq.errors import UsageError
from faceq.query.extra_values import extra_value
from faceq.sources import Findings, read_shards
from faceq.sources.extra import LEFT_OUT, Extra, joined, json_value
from faceq.sources.frame import Frame
from faceq.sources.listing import list_shards
from faceq.sources.parts import tar_parts
from faceq.sources.reading import Reading
from faceq.sources.samples import MOST_FRAMES, MOST_SIDECARS, Samples
from faceq.sources.tar_index import cuts, scan
from faceq.storage.settings import S3Settings

MOST = 16 << 10


def jpeg(side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side)).save(file, "JPEG")
    return file.getvalue()


JPEG = jpeg()


def read(*paths: Path, findings: Findings | None = None, most: int = MOST, manifest=()) -> list[Frame]:
    shards = list_shards(map(str, paths), S3Settings(), map(str, manifest), extra_bytes=most)
    return list(read_shards(shards, S3Settings(), findings=findings, extra_bytes=most))


def extras(*paths: Path, **more) -> dict[str | None, object]:
    """The parsed `extra` of each frame, by member."""
    found = {frame.member: frame.extra for frame in read(*paths, **more)}
    return {name: None if extra is None else json.loads(extra) for name, extra in found.items()}


def test_sidecars_before_and_after_an_image_belong_to_it(tmp_path):
    members = [
        ("a/1.json", b'{"identity": "n1", "weight": NaN}'),
        ("a/1.jpg", JPEG),
        ("a/1.txt", "caf\u00e9".encode()),
        ("a/2.jpg", JPEG),
        ("a/2.cls", b"7"),
        ("b/2.jpg", JPEG),
    ]
    assert extras(write_tar(tmp_path / "a.tar", members)) == {
        "a/1.jpg": {"json": {"identity": "n1", "weight": None}, "txt": "caf\u00e9"},
        "a/2.jpg": {"cls": "7"},
        "b/2.jpg": None,
    }


def test_images_of_one_sample_share_its_sidecars_unless_a_name_says_whose_one_is(tmp_path):
    members = [
        *(("1.left.jpg", jpeg(9)), ("1.right.jpg", JPEG), ("1.txt", b"both"), ("1.left.txt", b"left")),
        *(("2.rgb.jpg", JPEG), ("2.caption.txt", b"of rgb")),
    ]
    assert extras(write_tar(tmp_path / "a.tar", members)) == {
        "1.left.jpg": {"txt": "both", "txt#2": "left"},
        "1.right.jpg": {"txt": "both"},
        "2.rgb.jpg": {"caption.txt": "of rgb"},
    }


def test_large_images_wait_for_their_sidecars_too(tmp_path):
    large = JPEG + b"x" * (9 << 20)
    members = [("1.left.jpg", large), ("1.right.jpg", large), ("1.json", b"1")]
    assert list(extras(write_tar(tmp_path / "a.tar", members)).values()) == [{"json": 1}] * 2


def test_numbered_names_with_the_same_key_keep_their_sidecars_apart(tmp_path):
    """As frames of a video are often called; more of them than wait at the same time."""
    members = []
    for number in range(50):
        members += [(f"clip.{number:04}.jpg", JPEG), (f"clip.{number:04}.json", b"%d" % number)]
        members += [(f"clip.{number:04}.caption.txt", b"caption %d" % number)]
    found = extras(write_tar(tmp_path / "a.tar", members))
    expected = [{"json": number, "caption.txt": f"caption {number}"} for number in range(50)]
    assert list(found.values()) == expected


@pytest.mark.parametrize("most", [0, MOST])
def test_neither_images_nor_sidecars_of_one_name_fill_the_memory(tmp_path, most):
    """Frames come while the tar is read, and sidecars without an image are not kept."""
    side = 20_000
    path = write_tar(tmp_path / "a.tar", [("x.jpg", JPEG + b"x" * side)] * 200)
    frames = read_shards(list_shards([str(path)], S3Settings()), S3Settings(), extra_bytes=most)
    first = next(frames)
    waiting = frames.gi_frame and sum(1 for _ in frames)
    assert first.member == "x.jpg" and waiting == 199
    reading = Reading(S3Settings(), extra_bytes=most)
    samples = Samples(reading)
    for _ in range(2000):
        list(samples.before("a.txt"))
        samples.add_sidecar("a.txt", b"x" * MOST)
    kept = sum(len(content or b"") for _, content in samples._sidecars)
    assert len(samples._sidecars) <= MOST_SIDECARS and kept <= MOST_FRAMES * most
    list(samples.finish())
    assert reading.findings.passed_over == {".txt": 2000}


def test_names_without_an_extension_and_odd_folders(tmp_path):
    members = [("b/.x/1.jpg", JPEG), ("b/.x/1", b"one"), ("c//2.l.jpg", JPEG), ("c//2.json", b"2")]
    assert extras(write_tar(tmp_path / "a.tar", members)) == {
        "b/.x/1.jpg": {"1": "one"},
        "c//2.l.jpg": {"json": 2},
    }


def test_a_sparse_sidecar_is_left_out(tmp_path):
    path = tmp_path / "a.tar"
    (tmp_path / "1.jpg").write_bytes(JPEG)
    with (tmp_path / "1.txt").open("wb") as file:
        file.truncate(8192)
    subprocess.run(["tar", "-C", tmp_path, "-Scf", path, "1.jpg", "1.txt"], check=True)
    assert extras(path) == {"1.jpg": {LEFT_OUT: ["txt"]}}


def test_what_cannot_be_kept_is_named_and_counted(tmp_path):
    members = [
        ("1.jpg", JPEG),
        ("1.npy", b"\x93NUMPY"),
        ("1.txt", b"x" * (MOST + 1)),
        ("1.latin", "caf\u00e9".encode("latin1")),
        ("1.zero", b"a\0b"),
        ("1.json", b"{not json"),
        ("2.txt", b"without its image"),
        ("3.jpg", JPEG),
        (".hidden.json", b"{}"),
    ]
    findings = Findings()
    found = extras(write_tar(tmp_path / "a.tar", members), findings=findings)
    assert found == {"1.jpg": {"json": "{not json", LEFT_OUT: ["npy", "txt", "latin", "zero"]}, "3.jpg": None}
    assert findings.passed_over == {".txt": 2}  # too large; without its image


def test_a_repeated_name_and_a_deep_json_are_kept(tmp_path):
    deep = b"[" * 5000 + b"]" * 5000
    members = [("1.jpg", JPEG), ("1.txt", b"one"), ("1.txt", b"two"), ("1.json", deep)]
    (found,) = extras(write_tar(tmp_path / "a.tar", members)).values()
    assert found == {"txt": "one", "txt#2": "two", "json": deep.decode()}


def test_a_tar_that_breaks_off_keeps_the_frames_before(tmp_path):
    path = write_tar(
        tmp_path / "a.tar", [("1.jpg", JPEG), ("1.txt", b"one"), ("2.jpg", JPEG), ("2.txt", b"2")]
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"2.txt") + 300])
    frames = read(path)
    assert [(frame.member, frame.extra) for frame in frames[:2]] == [
        ("1.jpg", '{"txt": "one"}'),
        ("2.jpg", None),
    ]
    assert frames[2].frame_index == -1


def test_without_extra_bytes_nothing_is_read(tmp_path):
    findings = Findings()
    path = write_tar(tmp_path / "a.tar", [("1.jpg", JPEG), ("1.txt", b"one")])
    assert extras(path, most=0, findings=findings) == {"1.jpg": None}
    assert findings.passed_over == {".txt": 1}


def one_key_each(number: int) -> list[tuple[str, bytes]]:
    return [(f"{number}.json", b"%d" % number), (f"{number}.jpg", jpeg(64)), (f"{number}.txt", b"t")]


def with_hidden(number: int) -> list[tuple[str, bytes]]:
    """As macOS writes them."""
    names = ("json", b"%d" % number), ("jpg", jpeg(64))
    return [part for end, data in names for part in ((f"._{number}.{end}", b"x"), (f"{number}.{end}", data))]


def two_keys(number: int) -> list[tuple[str, bytes]]:
    name = f"video{number // 20}.{number:04}"
    return [(f"{name}.json", b"%d" % number), (f"{name}.jpg", jpeg(64)), (f"{name}.caption.txt", b"c")]


@pytest.mark.parametrize("sample", [one_key_each, with_hidden, two_keys])
def test_a_large_tar_is_never_cut_inside_a_sample(tmp_path, sample):
    members = [member for number in range(40) for member in sample(number)]
    path = write_tar(tmp_path / "a.tar", members)
    (shard,) = list_shards([str(path)], S3Settings())
    size = path.stat().st_size
    edges = [*range(0, size, size // 512 // 5 * 512), size]
    reading = Reading(S3Settings())
    stretches = [scan(shard, begin, end, reading) for begin, end in itertools.pairwise(edges)]
    parts = tar_parts(shard, *cuts(shard, stretches, reading))
    assert len(parts) >= 5
    found = [frame for part in parts for frame in read_shards([part], S3Settings(), extra_bytes=MOST)]
    assert found == read(path)
    assert [json.loads(frame.extra)["json"] for frame in found] == list(range(40))


def test_shards_of_webdataset(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number in range(3):
            image = np.zeros((8, 8, 3), np.uint8)
            sample = {"__key__": f"{number:05}", "jpg": image, "txt": f"face {number}", "cls": number}
            writer.write({**sample, "json": {"identity": f"n{number}"}, "npy": np.zeros(2)})
    assert extras(tmp_path / "a.tar") == {
        f"{number:05}.jpg": {
            **{"cls": str(number), "json": {"identity": f"n{number}"}},
            **{"txt": f"face {number}", LEFT_OUT: ["npy"]},
        }
        for number in range(3)
    }


def test_shards_of_datasets(tmp_path):
    images = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (10, 200)]
    columns = {"image": images, "caption": ["a", "b"], "label": [0, 1], "tags": [["x"], []]}
    datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).to_parquet(
        tmp_path / "a.parquet"
    )
    assert extras(tmp_path / "a.parquet") == {
        "0": {"caption": "a", "label": 0, "tags": ["x"]},
        "1": {"caption": "b", "label": 1, "tags": []},
    }


def test_columns_of_every_type(tmp_path):
    columns = {
        "image": [JPEG, JPEG],
        "key": ["x", "y"],
        "when": [datetime.datetime(2020, 1, 2, 3), None],
        "price": [decimal.Decimal("1.50"), None],
        "values": [[1.0, float("nan")], None],
        "of": [{"a": 1, "b": ["c"]}, None],
        "mask": [b"123", b"4"],
        "nested": [{"bytes": b"1"}, None],
        "long": ["x" * (2 * MOST), "x" * (2 * MOST)],
        "some": ["x" * (MOST + 1), "short"],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert extras(tmp_path / "a.parquet") == {
        "x": {
            **{"when": "2020-01-02T03:00:00", "price": "1.50", "values": [1.0, None]},
            **{"of": {"a": 1, "b": ["c"]}, LEFT_OUT: ["some", "mask", "nested", "long"]},
        },
        "y": {"some": "short", LEFT_OUT: ["mask", "nested", "long"]},
    }


def test_text_that_is_not_utf8_is_left_out(tmp_path):
    text = pa.array([b"good", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": [JPEG, JPEG], "text": text}), tmp_path / "a.parquet")
    assert extras(tmp_path / "a.parquet") == {"0": {"text": "good"}, "1": {LEFT_OUT: ["text"]}}


def test_a_damaged_column_costs_no_frame(tmp_path):
    path = tmp_path / "a.parquet"
    captions = [f"caption {number}" for number in range(60)]
    pq.write_table(
        pa.table({"image": [JPEG] * 60, "caption": captions}),
        path,
        row_group_size=20,
        compression="none",
        use_dictionary=False,
    )
    whole = bytearray(path.read_bytes())
    at = whole.index(b"caption 20") - 4  # the length of the first value of the second row group
    whole[at : at + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(whole)
    findings = Findings()
    frames = read(path, findings=findings)
    assert [frame.member for frame in frames] == [str(number) for number in range(60)]
    assert all(frame.image == JPEG for frame in frames)
    expected = [*({"caption": caption} for caption in captions[:20]), *[{LEFT_OUT: ["caption"]}] * 40]
    assert [json.loads(frame.extra) for frame in frames] == expected
    (note,) = findings.notes
    assert "cannot read the columns caption" in note and "from row 20 on" in note


def test_a_column_beyond_a_limit_is_left_out_and_the_others_stay(tmp_path):
    """Repeated values take no space in the file."""
    zeros = pa.array([[0] * 131_072] * 60, pa.list_(pa.int16()))
    columns = {"image": [JPEG] * 60, "caption": ["a"] * 60, "zeros": zeros, "cap": ["x"] * 60}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = extras(tmp_path / "a.parquet")
    assert {extra["caption"] for extra in found.values()} == {"a"}
    assert all(extra[LEFT_OUT] == ["zeros"] for extra in found.values())


def test_columns_of_one_name_are_named(tmp_path):
    table = pa.table([[JPEG], ["a"], ["b"]], names=["image", "cap", "cap"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert extras(tmp_path / "a.parquet") == {"0": {LEFT_OUT: ["cap", "cap#2"]}}


def test_a_damaged_column_of_a_manifest_costs_no_file(tmp_path, caplog):
    path = tmp_path / "list.parquet"
    rows = pa.table({"uri": ["/a.jpg", "/b.jpg"], "who": ["first", "second"]})
    pq.write_table(rows, path, compression="none", use_dictionary=False, write_statistics=False)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"first") - 4
    whole[at : at + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(whole)
    shards = list_shards([], S3Settings(), [str(path)], extra_bytes=MOST)
    assert [(shard.source, shard.extra) for shard in shards] == [
        ("/a.jpg", '{"_left_out": ["who"]}'),
        ("/b.jpg", '{"_left_out": ["who"]}'),
    ]
    assert "cannot read the columns who" in caplog.text


def test_values_of_a_manifest_are_small(tmp_path):
    deep = "[" * 600 + "]" * 600
    row = f'{{"uri": "/a.jpg", "who": "n1", "embedding": {[0.5] * 512}, "deep": {deep}}}'
    (tmp_path / "list.jsonl").write_text(row)
    (shard,) = list_shards([], S3Settings(), [str(tmp_path / "list.jsonl")], extra_bytes=MOST)
    assert json.loads(shard.extra) == {"who": "n1", LEFT_OUT: ["embedding", "deep"]}


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_other_columns_of_a_manifest_come_with_every_frame_of_its_files(tmp_path, ending):
    (tmp_path / "a.jpg").write_bytes(JPEG)
    write_tar(tmp_path / "b.tar", [("1.jpg", JPEG), ("1.who", b"sidecar"), ("2.jpg", JPEG)])
    rows = [
        {"uri": "a.jpg", "size": 1, "who": "n1", "age": 3},
        {"uri": "b.tar", "size": 2, "who": "n2", "age": None},
    ]
    path = tmp_path / f"list.{ending}"
    if ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif ending == "csv":
        path.write_text("uri,size,who,age\na.jpg,1,n1,3\nb.tar,2,n2,\n")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    age = "3" if ending == "csv" else 3
    assert extras(manifest=[path]) == {
        None: {"who": "n1", "age": age},
        "1.jpg": {"who": "n2", "who#2": "sidecar"},
        "2.jpg": {"who": "n2"},
    }
    assert set(extras(manifest=[path], most=0).values()) == {None}


def test_the_size_of_the_object_is_limited():
    extra = Extra(40)
    extra.add("a", "x" * 10)
    extra.add("b", "x" * 20)
    extra.add("c", 1)
    text = extra.text()
    assert json.loads(text) == {"a": "x" * 10, "c": 1, LEFT_OUT: ["b"]}
    assert json.loads(joined(text, '{"a": 2}', 100)) == {"a": "x" * 10, "c": 1, "a#2": 2, LEFT_OUT: ["b"]}


def test_a_lone_surrogate_and_the_name_of_what_is_left_out_stay_valid():
    extra = Extra(MOST)
    extra.add(LEFT_OUT, {"\ud83d": "cut \ud83d"})
    text = extra.text()
    assert duckdb.sql("SELECT json_valid($text)", params={"text": text}).fetchall() == [(True,)]
    assert json.loads(text) == {f"{LEFT_OUT}#2": {"\ufffd": "cut \ufffd"}}


def test_thousands_of_values_are_added_fast_and_few_are_named():
    extra = Extra(100)
    start = time.process_time()
    for _ in range(20_000):
        extra.add("same", "x" * 90)
    assert time.process_time() - start < 2
    names = json.loads(extra.text())[LEFT_OUT]
    assert names[:2] == ["same", "same#2"] and len(names) == 101 and names[-1] == "and 19900 more"


def test_missing_times_are_null():
    assert json_value([pandas.NaT, decimal.Decimal("NaN"), datetime.date(2020, 1, 2)]) == [
        None,
        None,
        "2020-01-02",
    ]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("extra.json.identity", '$."json"."identity"'),
        ('extra."seg.json".a', '$."seg.json"."a"'),
        ("extra.o'clock", "$.\"o''clock\""),
    ],
)
def test_names_of_values_inside(name, path):
    assert extra_value(name) == f"extra ->> '{path}'"


@pytest.mark.parametrize("name", ["extra", "extra.", "extra.*", "extra..a", 'extra.a"b', "other.a"])
def test_names_that_are_not_of_values_inside_are_refused(name):
    with pytest.raises(UsageError, match=r"expected extra\.KEY"):
        extra_value(name)


def test_a_query_reaches_inside(tmp_path, astronaut):
    file = io.BytesIO()
    Image.fromarray(astronaut).save(file, "PNG")
    members = [("1.png", file.getvalue()), ("1.json", b'{"identity": "n1"}'), ("2.png", file.getvalue())]
    table = score_here(str(write_tar(tmp_path / "a.tar", members)), str(tmp_path / "table"))
    rows = faceq.read_table(table, "extra->>'$.json.identity' = 'n1'", ["member", "extra", "status"])
    assert rows.to_pylist() == [
        {"member": "1.png", "extra": '{"json": {"identity": "n1"}}', "status": "scored"}
    ]


def test_a_table_beside_a_tar_that_it_describes_is_passed_over(tmp_path):
    """As img2dataset writes them. Alone, such a table is an error."""
    about = pa.table({"url": ["u"], "caption": ["a face"], "key": ["000000000"], "sha256": ["0"]})
    pq.write_table(about, tmp_path / "00000.parquet")
    (alone,) = read_shards(list_shards([str(tmp_path)], S3Settings()), S3Settings())
    assert "no binary column with images" in alone.error
    sidecars = [("000000000.txt", b"a face"), ("000000000.json", b'{"url": "u"}')]
    write_tar(tmp_path / "00000.tar", [("000000000.jpg", b"\xff\xd8\xff"), *sidecars])
    findings = Findings()
    shards = list_shards([str(tmp_path)], S3Settings())
    (frame,) = read_shards(shards, S3Settings(), findings=findings, extra_bytes=1000)
    assert frame.member == "000000000.jpg"
    assert json.loads(frame.extra) == {"txt": "a face", "json": {"url": "u"}}
    assert findings.passed_over == {".parquet": 1} and "describes the tar beside it" in findings.notes[0]
