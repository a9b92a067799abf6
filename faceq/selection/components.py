"""Connected components of a graph whose edges arrive in parts."""

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph

_EDGES_AT_ONCE = 1 << 22


class Components:
    """The connected components of N nodes. Edges are not kept: memory depends on the number of nodes."""

    def __init__(self, count: int):
        self._labels = np.arange(count)
        self._waiting: list[np.ndarray] = []
        self._size = 0

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Add edges between nodes, (P,) int64 each."""
        self._waiting.append(np.stack([first, second]))
        self._size += len(first)
        if self._size >= _EDGES_AT_ONCE:
            self._settle()

    def labels(self) -> np.ndarray:
        """(N,) int64, for each node the smallest node of its component."""
        self._settle()
        return self._labels

    def _settle(self) -> None:
        if not self._size:
            return
        first, second = self._labels[np.concatenate(self._waiting, axis=1)]
        count = len(self._labels)
        graph = scipy.sparse.coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
        _, merged = scipy.sparse.csgraph.connected_components(graph, directed=False)
        smallest = np.full(count, count)
        np.minimum.at(smallest, merged, np.arange(count))
        self._labels = smallest[merged][self._labels]
        self._waiting, self._size = [], 0
