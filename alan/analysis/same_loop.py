"""Find loops that two patients have in common, such as one loop in two formats, by their outlines."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.spatial import KDTree

from alan.analysis.results import LoopResult
from alan.arrays import ByteArray, Float32Array

#: Fewest frames of a loop that is compared; stills of different patients may agree.
_FEWEST = 8
#: Largest mean difference of the areas of a structure, as a fraction, of loops whose label maps are compared.
_NEAR = 0.05
#: Smallest mean area, as a fraction, that such a difference refers to.
_LEAST = 1e-6
#: Largest difference of the logarithms of the mean areas of such loops, with a margin for rounding.
_REACH = math.log((2 + _NEAR) / (2 - _NEAR)) + 1e-4
#: Smallest share of the structures that has the same label in both loops. Codecs move borders by a pixel; hearts
#: of different patients agree less.
_SAME = 0.95
_REASON = "loop {} shows the same as loop {} of another patient: give --patient if it is one"


@dataclass(frozen=True)
class Outlined:
    """Areas of the structures of a loop.

    Attributes:
        loop: Name of the loop.
        patient: Key of the patient.
        kind: View, number of frames and structures, which the same loops share.
        areas: (S, T) area of each structure in each frame, as a fraction of the sector's box.
    """

    loop: str
    patient: str
    kind: tuple[str, int, tuple[str, ...]]
    areas: Float32Array

    @classmethod
    def of(cls, result: LoopResult) -> Self | None:
        """Return the areas of a measured loop; None for others and for short ones."""
        if result.status != "measured" or result.view is None or len(result.frames) < _FEWEST:
            return None
        whole = result.box[2] * result.box[3]
        areas = [[frame.area_px[name] / whole for frame in result.frames] for name in result.structures]
        kind = (result.view.view, len(result.frames), result.structures)
        return cls(result.loop, result.patient, kind, np.array(areas, np.float32))


def find_same_loops(outlined: Iterable[Outlined], read_labels: Callable[[str], ByteArray]) -> dict[str, str]:
    """Find patients who share a loop.

    Args:
        outlined: Areas of all loops.
        read_labels: Function that reads the label maps (T, size, size) of a loop by its name.

    Returns:
        Mapping from the key of a patient to the reason to doubt that it is one of several.
    """
    groups: dict[tuple[str, int, tuple[str, ...]], list[Outlined]] = defaultdict(list)
    for loop in outlined:
        groups[loop.kind].append(loop)
    found: dict[str, str] = {}
    for group in groups.values():
        for one, other in near_pairs(group):
            if one.patient == other.patient or {one.patient, other.patient} <= found.keys():
                continue
            if _agreement(read_labels(one.loop), read_labels(other.loop)) >= _SAME:
                for loop, same in ((one, other), (other, one)):
                    found.setdefault(loop.patient, _REASON.format(loop.loop, same.loop))
    return found


def near_pairs(group: Sequence[Outlined]) -> Iterator[tuple[Outlined, Outlined]]:
    """Find the pairs of loops whose areas hardly differ.

    The mean area of each structure of such loops is nearly the same, so that only neighbours in a tree of these
    means are compared frame by frame.

    Args:
        group: Loops of one kind.

    Yields:
        Each pair once, in the order of the loops.
    """
    areas = np.stack([loop.areas for loop in group])
    points = np.log(np.maximum(areas.mean(-1, dtype=np.float64), _LEAST))
    tree = KDTree(points)
    for n, one in enumerate(group):
        others = np.array([k for k in sorted(tree.query_ball_point(points[n], _REACH, p=math.inf)) if k > n], int)
        mean = np.maximum((areas[n] + areas[others]).mean(-1) / 2, _LEAST)
        near = (np.abs(areas[n] - areas[others]).mean(-1) <= _NEAR * mean).all(-1)
        yield from ((one, group[k]) for k in others[near])


def _agreement(one: ByteArray, other: ByteArray) -> float:
    """Compute the share of the structures that has the same label in both label maps (Dice)."""
    total = int((one > 0).sum()) + int((other > 0).sum())
    return 2 * int(((one == other) & (one > 0)).sum()) / total if total and one.shape == other.shape else 0.0
