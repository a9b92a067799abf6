"""Downloads of models: resuming, proxies, mirrors, packs and licences."""

import dataclasses
import hashlib
import http.server
import io
import json
import logging
import os
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from model_files import arcface
from places import PHOTOS

import faceq
from faceq import config
from faceq.cli import main
from faceq.models import download
from faceq.models import zoo as models
from faceq.models.fetch import FetchOptions, fetch
from faceq.models.terms import LicenceError, accept_terms
from faceq.presets import PRESETS
from faceq.stages.chosen_models import fetch_options
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

CONTENT = bytes(range(256)) * 4000
HALF = len(CONTENT) // 2


class Server:
    """An HTTP server for CONTENT. `breaks`: number of truncated responses before complete ones. `ranges`:
    whether it supports range requests. `extra`: number of surplus bytes that it sends. asked: path and Range
    of each request."""

    def __init__(self) -> None:
        self.breaks = 0
        self.ranges = True
        self.extra = b""
        self.asked: list[tuple[str, str | None]] = []


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            made.asked.append((self.path, wanted))
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and made.ranges else 0
            body = CONTENT[start:] + made.extra
            self.send_response(206 if start else 200)
            self.end_headers()
            if made.breaks:
                made.breaks -= 1
                body = body[: HALF - start]
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        made.address = f"http://127.0.0.1:{running.server_port}"
        yield made
        running.shutdown()


@pytest.fixture
def probe(monkeypatch):
    """Add a model with CONTENT to the zoo, with the caller's sources and terms."""

    def add(*sources: str, name: str = "probe", **more) -> models.Model:
        digest = hashlib.sha256(CONTENT).hexdigest()
        entry = models.Model(name, "test", f"{name}.bin", digest, len(CONTENT), "Probe-1.0", sources, **more)
        monkeypatch.setitem(models.MODELS, name, entry)
        return entry

    return add


# --- HTTP -----------------------------------------------------------------------------------------


def test_an_interrupted_download_resumes(model_dir, probe, server):
    probe(f"{server.address}/probe.bin")
    server.breaks = 1
    with pytest.raises(
        models.ModelError, match=r"stopped after 512,000 of 1,024,000 bytes: the next download resumes"
    ):
        fetch("probe")
    assert fetch("probe").read_bytes() == CONTENT
    assert server.asked == [("/probe.bin", None), ("/probe.bin", f"bytes={HALF}-")]
    assert sorted(path.name for path in model_dir.iterdir()) == ["probe.bin", "probe.bin.lock"]


def test_another_source_resumes_it_too(model_dir, probe, server):
    probe(f"{server.address}/first", f"{server.address}/second")
    server.breaks = 1
    assert fetch("probe").read_bytes() == CONTENT
    assert server.asked == [("/first", None), ("/second", f"bytes={HALF}-")]


def test_a_server_without_ranges_sends_all_of_it_again(model_dir, probe, server):
    probe(f"{server.address}/probe.bin")
    server.breaks, server.ranges = 1, False
    with pytest.raises(models.ModelError):
        fetch("probe")
    assert fetch("probe").read_bytes() == CONTENT


def test_a_wrong_beginning_is_discarded(model_dir, probe, server):
    probe(f"{server.address}/probe.bin")
    part = model_dir / ".probe.bin.part" / "probe.bin"
    part.parent.mkdir(parents=True, mode=0o700)
    part.write_bytes(b"of another file" * 100)
    assert fetch("probe").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=1500-", None]


def _file(place, victim):
    place.write_bytes(b"of an older faceq, or of somebody else")


def _link(place, victim):
    place.symlink_to(victim)


def _link_to_folder(place, victim):
    place.symlink_to(victim.parent)


def _open_folder(place, victim):
    place.mkdir()
    place.chmod(0o777)
    (place / "probe.bin").symlink_to(victim)


@pytest.mark.parametrize("plant", [_file, _link, _link_to_folder, _open_folder])
def test_links_and_files_planted_in_the_cache_are_neither_followed_nor_used(
    model_dir, probe, server, tmp_path, plant
):
    probe(f"{server.address}/probe.bin")
    model_dir.mkdir()
    (tmp_path / "home").mkdir()
    victim = tmp_path / "home" / "probe.bin"
    victim.write_bytes(b"precious")
    plant(model_dir / ".probe.bin.part", victim)
    assert fetch("probe").read_bytes() == CONTENT
    assert victim.read_bytes() == b"precious" and os.listdir(victim.parent) == ["probe.bin"]
    assert [wanted for _, wanted in server.asked] == [None]


def test_a_partial_model_is_kept_in_a_private_folder(model_dir, probe, server):
    probe(f"{server.address}/probe.bin")
    server.breaks = 1
    with pytest.raises(models.ModelError):
        fetch("probe")
    (folder,) = model_dir.glob(".*.part")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / "probe.bin").stat().st_size == HALF


def test_a_licence_is_not_written_through_a_planted_link(model_dir, probe, server, tmp_path):
    probe(f"{server.address}/probe.bin", terms="For tests only.")
    model_dir.mkdir()
    (tmp_path / "victim").write_text("precious")
    for name in ("json", str(os.getpid())):
        (model_dir / f"accepted.{name}").symlink_to(tmp_path / "victim")
    accept_terms("probe", True)
    assert (tmp_path / "victim").read_text() == "precious"
    assert json.loads((model_dir / "accepted.json").read_text()).keys() == {"Probe-1.0"}


def test_surplus_bytes_are_refused(model_dir, probe, server):
    probe(f"{server.address}/probe.bin")
    server.extra = bytes(1000)
    with pytest.raises(models.ModelError, match=r"sends more than the expected 1,024,000 bytes"):
        fetch("probe")
    assert not (model_dir / "probe.bin").exists()


def test_a_proxy_is_used(model_dir, probe, server, monkeypatch):
    """The host does not exist, so only the proxy can answer."""
    probe("http://models.example/zoo/probe.bin")
    monkeypatch.setenv("HTTP_PROXY", server.address)
    monkeypatch.setenv("http_proxy", server.address)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert fetch("probe").read_bytes() == CONTENT
    assert server.asked == [("http://models.example/zoo/probe.bin", None)]


# --- mirrors --------------------------------------------------------------------------------------


def test_models_pulled_to_a_bucket_are_a_mirror_for_machines_without_internet(
    model_dir, probe, server, s3, tmp_path, monkeypatch, capsys, caplog
):
    probe(f"{server.address}/probe.bin")
    assert main.main(["models", "pull", "probe", "--to", f"{s3}/models"]) == 0
    assert f"copied to {s3}/models/probe.bin" in capsys.readouterr().out

    monkeypatch.setenv("FACEQ_CACHE", str(tmp_path / "elsewhere"))
    probe("http://127.0.0.1:9/probe.bin")
    (tmp_path / "job.yaml").write_text(f"model_mirrors: {s3}/models/\n")
    settings = config.load(str(tmp_path / "job.yaml"), {})
    caplog.set_level(logging.INFO, "faceq.models")
    assert fetch("probe", fetch_options(settings)).read_bytes() == CONTENT
    assert caplog.messages == [f"models: probe (Probe-1.0) from {s3}/models/probe.bin"]
    assert main.main(["models", "pull", "probe", "--config", str(tmp_path / "job.yaml")]) == 0


def test_mirrors_are_tried_in_order_and_may_be_wrong(model_dir, probe, server, tmp_path):
    entry = probe(f"{server.address}/probe.bin")
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / entry.file).write_bytes(b"something else")
    access = FetchOptions(mirrors=(str(tmp_path / "none"), str(tmp_path / "wrong"), f"{server.address}/m"))
    assert fetch("probe", access).read_bytes() == CONTENT
    assert server.asked == [("/m/probe.bin", None)]


def test_a_whole_preset_is_pulled_and_serves(model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("FACEQ_CACHE")
    folder = tmp_path / "mirror"
    assert main.main(["models", "pull", "--preset", "embedded", "--to", str(folder)]) == 0
    zoo = [models.get(name) for name in PRESETS["embedded"].models()]
    assert {path.name for path in folder.iterdir()} == {model.file for model in zoo}
    assert all(models.sha256(folder / model.file) == model.sha256 for model in zoo)


def test_a_place_that_cannot_be_written_is_wrong_usage(model_dir, probe, server, capsys):
    probe(f"{server.address}/probe.bin")
    assert main.main(["models", "pull", "probe", "--to", "/dev/null/models"]) == 2
    assert "cannot be copied to /dev/null/models" in capsys.readouterr().err


# --- packs ----------------------------------------------------------------------------------------


def packed(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


def put_pack(monkeypatch, folder: Path, content: bytes) -> models.Pack:
    folder.mkdir(exist_ok=True)
    (folder / "pack.zip").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    pack = models.Pack("pack.zip", digest, len(content), (f"file://{folder}/pack.zip",))
    monkeypatch.setitem(models.PACKS, "pack", pack)
    return pack


@pytest.mark.parametrize("inside", ["", "pack/"])
def test_a_pack_is_fetched_once_for_all_its_models(model_dir, probe, tmp_path, monkeypatch, inside):
    names = ("one", "two")
    put_pack(monkeypatch, tmp_path / "o", packed({f"{inside}{name}.bin": CONTENT for name in names}))
    for name in names:
        probe(f"pack:pack!{name}.bin", name=name)
    assert fetch("one").read_bytes() == CONTENT
    (tmp_path / "o" / "pack.zip").unlink()
    assert fetch("two").read_bytes() == CONTENT
    assert {path.name for path in model_dir.iterdir() if path.suffix != ".lock"} == {"one.bin", "two.bin"}


def test_a_pack_of_other_content_is_not_opened(model_dir, probe, tmp_path, monkeypatch):
    pack = put_pack(monkeypatch, tmp_path / "o", packed({"probe.bin": CONTENT}))
    monkeypatch.setitem(models.PACKS, "pack", dataclasses.replace(pack, sha256="0" * 64))
    probe("pack:pack!probe.bin")
    with pytest.raises(models.ModelError, match="expected 0000"):
        fetch("probe")
    assert not [path for path in model_dir.iterdir() if path.suffix != ".lock"]


def test_a_model_with_a_wrong_byte_in_its_pack_is_refused(model_dir, probe, tmp_path, monkeypatch):
    put_pack(monkeypatch, tmp_path / "o", packed({"probe.bin": CONTENT[:-1] + b"x"}))
    probe("pack:pack!probe.bin")
    with pytest.raises(models.ModelError, match=r"probe.bin in pack.zip: sha256 is .*, expected"):
        fetch("probe")


def linked() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        link = zipfile.ZipInfo("probe.bin")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    return content.getvalue()


def encrypted() -> bytes:
    """Set the encryption flag in the central directory."""
    content = bytearray(packed({"probe.bin": CONTENT}))
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def twice() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("probe.bin", CONTENT)
        archive.writestr("pack/probe.bin", CONTENT)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            packed({"probe.bin": CONTENT, "../../evil.bin": b"x"}),
            r"contains '../../evil.bin', a path outside the archive",
        ),
        (packed({"probe.bin": CONTENT, "/evil.bin": b"x"}), "outside the archive: not extracted"),
        (packed({"probe.bin": CONTENT, "..\\evil.bin": b"x"}), "outside the archive: not extracted"),
        (packed({"probe.bin": bytes(100_000_000)}), "contains more than the expected 1,024,000 bytes"),
        (linked(), "probe.bin is not a regular file"),
        (encrypted(), "probe.bin is encrypted"),
        (twice(), "contains 2 files named probe.bin, expected one"),
        (packed({"other.bin": CONTENT}), "contains 0 files named probe.bin, expected one"),
        (b"no zip at all", "is not a complete zip file"),
        (packed({"probe.bin": CONTENT})[:-30], "is not a complete zip file"),
    ],
)
def test_a_hostile_archive_writes_nothing(tmp_path, content, said):
    (tmp_path / "in").mkdir()
    archive = tmp_path / "in" / "pack.zip"
    archive.write_bytes(content)
    with pytest.raises(download.DownloadError, match=said):
        download.unpack(archive, "probe.bin", tmp_path / "in" / "out.bin", len(CONTENT))
    assert {path.name for path in (tmp_path / "in").iterdir()} <= {"pack.zip", "out.bin"}
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    written = tmp_path / "in" / "out.bin"
    assert not written.exists() or written.stat().st_size <= len(CONTENT)


# --- terms ----------------------------------------------------------------------------------------


@pytest.fixture
def restricted(model_dir, monkeypatch, tmp_path) -> str:
    """A recogniser in the zoo with its own licence terms, in its own model cache."""
    path = arcface(tmp_path / "restricted.onnx")
    known = models.Recogniser(models.PUBLISHED, dropout=0.5)
    entry = models.Model(
        "restricted", "test", path.name, models.sha256(path), path.stat().st_size, "Probe-NC",
        (f"file://{path}",), recogniser=known, terms="For tests only.",
    )  # fmt: skip
    monkeypatch.setitem(models.MODELS, "restricted", entry)
    for name in ("yunet", "facemesh"):  # these have no terms: use the cached files
        model = models.get(name)
        monkeypatch.delenv("FACEQ_CACHE")
        kept = fetch(name)
        monkeypatch.setenv("FACEQ_CACHE", str(model_dir))
        model_dir.mkdir(exist_ok=True)
        (model_dir / model.file).write_bytes(kept.read_bytes())
    return "restricted"


def test_terms_are_shown_and_nothing_is_fetched_until_they_are_accepted(
    restricted, model_dir, tmp_path, capsys
):
    command = ["inspect", str(PHOTOS / "t1.jpg"), "--recogniser", restricted, "--json"]
    assert main.main(command) == 2
    message = capsys.readouterr().err
    assert "Probe-NC" in message and "For tests only." in message and "--accept-licence" in message
    assert not (model_dir / "restricted.onnx").exists()

    assert main.main([*command, "--accept-licence"]) == 0
    said = capsys.readouterr()
    assert "restricted: terms accepted (Probe-NC): For tests only." in said.err
    assert json.loads(said.out)["serfiq"] is not None  # only the requested output
    # Terms that were accepted once are not asked for again.
    assert main.main(command) == 0
    assert "terms" not in capsys.readouterr().err


def test_a_job_records_what_was_accepted_by_its_configuration(light_job, tmp_path, monkeypatch):
    """The driver checks once for all nodes. The run record lists the accepted licences."""
    terms = {"terms": "For tests only.", "licence": "Probe-NC"}
    monkeypatch.setitem(models.MODELS, "yunet", dataclasses.replace(models.get("yunet"), **terms))
    monkeypatch.setattr("faceq.models.terms._acceptances", lambda: tmp_path / "accepted.json")
    out = str(tmp_path / "table")
    command = ["score", str(PHOTOS / "t1.jpg"), "--out", out]
    assert main.main(command) == 2
    assert not Path(out).exists()
    (tmp_path / "job.yaml").write_text("accept_licence: true\n")
    assert main.main([*command, "--config", str(tmp_path / "job.yaml")]) == 0
    (run,) = Table(out, S3Settings()).runs()
    assert run["accepted"] == {"yunet": "Probe-NC"}
    assert run["config"]["accept_licence"] is True
    assert run["models"]["yunet"]["licence"] == "Probe-NC"


def test_models_without_such_terms_ask_for_nothing(model_dir, probe, server, capsys):
    probe(f"{server.address}/probe.bin")
    assert main.main(["models", "pull", "probe"]) == 0
    assert "probe (Probe-1.0) from" in capsys.readouterr().err
    assert not (model_dir / "accepted.json").exists()


def test_presets_of_restricted_models_are_refused_before_anything_is_done(model_dir, tmp_path, capsys):
    for preset in ("insightface", "cafi"):
        assert main.main(["score", str(PHOTOS), "--out", str(tmp_path / "t"), "--preset", preset]) == 2
        assert "The pretrained models of InsightFace are available" in capsys.readouterr().err
    with pytest.raises(LicenceError, match="non-commercial research"):
        faceq.score_images([b""], preset="insightface")
    assert not (tmp_path / "t").exists() and not model_dir.exists()
