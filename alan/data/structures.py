"""Which structures a network tells apart: names, unions of names, and label maps in their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from alan.data.sample import ByteArray
from alan.data.store.reader import FrameStore
from alan.errors import DataError, ParameterError


def parts(structure: str) -> tuple[str, ...]:
    """Names that a structure joins: ``lv+myo`` is the left ventricle with its wall."""
    return tuple(structure.split("+"))


def check_structures(structures: Sequence[str]) -> tuple[str, ...]:
    """Refuse structures that a network could not tell apart.

    Args:
        structures: one name for binary segmentation, several for one class each beside the background.

    Raises:
        ParameterError: none is given, a name is empty, or one stands in two of them.
    """
    if not structures:
        raise ParameterError("structures is empty: give at least one, for example [lv]")
    seen: set[str] = set()
    for structure in structures:
        for name in parts(structure):
            if not name:
                raise ParameterError(f"structure {structure!r} has an empty name; unions are written lv+myo")
            if name in seen:
                raise ParameterError(f"structure {name!r} is given twice in {', '.join(structures)}")
            seen.add(name)
    return tuple(structures)


def n_classes(structures: Sequence[str]) -> int:
    """Channels of the logits: 1 for one structure, else one more than there are structures."""
    return 1 if len(structures) == 1 else len(structures) + 1


def check_store(store: FrameStore, structures: Sequence[str]) -> None:
    """Refuse structures that a store does not annotate.

    Raises:
        DataError: names the structure and what the store holds.
    """
    for structure in structures:
        for name in parts(structure):
            if name not in store.structures:
                held = ", ".join(store.structures) or "no masks"
                raise DataError(f"{store.path}: no masks of {name!r}; it holds {held}")


def label_maps(store: FrameStore, labels: ArrayLike, structures: Sequence[str]) -> ByteArray:
    """Label maps with the structures in the given order.

    Args:
        store: the frame store.
        labels: (n,) indices of label maps.
        structures: names or unions of names.

    Returns:
        (n, S, S) uint8: 0 background, 1 for ``structures[0]`` and so on.
    """
    index = np.asarray(labels, np.int64)
    maps = np.zeros((len(index), store.size, store.size), np.uint8)
    for value, structure in enumerate(structures, 1):
        for name in parts(structure):
            maps[store.masks(index, name)] = value
    return maps
