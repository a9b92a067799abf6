"""Whole jobs that are given secrets leave none of them behind, not even in Ray's logs."""

import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from places import PHOTOS
from planted import KEYS, PLANTED, SIGNED
from small_s3 import BUCKET, Refusal, small_s3

from faceq.models.cache import cache_dir
from faceq.models.fetch import fetch


@pytest.fixture
def mirror() -> Iterator[str]:
    """Start a model mirror that requires a password. Returns its address with the password."""
    cached = cache_dir()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            file = cached / os.path.basename(self.path)
            known = "Authorization" in self.headers and file.is_file()
            body = file.read_bytes() if known else b""
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    for name in ("yunet", "sface", "facemesh"):
        fetch(name)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://user:{PLANTED}@127.0.0.1:{running.server_port}/zoo"
        running.shutdown()


def _settings(folder: Path, text: str) -> Path:
    (folder / "job.yaml").write_text(text)
    return folder / "job.yaml"


@pytest.fixture
def rays() -> Iterator[Path]:
    """Ray's temporary folder, with its logs. Its name is short because Ray creates sockets there."""
    folder = Path(tempfile.mkdtemp(prefix="fq"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def faceq(folder: Path, rays: Path, *arguments: str) -> int:
    """Run a command with all secrets in its environment. Its output goes to a file in the folder."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    there = {"FACEQ_CACHE": str(folder / "cache"), "RAY_TMPDIR": str(rays), "AWS_REGION": "us-east-1"}
    command = [sys.executable, "-m", "faceq", *arguments]
    done = subprocess.run(command, env={**kept, **KEYS, **there}, capture_output=True, check=False)
    (folder / f"printed-{len(list(folder.glob('printed-*')))}").write_bytes(done.stdout + done.stderr)
    return done.returncode


def found_in(*folders: Path) -> list[str]:
    """Files below the folders that contain a secret. Parquet files are also searched decoded. Excludes
    settings files, which the user wrote."""
    found = []
    for path in (each for folder in folders for each in folder.rglob("*") if each.is_file()):
        text = path.read_bytes()
        if path.suffix == ".parquet":
            stored = pq.ParquetFile(path)
            text += str((stored.read().to_pylist(), stored.schema_arrow.metadata)).encode()
        if PLANTED.encode() in text and path.suffix != ".yaml":
            found.append(str(path))
    return found


def test_a_job_leaves_no_secret_behind(tmp_path, mirror, rays):
    """The job reads from a store that needs a password. One response of the store contains a secret."""
    picture = (PHOTOS / "Tom_Hanks_54745.png").read_bytes()
    answer = f"sign http://user:{PLANTED}@h/?{SIGNED} with {KEYS['AWS_SECRET_ACCESS_KEY']}".replace(
        "&", "&amp;"
    )

    def refuse(asked):
        return Refusal(403, "AccessDenied", answer) if asked.key == "in/no.jpg" else None

    with small_s3({"in/a.png": picture, "in/no.jpg": picture}, refuse) as s3:
        endpoint = s3.settings.endpoint_url.replace("//", f"//user:{PLANTED}@")
        settings = (
            f"s3: {{endpoint_url: '{endpoint}', anonymous: true}}\nmodel_mirrors: ['{mirror}']\nnum_cpus: 2\n"
        )
        told = ["--config", str(_settings(tmp_path, settings))]
        table = str(tmp_path / "table")
        assert faceq(tmp_path, rays, "score", f"s3://{BUCKET}/in", "--out", table, *told) == 0
        report = str(tmp_path / "report.html")
        assert faceq(tmp_path, rays, "report", table, "--out", report, *told) == 0
        rows = str(tmp_path / "rows.csv")
        assert faceq(tmp_path, rays, "query", table, "--export", rows) == 0
    assert (tmp_path / "cache").is_dir() and any(rays.rglob("*.log"))
    assert found_in(tmp_path, rays) == []
    assert "sign http://***@h/?*** with ***" in (tmp_path / "rows.csv").read_text()
    printed = (tmp_path / "printed-0").read_text()
    assert "models: yunet (MIT) from http://***@127.0.0.1:" in printed
    (record,) = (tmp_path / "table" / "_faceq").glob("run-*.json")
    assert "http://***@127.0.0.1:" in record.read_text()


def test_a_stopped_job_leaves_no_secret_behind(tmp_path, mirror, rays):
    """Workers report the reason to Ray, and Ray writes it to its logs."""
    answer = f"https://host/?{SIGNED} of {KEYS['AWS_SESSION_TOKEN']}".replace("&", "&amp;")
    objects = {f"in/{number}.jpg": b"of no matter" for number in range(12)}

    def refuse(asked):
        return Refusal(403, "AccessDenied", answer) if asked.key in objects else None

    with small_s3(objects, refuse) as s3:
        endpoint = s3.settings.endpoint_url.replace("//", f"//user:{PLANTED}@")
        settings = (
            f"s3: {{endpoint_url: '{endpoint}', anonymous: true}}\nmodel_mirrors: ['{mirror}']\nnum_cpus: 2\n"
        )
        told = ["--config", str(_settings(tmp_path, settings))]
        status = faceq(tmp_path, rays, "score", f"s3://{BUCKET}/in", "--out", str(tmp_path / "t"), *told)
    printed = (tmp_path / "printed-0").read_text()
    assert status == 1 and "https://host/?*** of ***" in printed.splitlines()[-1], printed[-2000:]
    assert found_in(tmp_path, rays) == []
