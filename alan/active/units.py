"""What is labelled at a time: single images, or all images of a patient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from alan.arrays import FloatArray, IntArray


class Units:
    """Images of a pool in the groups in which they are labelled.

    Args:
        groups: Name of the group of each image, such as its patient; None makes each of ``n`` images its own.
        n: Number of images.

    Attributes:
        of: (n,) unit of each image, numbered in the order of the first images.
    """

    def __init__(self, groups: Sequence[str] | None, n: int) -> None:
        numbers: dict[object, int] = {}
        names = range(n) if groups is None else groups
        self.of: IntArray = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)

    def __len__(self) -> int:
        return int(self.of.max()) + 1

    def mean(self, positions: IntArray, values: FloatArray) -> tuple[IntArray, FloatArray]:
        """Average values of images over each unit.

        Args:
            positions: (m,) images.
            values: (m, ...) their values.

        Returns:
            The units of the images, ascending, and the mean of each.
        """
        units, inverse, counts = np.unique(self.of[positions], return_inverse=True, return_counts=True)
        sums = np.zeros((len(units), *np.shape(values)[1:]))
        np.add.at(sums, inverse, values)
        return units, sums / counts.reshape(-1, *[1] * (sums.ndim - 1))

    def take(self, units: Iterable[int], wanted: int) -> list[int]:
        """Collect the images of units, in their order, until there are at least ``wanted``."""
        taken: list[int] = []
        for unit in units:
            if len(taken) >= wanted:
                break
            taken += np.flatnonzero(self.of == unit).tolist()
        return taken
