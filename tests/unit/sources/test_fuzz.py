"""Reading of a few hundred mutated inputs. `tests/drills/test_fuzz_at_length.py` reads thousands."""

import pytest
from fuzz import KINDS, read_mutated


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_inputs_never_stop_a_reader(kind):
    found = read_mutated(kind, 60)
    # The mutations are neither too weak nor too strong for a meaningful test.
    assert found["readable"] > 3
    assert found.get("unreadable", 0) + found.get("broken", 0) > 3
