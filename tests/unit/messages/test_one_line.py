"""Errors in one line, as messages contain them."""

import doctest

from faceq.messages import one_line


def test_the_examples_hold():
    assert doctest.testmod(one_line).attempted == 3
    assert doctest.testmod(one_line).failed == 0


def test_an_os_error_without_a_number_keeps_its_words():
    """pyarrow raises such errors for damaged content."""
    assert one_line.one_line(OSError("Unexpected end of stream:\nPage was smaller")) == (
        "Unexpected end of stream: Page was smaller"
    )
