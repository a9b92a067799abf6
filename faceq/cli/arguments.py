"""Kinds of arguments that several commands take."""

import argparse


def positive(text: str) -> int:
    """A number of the command line that counts something."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, not {text!r}")
    return number
