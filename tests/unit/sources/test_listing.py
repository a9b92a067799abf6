"""Which files hold frames, that none is left out, and how they are grouped into read tasks."""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import NoCredentialsError
from small_s3 import BUCKET, Refusal, small_s3
from users import as_nobody

from faceq.cli import main
from faceq.errors import StorageError, UsageError
from faceq.sources import listing, read_shards
from faceq.sources.listing import Shard, group, kind_of, list_shards, printable, shard_from_table
from faceq.storage import s3_listing
from faceq.storage.settings import S3Settings
from faceq.table.store import Table


def test_folders_are_searched_and_other_files_skipped(tmp_path):
    for name in (
        "a.jpg",
        "deep/b.PNG",
        "deep/c.tar.gz",
        "deep/e.tar.zst",
        "deep/f.TXZ",
        "deep/g.tar.bz2",
        "deep/h.zst",
        "d.parquet",
        "notes.txt",
        ".hidden.jpg",
        ".git/e.jpg",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [
        (os.path.relpath(s.source, tmp_path), s.kind) for s in list_shards([str(tmp_path)], S3Settings())
    ]
    assert found == [
        ("a.jpg", "picture"),
        ("d.parquet", "parquet"),
        ("deep/b.PNG", "picture"),
        ("deep/c.tar.gz", "tar"),
        ("deep/e.tar.zst", "tar"),
        ("deep/f.TXZ", "tar"),
        ("deep/g.tar.bz2", "tar"),
    ]


def test_a_shard_named_twice_is_read_once(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    shards = list_shards([".", "a.jpg", f"{tmp_path}/*.jpg", f"file://{tmp_path}/a.jpg"], S3Settings())
    assert [shard.source for shard in shards] == [str(tmp_path / "a.jpg")]


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(tmp_path):
    (tmp_path / "a[1].jpg").touch()
    (tmp_path / "a1.jpg").touch()
    assert [s.path for s in list_shards([f"{tmp_path}/a[1].jpg"], S3Settings())] == [f"{tmp_path}/a[1].jpg"]
    assert [s.path for s in list_shards([f"{tmp_path}/a[0-9].jpg"], S3Settings())] == [f"{tmp_path}/a1.jpg"]


@pytest.mark.parametrize("name", ["missing", "missing.jpg", "*.jpg"])
def test_a_missing_input_is_wrong_usage(tmp_path, name):
    with pytest.raises(UsageError, match=r"no such file|no file matches"):
        list_shards([str(tmp_path / name)], S3Settings())


def test_a_folder_without_frames_is_wrong_usage(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="no frames here"):
        list_shards([str(tmp_path)], S3Settings())


def test_a_file_of_another_kind_is_wrong_usage(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="unknown file extension"):
        list_shards([str(tmp_path / "notes.txt")], S3Settings())


def test_pictures_share_read_tasks_and_shards_do_not():
    shards = [Shard(f"/{i}.jpg", f"/{i}.jpg", "picture", 1) for i in range(130)]
    shards += [Shard("/a.tar", "/a.tar", "tar", 1), Shard("/b.tar", "/b.tar", "tar", 1)]
    assert sorted(len(shards) for shards in group(shards)) == [1, 1, 2, 64, 64]


# --- folders that cannot be listed ---


@pytest.fixture
def anywhere() -> Iterator[Path]:
    """A folder that every user can access. pytest's own folders are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("mode", [0o000, 0o444])
@pytest.mark.parametrize("pattern", ["", "/*", "/**", "/*/deep/*.jpg", "/**/*.jpg", "/[a-z]*/*"])
def test_a_folder_in_the_input_that_may_not_be_listed_stops_the_job(anywhere, mode, pattern):
    """Without permission to list the folder or to access its entries."""
    for name in ("good/deep", "private/deep"):
        (anywhere / name).mkdir(parents=True)
        (anywhere / name / "a.jpg").write_bytes(b"x")
    closed = anywhere / "private" / "deep"
    closed.chmod(mode)
    try:
        with as_nobody(), pytest.raises(StorageError) as error:
            list_shards([f"{anywhere}{pattern}"], S3Settings())
    finally:
        closed.chmod(0o755)
    assert f"cannot be listed completely: {closed}: access denied: Permission denied" in str(error.value)


def test_an_input_that_may_not_be_listed_itself_says_so(anywhere):
    (anywhere / "in").mkdir(mode=0o300)
    with as_nobody(), pytest.raises(StorageError, match="/in: cannot be listed: access denied: Permission"):
        list_shards([str(anywhere / "in")], S3Settings())


def test_hidden_folders_are_no_part_of_the_input(anywhere):
    (anywhere / ".trash").mkdir(mode=0o700)
    (anywhere / "a.jpg").write_bytes(b"x")
    with as_nobody():
        assert len(list_shards([str(anywhere)], S3Settings())) == 1


def test_a_folder_that_fails_in_another_way_stops_the_job(tmp_path, monkeypatch, capsys):
    """Its path is longer than the system allows, which is an error even for root."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"x")
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.chdir(tmp_path)
    try:
        for place in (".", "**/*.jpg"):
            assert main.main(["score", place, "--out", str(tmp_path / "table")]) == 2
            said = capsys.readouterr().err
            assert "cannot be listed completely: " in said and "File name too long" in said
        assert not (tmp_path / "table").exists()
    finally:
        shutil.rmtree("d" * 250)


def test_links_to_folders_are_not_followed_and_links_to_nothing_are_rows(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"x")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.jpg").symlink_to("nothing")
    (tmp_path / "in" / "link.jpg").symlink_to("a.jpg")
    for place in ("in", "in/*", "in/**"):
        found = list_shards([str(tmp_path / place)], S3Settings())
        assert [(s.source.rpartition("/")[2], s.size) for s in found] == [
            ("a.jpg", 1),
            ("gone.jpg", None),
            ("link.jpg", 1),
        ]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jpg", ["a.jpg"]),
        ("*", ["a.jpg", "x/b.jpg", "x/y/c.jpg", "z/y/d.jpg"]),
        ("**", ["a.jpg", "x/b.jpg", "x/y/c.jpg", "z/y/d.jpg"]),
        ("**/*.jpg", ["a.jpg", "x/b.jpg", "x/y/c.jpg", "z/y/d.jpg"]),
        ("**/y", ["x/y/c.jpg", "z/y/d.jpg"]),
        ("*/y", ["x/y/c.jpg", "z/y/d.jpg"]),
        ("*/y/*.jpg", ["x/y/c.jpg", "z/y/d.jpg"]),
        ("*/b.jpg", ["x/b.jpg"]),
        ("[!x]/*", ["z/y/d.jpg"]),
        ("?/**/[cd].jpg", ["x/y/c.jpg", "z/y/d.jpg"]),
        ("**.jpg", ["a.jpg"]),
        (".h*/*.jpg", [".hidden/e.jpg"]),
        ("*/.h/*.jpg", ["x/.h/f.jpg"]),
    ],
)
@pytest.mark.parametrize("where", ["disk", "s3"])
def test_globs_find_the_same_on_disk_and_on_s3(tmp_path, where, pattern, found):
    names = ("a.jpg", "x/b.jpg", "x/y/c.jpg", "z/y/d.jpg", ".hidden/e.jpg", "x/.h/f.jpg")
    if where == "disk":
        for name in names:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(b"x")
        root, shards = f"{tmp_path}/in/", list_shards([f"{tmp_path}/in/{pattern}"], S3Settings())
    else:
        with small_s3({f"in/{name}": b"x" for name in names}) as store:
            root, shards = f"s3://{BUCKET}/in/", list_shards([f"s3://{BUCKET}/in/{pattern}"], store.settings)
    assert [shard.source.removeprefix(root) for shard in shards] == found


@pytest.mark.parametrize("place", ["in", "in/*/*.jpg", "in/**", "*"])
@pytest.mark.parametrize(
    "refusal", [Refusal(403, "AccessDenied"), Refusal(400, "InvalidToken"), Refusal(501, "NotImplemented")]
)
def test_a_page_of_a_prefix_that_fails_stops_the_job(monkeypatch, place, refusal):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3_listing, "KEYS_AT_ONCE", 5)
    lists = []

    def refuse(asked):
        if asked.key is None:
            lists.append(asked)
        return refusal if len(lists) > 4 and asked.key is None else None

    objects = {f"in/{i // 10}/{i:03}.jpg": b"x" for i in range(100)}
    with (
        small_s3(objects, refuse) as store,
        pytest.raises(StorageError, match=r"cannot be listed.*by the server \("),
    ):
        list_shards([f"s3://{BUCKET}/{place}"], store.settings)


def test_a_bucket_without_credentials_is_one_reason_and_what_to_set():
    said = listing._why(NoCredentialsError())
    assert said.startswith("no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ")
    assert "s3.anonymous" in said


# --- names ---


@pytest.mark.parametrize("place", ["in", "in/**", "in/**/*.jpg", "*"])
def test_keys_of_s3_stay_as_they_are(place):
    """On S3, `.`, `..` and empty parts are ordinary parts of a name."""
    names = ("a.jpg", "./a.jpg", "../a.jpg", "x/../a.jpg", "x//a.jpg", "/a.jpg", "..a/...jpg/b.jpg")
    names += ("a.jpg?versionId=1.jpg", "50%2F +&=ä.jpg", "a\\xff.jpg", "x/./y/.../a.jpg", "x/.h/a.jpg")
    hidden = {"..a/...jpg/b.jpg", "x/./y/.../a.jpg", "x/.h/a.jpg"}
    with small_s3({f"in/{name}": name.encode() for name in names}) as store:
        found = list_shards([f"s3://{BUCKET}/{place}"], store.settings)
        frames = list(read_shards(found, store.settings))
        assert {frame.source: frame.image for frame in frames} == {
            f"s3://{BUCKET}/in/{name}": name.encode() for name in names if name not in hidden
        }
        again = list(read_shards([shard_from_table(frame.source) for frame in frames], store.settings))
    assert [(frame.id, frame.image) for frame in again] == [(frame.id, frame.image) for frame in frames]


def test_names_that_are_not_utf8_and_the_text_of_their_escapes_stay_apart(tmp_path):
    chance = random.Random(0)
    parts = (b"\\", b"x", b"5", b"c", b"8", b"f", b"\xff", b"\xc3", b"\xa9", "é".encode(), b"\n", b"#2")
    names = {b"".join(chance.choices(parts, k=chance.randrange(1, 9))) for _ in range(800)}
    names |= {b"a\xff", b"a\\xff", b"a\\x5cxff", b"a\\x5c", b"a\\\\xff", b"\\\xff", b"\\x4"}
    for name in names:
        (tmp_path / os.fsdecode(name + b".jpg")).write_bytes(name)
    found = list_shards([str(tmp_path)], S3Settings())
    frames = list(read_shards(found, S3Settings()))
    assert len({frame.id for frame in frames}) == len(frames) == len(names)
    again = list(read_shards([shard_from_table(frame.source) for frame in frames], S3Settings()))
    assert {frame.image for frame in again} == names
    assert [(frame.id, frame.image) for frame in again] == [(frame.id, frame.image) for frame in frames]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain ä.jpg", "plain ä.jpg"),
        ("C:\\x.jpg", "C:\\x.jpg"),
        (b"caf\xe9.jpg", "caf\\xe9.jpg"),
        ("caf\\xe9.jpg", "caf\\x5cxe9.jpg"),
        ("caf\\xE9.jpg", "caf\\xE9.jpg"),
        (os.fsdecode(b"\xff\\xff"), "\\xff\\x5cxff"),
        ("half a letter \ud800", "half a letter \\xed\\xa0\\x80"),
    ],
)
def test_how_names_are_recorded(name, text):
    assert printable(name) == text


# --- skipped files ---


def test_skipped_files_are_named_if_there_is_nothing_else(tmp_path):
    for name in (
        "a.TXT",
        "b.txt",
        "c",
        "d.0001",
        "d.0002",
        ".e.txt",
        "f/g.json",
        "h.a b",
        "i.thirteenletters",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    counted = "skipped 4 (other), 2 .txt, 1 (no extension), 1 .json: "
    for place in (tmp_path, tmp_path / "*"):
        with pytest.raises(UsageError) as error:
            list_shards([str(place)], S3Settings())
        assert f"{place}: no frames here: {counted}" in str(error.value)
    (tmp_path / "a.jpg").write_bytes(b"x")
    others: set[str] = set()
    list_shards([str(tmp_path), f"{tmp_path}/*"], S3Settings(), passed_over=others)
    assert len(others) == 8 and f"{tmp_path}/f/g.json" in others


PICTURES = (
    "jpe jfif pjpeg pjp png apng webp gif bmp dib tif tiff mpo pbm pgm ppm pnm heic heif hif avif jp2 j2k "
    "j2c jpf jpx jxl"
)


@pytest.mark.parametrize("ending", PICTURES.split())
def test_every_ending_of_a_picture_is_known(ending):
    assert kind_of(f"a.{ending}") == kind_of(f"A.{ending.upper()}") == "picture"


def test_with_any_name_all_files_are_shards_and_those_in_folders_are_not_known_to_hold_frames(tmp_path):
    for name in ("a.jpg", "b", "c.txt", ".d"):
        (tmp_path / name).write_bytes(b"x")
    found = list_shards([str(tmp_path), str(tmp_path / "b")], S3Settings(), any_name=True)
    assert [(os.path.basename(shard.path), shard.kind, shard.known) for shard in found] == [
        ("a.jpg", "picture", True),
        ("b", "picture", True),
        ("c.txt", "picture", False),
    ]


@pytest.mark.parametrize("closed", ["status=scored", "_faceq"])
def test_a_part_of_a_table_that_may_not_be_listed_is_an_error_and_no_smaller_table(anywhere, closed):
    for name in ("_faceq/run-1.json", "status=scored/1-a.parquet", "status=no_face/1-a.parquet"):
        (anywhere / name).parent.mkdir(exist_ok=True)
        (anywhere / name).write_bytes(b"{}")
    table = Table(str(anywhere), S3Settings())
    assert len(table.row_files()) == 2 and table.exists()
    (anywhere / closed).chmod(0)
    with as_nobody(), pytest.raises(StorageError, match=f"{closed}: .*Permission denied"):
        table.row_files() if closed != "_faceq" else table.exists()
    (anywhere / closed).chmod(0o755)


def test_a_part_of_a_table_on_s3_that_cannot_be_listed_is_an_error(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    def refuse(asked):
        return Refusal(403, "AccessDenied") if asked.query.get("prefix") == "t/status=scored/" else None

    objects = {f"t/status={status}/1-a.parquet": b"x" for status in ("scored", "no_face")}
    with (
        small_s3(objects, refuse) as store,
        pytest.raises(StorageError, match="said by the server"),
    ):
        Table(f"s3://{BUCKET}/t", store.settings).row_files()
