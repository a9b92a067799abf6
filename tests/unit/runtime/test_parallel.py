"""Functions in threads: order, limits, errors in their place, and interruption."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from faceq.runtime.parallel import in_threads


def test_results_keep_the_order_of_the_items() -> None:
    later = threading.Event()

    def function(number: int) -> int:
        if number == 0:
            assert later.wait(30)  # the first item ends after the second one
        later.set()
        return number * number

    assert list(in_threads(function, range(50), 2)) == [number * number for number in range(50)]
    assert list(in_threads(function, [], 2)) == []


def test_items_are_taken_only_as_their_results_are() -> None:
    taken = itertools.count()

    def items() -> Iterator[int]:
        while True:
            yield next(taken)

    results = in_threads(lambda number: number, items(), 3)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert next(taken) <= 10 + 2 * 3


def test_an_error_comes_in_its_place_and_ends_the_work() -> None:
    done = []

    def function(number: int) -> int:
        if number in {3, 4}:
            raise ValueError(f"item {number}")
        done.append(number)
        return number

    results = in_threads(function, itertools.count(), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item 3"):
        next(results)
    assert len(done) <= 3 + 2 * 2
    assert not [thread for thread in threading.enumerate() if "ThreadPoolExecutor" in thread.name]


def test_an_error_of_the_items_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("cannot be read")

    with pytest.raises(OSError, match="cannot be read"):
        list(in_threads(lambda number: number, items(), 2))
