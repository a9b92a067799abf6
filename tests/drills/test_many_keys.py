"""Listing and grouping of millions of S3 keys.

Ten million keys take about five minutes of one CPU, and as much of another CPU for the server. Ray is not
started: in the driver of a job, only the read tasks are added, which hold these shards. `test_kills.py` runs
a job with a million images.
"""

import subprocess
import sys
import time

import pytest
from many_keys import BUCKET, many_keys
from places import ROOT

from faceq.sources.listing import MAX_READ_TASKS

pytestmark = pytest.mark.timeout(3600)

_LISTS = """
import resource, sys, time
from faceq.storage.settings import S3Settings
from faceq.sources.listing import group, list_shards
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
groups = group(list_shards(sys.argv[1:2], S3Settings(endpoint_url=sys.argv[2])))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(len(groups), sum(map(len, groups)), grown, time.process_time())
"""


def test_millions_of_keys_take_450_bytes_each(aws, full):
    count = 10_000_000 if full else 1_000_000
    started = time.monotonic()
    with many_keys(count) as s3:
        command = [sys.executable, "-c", _LISTS, f"s3://{BUCKET}/faces", s3.endpoint_url]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    tasks, keys, kilobytes, cpu = map(float, done.stdout.split())
    print(
        f"\n{keys:,.0f} keys: {time.monotonic() - started:.0f} s, {cpu:.0f} s of CPU, "
        f"{kilobytes / 1024:,.0f} MiB, {kilobytes * 1024 / keys:.0f} bytes a key"
    )
    assert (tasks, keys) == (MAX_READ_TASKS, count)
    assert kilobytes * 1024 / keys < 450
