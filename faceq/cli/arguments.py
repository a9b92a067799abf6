"""Types of arguments that several commands use."""

import argparse


def positive(text: str) -> int:
    """A whole number of 1 or more from the command line."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, not {text!r}")
    return number
