"""From a union of parcels to a segment: one component, no holes, a smooth outline (paper, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from alan.downstream.whitebox.contour import smooth_outline
from alan.downstream.whitebox.shape import load_shape
from alan.downstream.whitebox.snap import snap_outline
from alan.errors import ParameterError
from alan.parcels.regions import regions

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.integer]

#: Radii are given for images of this size (pixels).
REFERENCE_SIZE = 112
_EIGHT = np.ones((3, 3), bool)


def main_component(segment: BoolArray, parcel_map: IntArray) -> BoolArray:
    """Keep the 8-connected component that holds the most parcels; of equals the larger, then the first.

    Args:
        segment: (H, W) bool, a union of interior parcels.
        parcel_map: (H, W) integer ids.

    Returns:
        (H, W) bool; empty where the segment is.
    """
    labels, count = ndimage.label(segment, _EIGHT)
    if count <= 1:
        return segment
    label, parcel = labels[segment].astype(np.int64), parcel_map[segment].astype(np.int64)
    n_ids = int(parcel.max()) + 1
    pixels = np.bincount(label * n_ids + parcel, minlength=(count + 1) * n_ids).reshape(count + 1, n_ids)
    held, area = (pixels > 0).sum(1), pixels.sum(1)
    best: BoolArray = labels == int(np.lexsort((-np.arange(count + 1), area, held))[-1])
    return best


def add_enclaves(segment: BoolArray, parcel_map: IntArray, max_regions: int = 8) -> BoolArray:
    """Add the groups of regions that the segment encloses on all sides, if they are small.

    A group is a maximal 4-connected part of the rest of the image; it is enclosed when it does not touch the
    image's border. It is added when it consists of at most ``max_regions`` connected regions of parcels.
    Every parcel that is not in the segment may be part of an enclave, whatever its role.

    Args:
        segment: (H, W) bool.
        parcel_map: (H, W) integer ids.
        max_regions: regions in a group at most.

    Returns:
        (H, W) bool.
    """
    groups, count = ndimage.label(~np.pad(segment, 1))
    if count <= 1:
        return segment
    groups = groups[1:-1, 1:-1]  # group 1 holds the corner of the frame put around the image: the outside
    enclosed = groups > 1
    region = regions(parcel_map)[enclosed].astype(np.int64)
    n_regions = int(region.max()) + 1
    pairs = np.unique(groups[enclosed].astype(np.int64) * n_regions + region)
    small = np.bincount(pairs // n_regions, minlength=count + 1) <= max_regions
    small[:2] = False
    enclave: BoolArray = segment | small[groups]
    return enclave


def dilate(mask: BoolArray, radius: int) -> BoolArray:
    """Dilation by the disk of all pixels at most ``radius`` away; nothing enters from beyond the image.

    Row by row: the distance to the nearest set pixel of the row, then one comparison for each row offset.
    """
    column = np.arange(mask.shape[1], dtype=np.int32)
    far = np.int32(2**30)
    left = np.maximum.accumulate(np.where(mask, column, -far), axis=1)
    right = np.minimum.accumulate(np.where(mask, column, far)[:, ::-1], axis=1)[:, ::-1]
    distance = np.minimum(column - left, right - column)
    out: BoolArray = distance <= radius
    for offset in range(1, min(radius, mask.shape[0] - 1) + 1):
        near = distance <= math.isqrt(radius * radius - offset * offset)
        out[offset:] |= near[:-offset]
        out[:-offset] |= near[offset:]
    return out


def close(mask: BoolArray, radius: int) -> BoolArray:
    """Binary closing by a disk, as ``skimage.morphology.closing(mask, disk(radius))`` on a boolean image.

    Args:
        mask: (H, W) bool.
        radius: of the disk, in pixels; 0 changes nothing.

    Returns:
        (H, W) bool. Pixels beyond the image count neither as mask nor as background.
    """
    if radius == 0 or not mask.any():
        return mask
    window = bounding_box(mask, 2 * radius)  # at the image's border a closing reaches beyond the mask's box
    out = np.zeros_like(mask)
    out[window] = ~dilate(~dilate(mask[window], radius), radius)
    return out


def median(mask: BoolArray, radius: int) -> BoolArray:
    """Median over a disk, as ``scipy.ndimage.median_filter`` with reflected borders.

    The published code applies it to the finished mask, and so does :class:`PostProcessing`.

    Args:
        mask: (H, W) bool.
        radius: of the disk, in pixels; 0 changes nothing.

    Returns:
        (H, W) bool.
    """
    if radius == 0:
        return mask
    axis = np.arange(-radius, radius + 1)
    disk = (axis[:, None] ** 2 + axis**2 <= radius * radius).astype(np.int32)
    votes = ndimage.correlate(mask.astype(np.int32), disk, mode="reflect")
    majority: BoolArray = votes > disk.sum() // 2
    return majority


def bounding_box(mask: BoolArray, margin: int = 0) -> tuple[slice, slice]:
    """Rows and columns of a mask that is not empty, widened by a margin and held to the image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(int(rows[0]) - margin, 0), min(int(rows[-1]) + margin + 1, mask.shape[0])),
        slice(max(int(columns[0]) - margin, 0), min(int(columns[-1]) + margin + 1, mask.shape[1])),
    )


@dataclass(frozen=True)
class PostProcessing:
    """The steps from a union of interior parcels to a segment, each of which can be switched off.

    In order: main component, enclaves, closing, filling, active contour, median, shape, snap; the last two are not
    in the paper. Lengths are given for an image of 112 x 112 pixels and grow with the square root of the image's
    area; disks have whole radii. Which steps help depends on the structure, see :meth:`for_structure`.

    Attributes:
        component: keep the connected component that holds the most interior parcels.
        enclaves: add small enclosed groups of regions.
        enclave_regions: regions of an enclave at most.
        closing_radius: of the closing's disk (pixels at 112); None or 0 switches it off.
        fill: fill all remaining holes, however large.
        contour: let the outline settle as an active contour (which leaves no holes either).
        contour_sigma: of the Gaussian under the contour (pixels at 112).
        contour_beta: weight of bending.
        contour_gamma: inverse of the time step.
        contour_edge: attraction to edges.
        contour_iterations: steps at most.
        median_radius: of the median's disk (pixels at 112); None or 0 switches it off.
        shape: file of a :class:`alan.downstream.whitebox.shape.ShapePrior`; None switches it off.
        shape_weight: how far the segment is drawn to the nearest shape of the prior, 0 to 1.
        snap_width: how far the outline may move to an edge of the frame (pixels at 112); None or 0 switches it
            off.
        snap_smoothness: weight of jumps between neighbouring points of the outline.
        snap_stay: penalty for moving by the full width.
    """

    component: bool = True
    enclaves: bool = True
    enclave_regions: int = 8
    closing_radius: float | None = 10
    fill: bool = True
    contour: bool = True
    contour_sigma: float = 3.0
    contour_beta: float = 0.2
    contour_gamma: float = 0.01
    contour_edge: float = 1.0
    contour_iterations: int = 10
    median_radius: float | None = None
    shape: str | None = None
    shape_weight: float = 0.5
    snap_width: float | None = None
    snap_smoothness: float = 1.0
    snap_stay: float = 3.0

    @classmethod
    def for_structure(cls, structure: str) -> Self:
        """The steps that helped on validation patients of CAMUS (docs/white-box.md).

        Args:
            structure: ``"lv"``: the published steps. ``"myo"``: a median alone, since one component, closing and a
                contour break a ring. ``"la"``: no closing and no contour, which shrinks a small cavity, but a
                median. Any other: the published steps.
        """
        if structure == "myo":
            return cls(
                component=False, enclaves=False, closing_radius=None, fill=False, contour=False, median_radius=2
            )
        if structure == "la":
            return cls(closing_radius=None, contour=False, median_radius=3)
        return cls()

    def __call__(
        self, segment: BoolArray, parcel_map: IntArray, frame: NDArray[np.uint8] | None = None
    ) -> BoolArray:
        """Turn one union of parcels into a segment.

        Args:
            segment: (H, W) bool, pixels of interior parcels.
            parcel_map: (H, W) integer, the ids they come from.
            frame: (H, W) uint8; needed where ``snap_width`` is set.

        Returns:
            (H, W) bool, a new array; empty where the union is.

        Raises:
            ParameterError: ``snap_width`` is set and there is no frame, or the shape's file is none.
            DataError: the shape's file is missing.
        """
        if self.snap_width and frame is None:
            raise ParameterError(f"snap_width is {self.snap_width}: the frame is needed, or set it to None")
        mask = segment.copy()
        if not mask.any():
            return mask
        scale = math.sqrt(mask.size) / REFERENCE_SIZE
        if self.component:
            mask = main_component(mask, parcel_map)
        if self.enclaves or self.fill:
            window = bounding_box(mask)
            if self.enclaves:
                mask[window] = add_enclaves(mask[window], parcel_map[window], self.enclave_regions)
        mask = close(mask, round((self.closing_radius or 0) * scale))
        if self.fill:
            mask[bounding_box(mask)] = ndimage.binary_fill_holes(mask[bounding_box(mask)])
        if self.contour:
            mask = smooth_outline(
                mask,
                sigma=self.contour_sigma * scale,
                beta=self.contour_beta,
                gamma=self.contour_gamma,
                w_edge=self.contour_edge,
                max_iterations=self.contour_iterations,
            )
        mask = median(mask, round((self.median_radius or 0) * scale))
        if self.shape is not None:
            mask = load_shape(self.shape).pull(mask, self.shape_weight)
        if self.snap_width and frame is not None:
            mask = snap_outline(
                mask,
                frame,
                width=self.snap_width * scale,
                smoothness=self.snap_smoothness,
                stay=self.snap_stay,
                sigma=scale,
            )
        return mask
