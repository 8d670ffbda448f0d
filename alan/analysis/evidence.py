"""Evidence behind the segments of a frame: the share of each parcel inside the outline, its prior and labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter


@dataclass(frozen=True)
class ParcelEvidence:
    """Parcel maps and white boxes from which the segments of a loop were computed.

    Attributes:
        maps: (T, size, size) uint8 parcel maps of the loop.
        boxes: Mapping from structure to its white boxes at end-diastole and end-systole.
    """

    maps: NDArray[np.uint8]
    boxes: Mapping[str, tuple[ParcelSegmenter, ParcelSegmenter]]

    def chosen(self, structures: Sequence[str], phase: str) -> NDArray[np.uint8]:
        """Find for each parcel id the value of the structure whose list contains it, or 0.

        Args:
            structures: Names in the order of the labels; the first structure that lists a parcel counts.
            phase: ``ED`` or ``ES``.

        Returns:
            (256,) uint8.
        """
        values = np.zeros(256, np.uint8)
        for value, name in reversed(list(enumerate(structures, 1))):
            if name in self.boxes:
                values[self.boxes[name][phase == "ES"].selector_.interior_] = value
        return values

    def rows(
        self, structures: Sequence[str], labels: NDArray[np.uint8], phase: str, frame: int
    ) -> Iterator[tuple[object, ...]]:
        """Compute the rows of ``parcels.csv`` of one frame: chosen parcels and parcels inside the outline.

        Args:
            structures: Names in the order of the labels.
            labels: (size, size) uint8, the outlines of the frame at the size of the model.
            phase: ``ED`` or ``ES``.
            frame: Index of the frame.

        Yields:
            Values of ``parcels.csv``; in each structure, the parcels that cover most of the segment come first.
        """
        parcels = self.maps[frame]
        pixels = np.bincount(parcels.ravel(), minlength=256)
        for value, name in enumerate(structures, 1):
            if name not in self.boxes:
                continue
            selector = self.boxes[name][phase == "ES"].selector_
            inner = np.bincount(parcels[labels == value], minlength=256)
            interior = np.isin(np.arange(256), selector.interior_)
            prior = selector.prior if isinstance(selector.prior, ParcelPrior) else None
            for parcel in np.argsort(-inner, kind="stable"):
                if pixels[parcel] == 0 or not (interior[parcel] or inner[parcel]) or parcel >= selector.n_parcels_:
                    continue
                before = (math.nan, math.nan)
                if prior is not None and parcel < len(prior.inside):
                    before = (float(prior.share[parcel]), float(prior.inside[parcel] + prior.outside[parcel]))
                known = selector.table_.loc[parcel]
                yield (
                    name,
                    phase,
                    frame,
                    int(parcel),
                    bool(interior[parcel]),
                    int(pixels[parcel]),
                    float(inner[parcel] / pixels[parcel]),
                    float(inner[parcel] / max(inner.sum(), 1)),
                    *before,
                    int(known["present"]),
                    int(known["inside"]),
                    float(known["share"]),
                )
