"""Only steps that take long are reported."""

import logging
import time

from faceq.job import slow_steps


def test_only_a_slow_step_is_named(monkeypatch, caplog):
    monkeypatch.setattr(slow_steps, "PATIENCE_S", 0.05)
    with caplog.at_level(logging.INFO, "faceq"):
        with slow_steps.named("quick"):
            pass
        with slow_steps.named("slow"):
            deadline = time.monotonic() + 5
            while not caplog.messages and time.monotonic() < deadline:
                time.sleep(0.01)
        time.sleep(0.1)
    assert caplog.messages == ["slow"]
