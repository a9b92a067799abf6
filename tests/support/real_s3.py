"""A real S3 server on this machine: JuiceFS's gateway over a folder and SQLite."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import botocore.exceptions

BUCKET = "frames"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def real_s3(aws: dict[str, str], folder: Path) -> Iterator[str]:
    """Serve the objects in `folder` at the address and with the keys in `aws`. Returns the `s3://` URI of its
    bucket."""
    juicefs = str(Path(sys.executable).parent / "juicefs")
    volume = f"sqlite3://{folder}/meta.db"
    keys = {
        "MINIO_ROOT_USER": aws["AWS_ACCESS_KEY_ID"],
        "MINIO_ROOT_PASSWORD": aws["AWS_SECRET_ACCESS_KEY"],
    }
    made = [juicefs, "format", volume, "tests", "--storage", "file", "--bucket", f"{folder}/data/"]
    subprocess.run(made, check=True, capture_output=True)
    address = aws["AWS_ENDPOINT_URL"].removeprefix("http://")
    served = [juicefs, "gateway", "--multi-buckets", "--keep-etag", "--no-usage-report", volume, address]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(served, env={**os.environ, **keys}, stdout=log, stderr=log)
    try:
        _make_bucket(server, folder / "log")
        yield f"s3://{BUCKET}"
    finally:
        server.terminate()
        server.wait(30)


def _make_bucket(server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start: {log.read_text()[-2000:]}") from None
            time.sleep(0.3)
