"""Post-processing: from a union of parcels to a segment with one component and a smooth outline (paper, 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from scipy import ndimage

from alan.arrays import AnyIntArray, BoolArray
from alan.bounds import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, bounded
from alan.errors import ParameterError, nearest

#: Lengths are given for images with this side, in pixels.
REFERENCE_SIZE = 112
_EIGHT = np.ones((3, 3), bool)


def main_component(segment: BoolArray, parcel_map: AnyIntArray) -> BoolArray:
    """Keep the 8-connected component that contains the most parcels; ties go to the larger, then to the first.

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


def add_enclaves(segment: BoolArray, parcel_map: AnyIntArray, max_regions: int) -> BoolArray:
    """Add small groups of regions that the segment encloses on all sides.

    A group is a maximal 4-connected part of the rest of the image. It is enclosed if it does not touch the border
    of the image, and is added if it consists of at most ``max_regions`` connected regions of parcels. Every parcel
    outside the segment can be part of an enclave, whatever its role.

    Args:
        segment: (H, W) bool.
        parcel_map: (H, W) integer ids.
        max_regions: Largest number of regions in a group.

    Returns:
        (H, W) bool.
    """
    from alan.parcels.regions import regions  # imports scikit-image

    groups, count = ndimage.label(~np.pad(segment, 1))
    if count <= 1:
        return segment
    groups = groups[1:-1, 1:-1]  # group 1 contains the padding, hence everything outside the segment
    enclosed = groups > 1
    region = regions(parcel_map)[enclosed].astype(np.int64)
    n_regions = int(region.max()) + 1
    pairs = np.unique(groups[enclosed].astype(np.int64) * n_regions + region)
    small = np.bincount(pairs // n_regions, minlength=count + 1) <= max_regions
    small[:2] = False
    enclave: BoolArray = segment | small[groups]
    return enclave


def close(mask: BoolArray, radius: int) -> BoolArray:
    """Close a mask by a disk, as ``skimage.morphology.closing(mask, disk(radius))`` does.

    Args:
        mask: (H, W) bool.
        radius: Radius of the disk in pixels; 0 changes nothing.

    Returns:
        (H, W) bool. Pixels beyond the image count neither as mask nor as background.
    """
    if radius == 0 or not mask.any():
        return mask
    window = bounding_box(mask, 2 * radius)  # at the border of the image a closing exceeds the bounding box
    out = np.zeros_like(mask)
    grown = ndimage.distance_transform_edt(~mask[window]) <= radius
    out[window] = grown if grown.all() else ndimage.distance_transform_edt(grown) > radius
    return out


def median_filter(mask: BoolArray, radius: int) -> BoolArray:
    """Apply a median filter over a disk, as ``scipy.ndimage.median_filter`` with reflected borders.

    Args:
        mask: (H, W) bool.
        radius: Radius of the disk in pixels; 0 changes nothing.

    Returns:
        (H, W) bool.
    """
    if radius == 0 or not mask.any():
        return mask
    window = bounding_box(mask, radius)  # a pixel farther away has no votes
    height, width = mask[window].shape
    padded = np.pad(mask[window], radius, mode="symmetric")
    sums = np.pad(padded.cumsum(1, dtype=np.int32), ((0, 0), (1, 0)))
    votes, pixels = np.zeros((height, width), np.int32), 0
    for row in range(-radius, radius + 1):  # the disk is a stack of rows
        half = math.isqrt(radius * radius - row * row)
        lines = sums[radius + row : radius + row + height]
        votes += lines[:, radius + half + 1 :][:, :width] - lines[:, radius - half :][:, :width]
        pixels += 2 * half + 1
    majority = np.zeros_like(mask)
    majority[window] = votes > pixels // 2
    return majority


def bounding_box(mask: BoolArray, margin: int = 0) -> tuple[slice, slice]:
    """Return the rows and columns of a non-empty mask, widened by a margin and clipped to the image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(int(rows[0]) - margin, 0), min(int(rows[-1]) + margin + 1, mask.shape[0])),
        slice(max(int(columns[0]) - margin, 0), min(int(columns[-1]) + margin + 1, mask.shape[1])),
    )


@bounded
@dataclass(frozen=True, kw_only=True)
class PostProcessing:
    """Post-processing from a union of interior parcels to a segment; each step can be switched off.

    The steps run in this order: main component, enclaves, closing, filling, active contour, median. Lengths are
    given for an image of 112 x 112 pixels and scale with the square root of the number of pixels; radii of disks
    are rounded. Which steps help depends on the structure, see :meth:`for_structure`.

    An instance cannot be changed: use ``dataclasses.replace``, or ``set_params(steps__closing_radius=4)`` of the
    segmenter that holds it. The defaults are the published values (paper, section 4.2).

    Attributes:
        component: Keep only the connected component that contains the most interior parcels.
        enclaves: Add small enclosed groups of regions.
        enclave_regions: Largest number of regions in an enclave.
        closing_radius: Radius of the closing disk, in pixels at 112 x 112; 0 disables the closing.
        fill: Fill all remaining holes, whatever their size.
        contour: Smooth the outline with an active contour, which also fills holes.
        contour_sigma: Standard deviation of the Gaussian that smooths the mask for the contour, in pixels at
            112 x 112.
        contour_beta: Weight of the bending energy of the contour.
        contour_gamma: Inverse of the time step of the contour.
        contour_edge: Weight of the attraction of the contour to edges of the smoothed mask.
        contour_iterations: Largest number of iterations of the contour.
        median_radius: Radius of the disk of the median filter, in pixels at 112 x 112; 0 disables the filter.

    Raises:
        ParameterError: A value is out of its bounds.

    Examples:
        >>> union = np.zeros((64, 64), bool)
        >>> union[16:48, 16:48], union[2, 2] = True, True
        >>> segment = PostProcessing(contour=False)(union, np.zeros((64, 64), np.uint8))
        >>> int(union.sum()), int(segment.sum())
        (1025, 1024)
    """

    component: bool = True
    enclaves: bool = True
    enclave_regions: NonNegativeInt = 8
    closing_radius: NonNegativeFloat = 10
    fill: bool = True
    contour: bool = True
    contour_sigma: PositiveFloat = 3.0
    contour_beta: NonNegativeFloat = 0.2
    contour_gamma: PositiveFloat = 0.01
    contour_edge: NonNegativeFloat = 1.0
    contour_iterations: PositiveInt = 10
    median_radius: NonNegativeFloat = 0

    @classmethod
    def for_structure(cls, structure: str) -> Self:
        """Return the steps that helped on validation patients of CAMUS (docs/results/white-box.md).

        Args:
            structure: ``"lv"`` gives the published steps. ``"myo"`` gives only a median filter, because closing,
                contour and the choice of one component break a ring. ``"la"`` gives a median filter in place of
                closing and contour, which shrink a small cavity. Any other structure gives the published steps.
        """
        if structure == "myo":
            return cls(
                component=False, enclaves=False, closing_radius=0, fill=False, contour=False, median_radius=2
            )
        if structure == "la":
            return cls(closing_radius=0, contour=False, median_radius=3)
        return cls()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters by name, as scikit-learn's ``clone`` and nested ``get_params`` expect them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def with_params(self, params: Mapping[str, Any]) -> Self:
        """Return the steps with other values of some parameters.

        Args:
            params: Mapping from the name of a parameter to its value.

        Raises:
            ParameterError: A parameter does not exist, or a value is out of its bounds.
        """
        own = self.get_params()
        for name, value in params.items():
            if name not in own:
                raise ParameterError(f"unknown step {name!r}: {nearest(name, own)}")
            if isinstance(own[name], bool) and not isinstance(value, bool):
                raise ParameterError(f"{name} is {value!r}: give true or false")
        return replace(self, **params)

    def __call__(self, segment: BoolArray, parcel_map: AnyIntArray) -> BoolArray:
        """Turn one union of parcels into a segment.

        Args:
            segment: (H, W) bool, pixels of interior parcels.
            parcel_map: (H, W) integer ids from which the union was made.

        Returns:
            (H, W) bool, a new array; empty if the union is empty.
        """
        from alan.downstream.whitebox.contour import smooth_outline

        mask = segment.copy()
        if not mask.any():
            return mask
        scale = math.sqrt(mask.size) / REFERENCE_SIZE
        if self.component:
            mask = main_component(mask, parcel_map)
        if self.enclaves:
            window = bounding_box(mask)
            mask[window] = add_enclaves(mask[window], parcel_map[window], self.enclave_regions)
        mask = close(mask, round(self.closing_radius * scale))
        if self.fill:
            window = bounding_box(mask)
            mask[window] = ndimage.binary_fill_holes(mask[window])
        if self.contour:
            mask = smooth_outline(
                mask,
                sigma=self.contour_sigma * scale,
                beta=self.contour_beta,
                gamma=self.contour_gamma,
                w_edge=self.contour_edge,
                max_iterations=self.contour_iterations,
            )
        return median_filter(mask, round(self.median_radius * scale))


#: Post-processing for parcels of a backbone trained on simulation, whose borders are smooth already. It was chosen
#: on validation patients of CAMUS.
SIMULATION_STEPS = PostProcessing(closing_radius=0, contour=False, median_radius=5)
