"""Log messages of workers go to the census, but only while this is switched on."""

import logging
from types import SimpleNamespace

from faceq.job.telling import telling


def test_what_a_worker_logs_reaches_the_census_without_secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-this-worker")
    sent: list[tuple[int, str, str]] = []
    census = SimpleNamespace(say=SimpleNamespace(remote=lambda *record: sent.append(record)))
    own, log = logging.getLogger("faceq"), logging.getLogger("faceq.stages.scores")
    before = own.level, own.handlers[:]
    with telling(census):
        log.debug("too much")
        log.info("fetched %s", "it")
        log.warning("with of-this-worker")
        logging.getLogger("botocore").warning("not ours")
    log.warning("later")
    assert sent == [(20, log.name, "fetched it"), (30, log.name, "with ***")]
    assert (own.level, own.handlers[:]) == before
