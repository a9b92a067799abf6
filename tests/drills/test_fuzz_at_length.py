"""13,000 mutated inputs: the readers do not crash or hang, use bounded memory, and always give a result."""

import pytest
from fuzz import KINDS, read_mutated

COUNTS = {"jpeg": 2000, "png": 1500, "webp": 1500, "tar": 2000, "parquet": 2000}


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_inputs_never_stop_a_reader(kind):
    found = read_mutated(kind, COUNTS.get(kind, 1000))
    # The mutations are neither too weak nor too strong for a meaningful test.
    assert found["readable"] > 50
    assert found.get("unreadable", 0) + found.get("broken", 0) > 100
