"""Structures of the heart: their names, unions of names, and their values in a label map.

In a label map (uint8), 0 is background and 1 is the first name of a list of names. Archives of the heart share one
list, :data:`STRUCTURES`, so that a structure has the same value in all of them; a dataset with classes of its own
brings its own list.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from alan.errors import DataError, ParameterError, nearest

#: Structures in the order of their values in a label map: ``STRUCTURES[0]`` has the value 1.
STRUCTURES = ("lv", "myo", "la", "rv", "ra", "ao")

#: Full names of structures and of a common union.
_FULL_NAMES = {
    "lv": "left ventricle",
    "myo": "myocardium",
    "la": "left atrium",
    "rv": "right ventricle",
    "ra": "right atrium",
    "ao": "aorta",
    "lv+myo": "left ventricle with its wall",
}

#: Colours of the first values in pictures: by Okabe and Ito, bright enough on a dark frame.
_COLOURS = ("#56B4E9", "#F0E442", "#E69F00", "#CC79A7", "#2DD4BF", "#D55E00")


def label_colour(value: int) -> str:
    """Return the colour of a value of a label map in pictures, ``#rrggbb``; background (0) is black.

    Args:
        value: Value from 0 to 255; each has a colour of its own.
    """
    if value == 0:
        return "#000000"
    if value <= len(_COLOURS):
        return _COLOURS[value - 1]
    turns, shade = value * 0.618 % 1, 0.6 + 0.3 * (value % 2)  # the golden ratio spreads the hues
    return "#" + "".join(f"{round(255 * part):02X}" for part in colorsys.hsv_to_rgb(turns, 0.7, shade))


@cache
def label_palette() -> bytes:
    """Return red, green and blue of all 256 values of a label map, one after the other."""
    return b"".join(bytes.fromhex(label_colour(value)[1:]) for value in range(256))


def structure_name(structure: str) -> str:
    """Return the full name of a structure: ``left ventricle`` for ``lv``."""
    return _FULL_NAMES.get(structure, structure)


def label_names(structures: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a dataset in the order of their values in a label map.

    Args:
        structures: Structures of the dataset.

    Returns:
        :data:`STRUCTURES` if it contains all of them; otherwise the structures themselves, in their order.
    """
    return STRUCTURES if set(structures) <= set(STRUCTURES) else tuple(structures)


def label_value(structure: str, names: Sequence[str] = STRUCTURES) -> int:
    """Return the value of a structure in a label map (``lv`` is 1).

    Args:
        structure: One of ``names``.
        names: Names in the order of their values, as :func:`label_names` returns them.

    Raises:
        DataError: The structure is unknown; the message offers the nearest name.
    """
    if structure not in names:
        raise DataError(f"unknown structure {structure!r}: {nearest(structure, names)}")
    return names.index(structure) + 1


def masks_from_labels(maps: NDArray[np.uint8], structures: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Split label maps (M, H, W) into one boolean mask (M, H, W) for each named structure."""
    return {name: maps == label_value(name) for name in structures}


def parts(structure: str) -> tuple[str, ...]:
    """Split a union into its names: ``lv+myo`` is the left ventricle with its wall."""
    return tuple(structure.split("+"))


def check_structures(structures: Sequence[str]) -> tuple[str, ...]:
    """Refuse structures that a network could not distinguish.

    Args:
        structures: One name for binary segmentation; several names for one class each and the background.

    Returns:
        The structures.

    Raises:
        ParameterError: No structure is given, a name is empty, or a name is part of two structures.
    """
    if not structures:
        raise ParameterError("structures is empty: give at least one, for example [lv]")
    seen: set[str] = set()
    for structure in structures:
        for name in parts(structure):
            if not name:
                raise ParameterError(f"structure {structure!r} has an empty name: write unions as lv+myo")
            if name in seen:
                raise ParameterError(f"structure {name!r} is given twice in {', '.join(structures)}: give it once")
            seen.add(name)
    return tuple(structures)


def n_classes(structures: Sequence[str]) -> int:
    """Count the channels of the logits: 1 for one structure, otherwise the structures and the background."""
    return 1 if len(structures) == 1 else len(structures) + 1
