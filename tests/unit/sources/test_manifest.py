"""Manifests: lists of frames in Parquet, CSV and JSONL, and a million entries in one driver."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import boto3
import pandas
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from places import PHOTOS
from real_s3 import BUCKET
from small_s3 import BUCKET as SMALL
from small_s3 import Refusal, small_s3

from faceq import config
from faceq.cli import main
from faceq.errors import StorageError, UsageError
from faceq.job import pipeline
from faceq.sources import manifest, read_shards
from faceq.sources.listing import MAX_READ_TASKS, Shard, group, list_shards
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

PLACES = ["s3://b/a b.jpg", "/abs/c.png", "below/d.jpg", "../e.tar", "s3://b/without-ending"]
SIZES = [10, None, 30, None, 50]


def write(path: Path, places: list[str], sizes: list[int | None] | None = None, column: str = "uri") -> str:
    table = pa.table({column: places} | ({} if sizes is None else {"size": pa.array(sizes, pa.int64())}))
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pc.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("ending", manifest.ENDINGS)
def test_places_and_sizes_come_as_they_are_listed(tmp_path, ending):
    (tmp_path / "lists").mkdir()
    path = write(tmp_path / f"lists/m{ending}", PLACES, SIZES)
    places = [PLACES[0], PLACES[1], f"{tmp_path}/lists/below/d.jpg", f"{tmp_path}/e.tar", PLACES[4]]
    shards = {shard.source: shard for shard in list_shards([], S3Settings(), [path])}
    assert {source: shard.size for source, shard in shards.items()} == dict(zip(places, SIZES, strict=True))
    assert shards[f"{tmp_path}/e.tar"].kind == "tar"
    assert shards["s3://b/without-ending"].kind == "picture"
    assert shards["s3://b/a b.jpg"].path == "b/a b.jpg"


@pytest.mark.parametrize("ending", manifest.ENDINGS)
def test_sizes_are_optional_and_a_table_of_faceq_is_a_manifest(tmp_path, ending):
    path = write(tmp_path / f"m{ending}", ["/a.jpg", "/a.jpg", "/b.jpg"], column="source")
    assert list(list_shards([], S3Settings(), [path])) == [
        Shard("/a.jpg", "/a.jpg", "picture", None, seen=False),
        Shard("/b.jpg", "/b.jpg", "picture", None, seen=False),
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.csv", b"file,size\na.jpg,1\n", "no column uri or path or source: its columns are file, size"),
        ("m.csv", b"uri,size\na.jpg,1\n,2\n", "row 2: names no file"),
        ("m.csv", b"uri,size\na.jpg,1kB\n", "row 1: size '1kB' is not a number"),
        ("m.csv", b"uri,size\na.jpg,1\n\nb.jpg,-1\n", "row 2: size '-1' is not a number"),
        ("m.csv", b"uri,size\na.jpg,inf\n", "row 1: size 'inf' is not a number"),
        ("m.csv", b"uri,size\na.jpg,10.5\n", "row 1: size '10.5' is not a number"),
        ("m.jsonl", b'{"uri": "a.jpg", "size": true}\n', "row 1: size True is not a number"),
        ("m.jsonl", b'{"uri": "a.jpg"}\n\n{"uri": null}\n', "row 3: names no file (got None)"),
        ("m.jsonl", b'{"uri": "half \\ud83d.jpg"}\n', "row 1: 'half \\ud83d.jpg' is not a valid"),
        ("m.csv", b"uri\na\0b.jpg\n", "is not a valid file name"),
        ("m.csv", b"uri,uri\na.jpg,b.jpg\n", "two columns of the same name"),
        ("m.csv", b"uri\nftp://a/b.jpg\n", "row 1: ftp://a/b.jpg: only local paths and "),
        ("m.csv", b"", "no column uri"),
        ("m.csv", b"uri\n\xff\xfe.jpg\n", "cannot be read as a manifest"),
        ("m.jsonl", b'{"uri": "a.jpg"}\n{"uri": \n', "line 2 is not a JSON object"),
        ("m.jsonl", b'["a.jpg"]\n', "line 1 is not a JSON object"),
        ("m.parquet", b"PAR1", "cannot be read as a manifest"),
        ("m.txt", b"a.jpg\n", "unknown manifest format"),
    ],
)
def test_an_invalid_manifest_is_one_line_of_wrong_usage(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as error:
        list_shards([], S3Settings(), [str(tmp_path / name)])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_sizes_are_read_as_pandas_writes_them(tmp_path):
    """An integer column with missing values is written as floats, with NaN for missing values."""
    table = pandas.DataFrame({"uri": ["/a.jpg", "/b.jpg", "/c.jpg"], "size": [10, None, 2.0**40]})
    table.to_csv(tmp_path / "m.csv")
    table.to_csv(
        tmp_path / "named.csv", index=False, na_rep="NaN", lineterminator="\r\n", encoding="utf-8-sig"
    )
    table.to_parquet(tmp_path / "m.parquet")
    table.astype({"uri": "category"}).iloc[::-1].to_parquet(tmp_path / "category.parquet")
    table.astype("string").to_parquet(tmp_path / "text.parquet")
    table.to_json(tmp_path / "m.jsonl", orient="records", lines=True)
    made = pa.table({"uri": pa.array(table["uri"], pa.large_string()), "size": table["size"]})
    pq.write_table(made, tmp_path / "LARGE.PARQUET")
    (tmp_path / "nan.jsonl").write_text(
        '{"uri": "/a.jpg", "size": 10.0}\n\n{"uri": "/b.jpg", "size": NaN}\n'
        '{"uri": "/c.jpg", "size": "1099511627776.0"}\n  \n\n'
    )
    for path in sorted(tmp_path.iterdir()):
        sizes = {shard.source: shard.size for shard in list_shards([], S3Settings(), [str(path)])}
        assert sizes == {"/a.jpg": 10, "/b.jpg": None, "/c.jpg": 1 << 40}, path
    assert len(list(tmp_path.iterdir())) == 8


def test_rows_without_a_place_are_named_by_their_number(tmp_path):
    table = pandas.DataFrame({"uri": ["/a.jpg", None], "size": [1.0, 2.0]})
    table.to_parquet(tmp_path / "m.parquet")
    table.to_csv(tmp_path / "m.csv", index=False)
    table[["uri"]].to_csv(tmp_path / "single.csv", index=False)
    table.to_json(tmp_path / "m.jsonl", orient="records", lines=True)
    for path in tmp_path.iterdir():
        with pytest.raises(UsageError, match="row 2: names no file"):
            list_shards([], S3Settings(), [str(path)])


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("a.jpg", "lists/a.jpg"),
        ("./x/../a.jpg", "lists/a.jpg"),
        ("../a.jpg", "a.jpg"),
        ("../../../a.jpg", "a.jpg"),
        ("x//a.jpg", "lists/x//a.jpg"),
        ("s3://b/x/../a.jpg", "x/../a.jpg"),
    ],
)
def test_relative_paths_start_at_the_manifests_folder_and_uris_are_unchanged(place, key):
    with small_s3({"lists/m.csv": f"uri\n{place}\n".encode()}) as store:
        (shard,) = list_shards([], store.settings, [f"s3://{SMALL}/lists/m.csv"])
    assert shard.source == (f"s3://b/{key}" if place.startswith("s3://b") else f"s3://{SMALL}/{key}")


def test_a_missing_entry_is_not_reported_as_deleted(tmp_path):
    path = write(tmp_path / "m.csv", ["none.jpg", "none.tar", "none.parquet", "none.mp4"])
    for frame in read_shards(list_shards([], S3Settings(), [path]), S3Settings()):
        assert frame.error == "not found: there is no such file or object"
        assert frame.refused and frame.unseen


def test_an_entry_without_an_ending_is_what_its_bytes_say(tmp_path):
    with tarfile.open(tmp_path / "shard", "w") as tar:
        tar.add(PHOTOS / "mask_blue.jpg", "a.jpg")
    (tmp_path / "photo").write_bytes((PHOTOS / "mask_blue.jpg").read_bytes())
    (tmp_path / "text").write_bytes(b"text")
    path = write(tmp_path / "m.csv", ["shard", "photo", "text"])
    frames = list(read_shards(list_shards([], S3Settings(), [path]), S3Settings()))
    assert [(Path(frame.source).name, frame.member) for frame in frames] == [
        ("photo", None),
        ("shard", "a.jpg"),
        ("text", None),  # each entry has its row
    ]


def test_a_manifest_that_is_not_there_is_wrong_usage(tmp_path, capsys):
    missing = str(tmp_path / "none.csv")
    assert main.main(["score", "--manifest", missing, "--out", str(tmp_path / "t")]) == 2
    assert f"{missing}: there is no such manifest" in capsys.readouterr().err


@pytest.mark.parametrize("refused", [("GET",), ("GET", "HEAD")])
def test_a_manifest_that_the_storage_refuses_stops_the_job(monkeypatch, refused):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    def refuse(asked):
        return Refusal(400, "ExpiredToken") if asked.method in refused else None

    with (
        small_s3({"m.csv": b"uri\n/a.jpg\n"}, refuse) as store,
        pytest.raises(StorageError, match="ExpiredToken"),
    ):
        list_shards([], store.settings, [f"s3://{SMALL}/m.csv"])


def test_a_manifest_on_s3_is_scored_row_by_row(s3, light_job, tmp_path):
    """Images without an ending, an empty file and a missing file: each entry has its row."""
    client = boto3.client("s3")
    photo = (PHOTOS / "mask_blue.jpg").read_bytes()
    for name, content in (("m/one", photo), ("m/two.jpg", photo), ("m/empty.jpg", b"")):
        client.put_object(Bucket=BUCKET, Key=name, Body=content)
    listed = io.BytesIO(b"uri\n../m/one\ntwo.jpg\nempty.jpg\ngone.jpg\n")
    client.upload_fileobj(listed, BUCKET, "m/list.csv")
    local = write(tmp_path / "more.jsonl", [str(PHOTOS / "mask_white.jpg")])
    out = str(tmp_path / "table")
    command = ["score", "--manifest", f"{s3}/m/list.csv", "--manifest", local, "--out", out]
    assert main.main(command) == 0
    rows = {
        row["source"]: row for row in Table(out, S3Settings()).rows(["source", "status", "error"]).to_pylist()
    }
    assert {source.rsplit("/", 1)[1]: row["status"] for source, row in rows.items()} == {
        "one": "no_face",
        "two.jpg": "no_face",
        "empty.jpg": "unreadable",
        "gone.jpg": "unreadable",
        "mask_white.jpg": "no_face",
    }
    assert "not found" in rows[f"{s3}/m/gone.jpg"]["error"]
    assert "empty" in rows[f"{s3}/m/empty.jpg"]["error"]


def test_an_image_of_unknown_size_obeys_the_limit(tmp_path):
    (tmp_path / "small.jpg").write_bytes(bytes(1000))
    (tmp_path / "large.jpg").write_bytes(bytes(5000))
    path = write(tmp_path / "m.csv", ["large.jpg", "small.jpg"])
    shards, limits = list_shards([], S3Settings(), [path]), config.Limits(frame_bytes=1000)
    large, small = read_shards(shards, S3Settings(), limits=limits)
    assert large.image is None and "limits.frame_bytes=1000" in large.error
    assert len(small.image) == 1000


def test_a_run_with_a_manifest_resumes_where_it_stopped(light_job, tmp_path):
    photos = sorted(str(path) for path in PHOTOS.glob("mask_*.jpg"))
    path = write(tmp_path / "m.csv", photos[:2])
    settings = config.build({"manifest": path, "out": str(tmp_path / "table")})
    assert pipeline.score(settings).run.input == [path]
    write(tmp_path / "m.csv", photos)
    again = pipeline.score(settings)
    assert (again.run.frames, again.run.already_done) == (len(photos) - 2, 2)


def test_a_million_pictures_are_listed_and_grouped_in_little_memory(tmp_path):
    """In its own process, to measure its memory without Ray's."""
    path = tmp_path / "m.parquet"
    places = [f"s3://some-bucket/faces/2024-05-17/{i // 1000:06}/frame-{i:09}.jpg" for i in range(1_000_000)]
    pq.write_table(pa.table({"uri": places}), path)
    counted = (
        "import resource, sys\n"
        "from faceq.storage.settings import S3Settings\n"
        "from faceq.sources.listing import group, list_shards\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "groups = group(list_shards([], S3Settings(), sys.argv[1:]))\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "print(len(groups), sum(map(len, groups)), grown // 1024)\n"
    )
    command = [sys.executable, "-c", counted, str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    tasks, pictures, megabytes = map(int, said.split())
    assert (tasks, pictures) == (MAX_READ_TASKS, 1_000_000)
    assert megabytes < 800


def test_few_pictures_are_grouped_by_the_dozen_and_shards_stay_alone():
    shards = [Shard(f"/{i}.jpg", f"/{i}.jpg", "picture", None) for i in range(130)]
    tars = [Shard(f"/{i}.tar", f"/{i}.tar", "tar", 1) for i in range(3)]
    assert [len(part) for part in group([*shards, *tars])] == [1, 1, 1, 64, 64, 2]
