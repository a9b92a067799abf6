"""The promises of faceq, on every store: what the table of stores in docs/how-to/stores.md says.

`tests/drills/test_store_drills.py` kills jobs and runs them on faulty servers.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import stores
from faulty_s3 import each_in_turn
from hub import hub
from places import ROOT
from stores import FRAMES, Place
from web import web

from faceq import config, read_table
from faceq.errors import StorageError, UsageError
from faceq.job import graph, pipeline
from faceq.models import download
from faceq.query.export import export
from faceq.query.rows import Rows
from faceq.query.shard_export import Selection, export_shards
from faceq.report import page
from faceq.sources import read_shards
from faceq.sources.frame import Frame
from faceq.sources.listing import list_shards
from faceq.storage import http_requests
from faceq.storage.filesystem import filesystem, path_of
from faceq.storage.outputs import check_output
from faceq.storage.settings import S3Settings
from faceq.table import lock
from faceq.table.runs import Run, new_run_id
from faceq.table.schema import SCHEMA
from faceq.table.store import Table

S3 = S3Settings()
ALL = ("disk", "s3", "gcs", "azure", "hub", "web")
WRITABLE = ("disk", "s3", "gcs", "azure")
FAILING = ("s3", "gcs", "azure", "hub")
"""Those whose `Place` has faults. Disks have none of these; test_http.py has those of web servers."""

on_writable = pytest.mark.parametrize("place", WRITABLE, indirect=True)
on_failing = pytest.mark.parametrize("place", FAILING, indirect=True)


@pytest.fixture(scope="module")
def shards() -> dict[str, bytes]:
    return stores.frames()


@pytest.fixture(scope="module", params=ALL)
def place(request: pytest.FixtureRequest, tmp_path_factory, shards) -> Iterator[Place]:
    """Each store, with the frames in its folder `in`."""
    if request.param == "hub":
        with hub(request.getfixturevalue("other_stores")["hub"]) as server:
            yield with_frames(stores.hub_place(server), shards)
        return
    if request.param == "web":
        with web({}) as server:
            yield with_frames(stores.web_place(server), shards)
        return
    make = {"s3": stores.s3_place, "gcs": stores.gcs_place, "azure": stores.azure_place}
    if request.param == "disk":
        found = stores.disk(tmp_path_factory.mktemp("disk"))
    else:
        found = make[request.param](request.getfixturevalue(request.param))
    yield with_frames(found, shards)


def with_frames(place: Place, shards: dict[str, bytes]) -> Place:
    for name, data in shards.items():
        place.put(f"in/{name}", data)
    return place


def read(place: Place, shards: dict[str, bytes], tmp_path: Path, s3: S3Settings = S3) -> list[Frame]:
    """All frames, with sources relative to the store."""
    where = place.inputs("in", list(shards), tmp_path)
    found = list_shards(where.get("input", []), s3, where.get("manifest", []))
    return [replace(frame, source=frame.source.removeprefix(place.uri)) for frame in read_shards(found, s3)]


def test_the_table_in_the_docs_has_what_is_tested_for_each_store(place):
    page = (ROOT / "docs" / "how-to" / "stores.md").read_text()
    table = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    (head,) = (number for number, cells in enumerate(table) if cells[-1] == "`https://`")
    said = [cells[1 + ALL.index(place.name)] == "yes" for cells in table[head + 1 : head + 7]]
    assert place.writes == (place.name in WRITABLE) and (place.faulty is not None) == (place.name in FAILING)
    failing = place.name in (*FAILING, "web")  # test_http.py
    assert said == [True, place.lists, *3 * [place.writes], failing]


# --- reading ---


def test_frames_are_those_of_the_disk(place, shards, tmp_path):
    on_disk = with_frames(stores.disk(tmp_path / "same"), shards)
    frames = read(place, shards, tmp_path)
    assert len(frames) == FRAMES and frames == read(on_disk, shards, tmp_path)


def test_names_are_recorded_unchanged(place, tmp_path):
    names = ["50% of it.jpg", "a+b=c&d.jpg", "日本/😀.jpg"] if place.lists else ["a+b=c&d.jpg", "~(1).jpg"]
    if place.name in ("gcs", "azure"):  # disks and the server of S3 have no such names
        names.append("copies/https://example.com/a.jpg")
    for name in names:
        place.put(f"names/{name}", name.encode())
    if place.lists:
        place.put("names/.hidden/x.jpg", b"x")
        place.put("names-not/x.jpg", b"x")
    where = place.inputs("names", names, tmp_path)
    frames = list(read_shards(list_shards(where.get("input", []), S3, where.get("manifest", [])), S3))
    assert {frame.source: frame.image for frame in frames} == {
        f"{place.uri}/names/{name}": name.encode() for name in names
    }
    for name in names:
        (shard,) = list_shards([f"{place.uri}/names/{name}"], S3)
        assert shard.source == f"{place.uri}/names/{name}"


def test_a_glob_and_a_file_are_inputs(place):
    if place.lists:
        found = list_shards([f"{place.uri}/in/*.tar", f"{place.uri}/in/rows.parquet"], S3)
        assert [shard.source.rpartition("/")[2] for shard in found] == ["0.tar", "1.tar", "rows.parquet"]
        with pytest.raises(UsageError, match="no file matches"):
            list_shards([f"{place.uri}/in/*.webp"], S3)
    else:
        (shard,) = list_shards([f"{place.uri}/in/0.tar"], S3)
        assert shard.kind == "tar"
        with pytest.raises(UsageError, match="lists no folders"):
            list_shards([f"{place.uri}/in/*.tar"], S3)


def test_a_manifest_names_files_relative_to_itself(place):
    place.put("lists/m.csv", b"uri,size\n../in/0.tar,\nnot-there.jpg,12\n")
    *frames, lost = read_shards(list_shards([], S3, [f"{place.uri}/lists/m.csv"]), S3)
    assert len(frames) == 50 and frames[0].source == f"{place.uri}/in/0.tar"
    assert lost.unseen and lost.error.startswith("not found: there is no such file or object")


def test_a_model_mirror_may_be_there(place, tmp_path):
    place.put("models/m.onnx", b"weights")
    download.download(f"{place.uri}/models/m.onnx", tmp_path / "m.onnx", 7)
    assert (tmp_path / "m.onnx").read_bytes() == b"weights"
    if place.writes:
        assert download.upload(tmp_path / "m.onnx", f"{place.uri}/copies", S3) == f"{place.uri}/copies/m.onnx"
        assert filesystem(place.uri, S3).cat_file(path_of(f"{place.uri}/copies/m.onnx")) == b"weights"


# --- errors ---


def test_what_is_missing_is_wrong_usage(place):
    with pytest.raises(UsageError, match="there is no such file"):
        list_shards([f"{place.uri}/not-there.jpg"], S3)
    if place.lists and place.name != "disk":
        with pytest.raises(UsageError, match="there is no such file, folder or bucket"):
            list_shards([place.uri.replace("frames", "other").replace("/faceq/", "/other/") + "/in"], S3)
        with pytest.raises(UsageError, match="there is no faceq table here"):
            Rows(f"{place.uri}/in", S3)


@on_failing
def test_a_refused_read_is_a_row_and_a_refused_listing_is_an_error(place, shards, tmp_path):
    def choose(method: str, path: str) -> str | None:
        return "forbidden" if "150.jpg" in path else None

    with place.faulty(choose) as (s3, met):
        frames = read(place, shards, tmp_path, s3)
    (refused,) = (frame for frame in frames if frame.error)
    assert refused.source == "/in/150.jpg" and refused.refused and len(frames) == FRAMES
    assert refused.error.startswith("access denied: ") and met["forbidden"]

    with (
        place.faulty(lambda method, path: "forbidden") as (s3, _),
        pytest.raises(StorageError, match=r"in: cannot be listed: .*enied"),
    ):
        list_shards([f"{place.uri}/in"], s3)


@on_failing
def test_an_outage_is_neither_a_missing_file_nor_an_empty_folder(place, monkeypatch):
    monkeypatch.setattr(http_requests, "_FIRST_PAUSE_S", 0.01)
    with place.faulty(lambda method, path: "slow_down") as (s3, _):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        for uri in (f"{place.uri}/in", f"{place.uri}/in/*.tar", f"{place.uri}/in/0.tar"):
            with pytest.raises(StorageError, match="busy or down"):
                list_shards([uri], s3)
        table = Table(f"{place.uri}/outage", s3)
        with pytest.raises(StorageError, match="busy or down"):
            table.exists()


@on_failing
@pytest.mark.parametrize("fault", ["truncate", "reset", "slow_down", "lost"])
def test_frames_are_the_same_if_every_first_response_fails(fault, place, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(http_requests, "_FIRST_PAUSE_S", 0.05)
    undisturbed = read(place, shards, tmp_path)
    with place.faulty(each_in_turn(fault)) as (s3, met):
        assert read(place, shards, tmp_path, s3) == undisturbed
    assert met[fault] >= len(shards)


# --- writing ---


@on_writable
def test_a_file_appears_when_it_is_complete(place):
    files, path = filesystem(place.uri, S3), path_of(f"{place.uri}/atomic/large")
    for finish in ("discard", "close"):
        file = files.open(path, "wb")
        for _ in range(12):
            file.write(bytes(1 << 20))
        files.invalidate_cache()
        assert not files.exists(path)
        getattr(file, finish)()
    files.invalidate_cache()
    assert files.info(path)["size"] == 12 << 20


def test_a_read_only_store_is_no_output(place):
    if place.writes:
        check_output(f"{place.uri}/out.csv", S3)
        return
    with pytest.raises(UsageError, match="faceq only reads"):
        check_output(f"{place.uri}/out.csv", S3)
    with pytest.raises(UsageError, match="faceq only reads"):
        pipeline.score(config.build({"input": [f"{place.uri}/in/0.tar"], "out": f"{place.uri}/table"}))


@on_writable
def test_one_job_at_a_time_gets_the_lock(place, monkeypatch):
    """Several start at once: one holds the lock, the others say who does."""
    monkeypatch.setattr(lock, "_POLL_S", 0.05)
    held: list[str] = []
    refused: list[str] = []
    start, end = threading.Barrier(5), threading.Event()

    def compete() -> None:
        table = Table(f"{place.uri}/lock", S3)
        run = Run(new_run_id(), "0", [], {}, {}, "now", owner=lock.owner())
        start.wait()
        try:
            with lock.exclusive(table, run):
                held.append(run.run_id)
                end.wait(60)
        except UsageError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=compete) for _ in range(5)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(held) + len(refused) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    end.set()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refused) == 4
    assert all("another job is writing here" in said for said in refused)


@pytest.fixture(scope="module")
def expected(local_ray: None, shards, tmp_path_factory) -> list[dict[str, Any]]:
    """The rows of a job on disks."""
    folder = tmp_path_factory.mktemp("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "FiqStage", stand_ins.FiqStage)
        patch.setattr(graph, "QualityStage", stand_ins.QualityStage)
        on_disk = with_frames(stores.disk(folder / "place"), shards)
        settings = config.build({"input": [f"{on_disk.uri}/in"], "out": f"{on_disk.uri}/table"})
        pipeline.score(settings)
    return rows_of(f"{on_disk.uri}/table", on_disk)


def rows_of(table: str, place: Place) -> list[dict[str, Any]]:
    """All rows, with sources relative to the store, sorted."""
    rows = Table(table, S3).rows(SCHEMA.names).to_pylist()
    for row in rows:
        row["source"] = row["source"].removeprefix(place.uri)
        del row["run_id"], row["frame_id"]
    return sorted(rows, key=lambda row: (row["source"], row["member"] or ""))


def test_a_job_writes_equal_rows_and_resumes(place, shards, expected, light_job, tmp_path):
    """And everything that reads tables reads this one."""
    out = f"{place.uri}/table" if place.writes else str(tmp_path / "table")
    settings = config.build({**place.inputs("in", list(shards), tmp_path), "out": out})
    summary = pipeline.score(settings)
    assert (summary.run.frames, summary.run.rows) == (FRAMES, FRAMES)
    assert rows_of(out, place) == expected
    again = pipeline.score(settings)
    assert (again.run.frames, again.run.already_done) == (0, FRAMES)

    scored = read_table(out, where="status = 'scored'")
    assert scored.num_rows == sum(row["status"] == "scored" for row in expected) > 0
    assert "<html" in page.build(out, S3, with_pictures=True)

    if not place.writes:
        if place.lists:
            for path in Path(out).rglob("*.*"):
                place.put(f"table/{path.relative_to(out)}", path.read_bytes())
            assert read_table(f"{place.uri}/table", where="status = 'scored'").equals(scored)
        return
    base = f"{place.uri}/made"
    place.put("made/list.txt", b"a file")  # a folder on disks must exist
    with Rows(out, S3) as rows:
        assert export(rows, rows.chosen(), f"{base}/rows.parquet", S3) == FRAMES
        chosen = Selection(where="status = 'scored'", limit=7)
        assert export_shards(rows, chosen, f"{base}/frames", S3).written == 7
    assert len(list(read_shards(list_shards([f"{base}/frames"], S3), S3))) == 7


@pytest.mark.parametrize("place", ["web"], indirect=True)
def test_a_query_says_that_there_is_no_table(place):
    with pytest.raises(UsageError, match="lists no folders"):
        read_table(f"{place.uri}/table")


@on_writable
def test_records_are_json_as_they_were_written(place):
    table = Table(f"{place.uri}/records", S3)
    table.put_record({"run_id": "r", "state": "ended", "input": ["日本"]})
    text = filesystem(place.uri, S3).cat_file(f"{table.path}/_faceq/run-r.json")
    assert json.loads(text)["input"] == ["日本"] and table.exists()
