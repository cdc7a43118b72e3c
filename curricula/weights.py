"""Draws in proportion to weights, one at a time, without replacement within a step; all O(log n)."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt


class SumTree:
    """Non-negative weights with their sums; set and search are O(log n). 16 to 32 bytes a weight.

    A parent is always left + right, never adjusted by a difference, so the sums depend on the weights
    alone and not on the order of their changes: a tree rebuilt from a checkpoint is bitwise the same.
    """

    def __init__(self, weights: npt.NDArray[np.float64]) -> None:
        """weights: [n], each >= 0. O(n)."""
        self._num_leaves = 1 << max(0, len(weights) - 1).bit_length()
        # Node 1 is the root, node i has children 2i and 2i + 1, leaf j is node num_leaves + j.
        sums = np.zeros(2 * self._num_leaves)
        sums[self._num_leaves : self._num_leaves + len(weights)] = weights
        first = self._num_leaves
        while first > 1:
            sums[first // 2 : first] = sums[first : 2 * first : 2] + sums[first + 1 : 2 * first : 2]
            first //= 2
        # One number of an `array` is read in a third of the time that one of a NumPy array takes.
        self._sums = array("d")
        self._sums.frombytes(sums.view(np.uint8).data)

    @property
    def total(self) -> float:
        """The sum of all weights."""
        return self._sums[1]

    def __getitem__(self, leaf: int) -> float:
        return self._sums[self._num_leaves + leaf]

    def __setitem__(self, leaf: int, weight: float) -> None:
        sums, node = self._sums, self._num_leaves + leaf
        sums[node] = weight
        while node > 1:
            node //= 2
            sums[node] = sums[2 * node] + sums[2 * node + 1]

    def search(self, share: float) -> int:
        """The leaf in which share (in [0, 1)) of the total falls; its weight is > 0. The total must be > 0."""
        sums, node, rest = self._sums, 1, share * self.total
        while node < self._num_leaves:
            node *= 2
            # Rounding may leave `rest` at the very end; never step into an empty half.
            if rest >= sums[node] and sums[node + 1] > 0.0:
                rest -= sums[node]
                node += 1
        return node - self._num_leaves


class WeightedDraws:
    """A sum tree whose drawn leaves stay out until the step ends: P(leaf) = weight / total of what is left."""

    def __init__(self, weights: npt.NDArray[np.float64]) -> None:
        self._tree = SumTree(weights)
        self._taken: dict[int, float] = {}

    @property
    def total(self) -> float:
        """The sum of the weights that can still be drawn in this step."""
        return self._tree.total

    def draw(self, share: float) -> int:
        """Take the leaf in which share (uniform in [0, 1)) falls. The total must be > 0."""
        leaf = self._tree.search(share)
        self.take(leaf)
        return leaf

    def take(self, leaf: int) -> None:
        """Out of this step's draws; nothing changes where it is already."""
        if leaf not in self._taken:
            self._taken[leaf] = self._tree[leaf]
            self._tree[leaf] = 0.0

    def put_back(self, leaf: int) -> None:
        """Undo `take`."""
        self._tree[leaf] = self._taken.pop(leaf)

    def taken(self) -> list[int]:
        """The leaves that are out of this step's draws."""
        return list(self._taken)

    def is_taken(self, leaf: int) -> bool:
        """Whether it is out of this step's draws."""
        return leaf in self._taken

    def set(self, leaf: int, weight: float) -> None:
        """A new weight; of a taken leaf it counts from the next step on."""
        if leaf in self._taken:
            self._taken[leaf] = weight
        else:
            self._tree[leaf] = weight

    def begin_step(self) -> None:
        """Put back all that was taken."""
        for leaf in self.taken():
            self.put_back(leaf)
