"""What a job that continues a table says first."""

import logging

import numpy as np
import pytest

from faceq import config
from faceq.job import pipeline
from faceq.job.resume import Rest
from faceq.sources.listing import Shard

IMAGE = Shard("a.jpg", "a.jpg", "picture", 1)
TAR = Shard("b.tar", "b.tar", "tar", 1)


def rest(shards: list[Shard], already: int = 0, partly: int = 0, done: int = 0, again: int = 0) -> Rest:
    ids = np.arange(done), np.arange(again)
    return Rest(shards, already, {"b.tar": partly} if partly else {}, *ids, set(), {}, [])


@pytest.mark.parametrize(
    ("left", "values", "said"),
    [
        (rest([IMAGE] * 30), {}, []),
        (rest([IMAGE] * 30, already=1200), {}, ["resuming: 1,200 of 1,230 frames already done"]),
        (rest([IMAGE, TAR], already=1200, partly=64), {}, ["resuming: 1,264 frames already done"]),
        (rest([TAR], done=12), {"limit": 50}, ["resuming: 12 frames already done"]),
        (
            rest([IMAGE] * 3, already=5, again=2),
            {"fiq_threshold": 0.2},
            [
                "--fiq-threshold 0.2 is lower than in an earlier run: 2 frames with a serfiq in between are "
                "scored again, so that they get a dbcnn",
                "resuming: 5 of 8 frames already done",
            ],
        ),
    ],
)
def test_it_says_how_many_frames_are_done(left, values, said, caplog):
    with caplog.at_level(logging.INFO, "faceq"):
        pipeline._log_rest(left, config.build({"input": ["in"], "out": "out", **values}))
    assert caplog.messages == said
