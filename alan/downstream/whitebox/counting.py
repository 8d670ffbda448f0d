"""Counts over labelled frames: in which images a parcel is present, inside, outside or on the lower border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.arrays import AnyIntArray, BoolArray, IntArray
from alan.errors import ParameterError
from alan.parcels.regions import parcel_of_region, parcel_pixels, regions

#: Highest id; it bounds the memory that counting takes.
_MAX_ID = 2**16 - 1


@dataclass(frozen=True)
class Counts:
    """Counts over N labelled images and K parcels; flags are per image and parcel.

    The target is the structure that the masks show.

    Attributes:
        area: (N, K) int64, pixels of the parcel in the image.
        overlap: (N, K) int64, pixels of the parcel inside the target.
        target: (N,) int64, pixels of the target; 0 if the image has none.
        inside: (N, K) bool, at least one connected region of the parcel counts as inside the target.
        outside: (N, K) bool, the parcel as a whole is outside and is neither inside nor valve in that image.
        valve: (N, K) bool, a region of the parcel crosses the lower border of the target.
    """

    area: IntArray
    overlap: IntArray
    target: IntArray
    inside: BoolArray
    outside: BoolArray
    valve: BoolArray

    @classmethod
    def none(cls, n_parcels: int) -> Self:
        """Return the counts of an empty set of images."""
        pixels, flags = np.zeros((0, n_parcels), np.int64), np.zeros((0, n_parcels), bool)
        return cls(pixels, pixels, np.zeros(0, np.int64), flags, flags, flags)

    @property
    def present(self) -> BoolArray:
        """(N, K) bool, the parcel has at least one pixel in the image."""
        return self.area > 0

    @property
    def mean_overlap(self) -> NDArray[np.float64]:
        """(K,) mean share of the parcel inside the target over the images that contain it; NaN if none does."""
        share = np.divide(self.overlap, self.area, out=np.zeros(self.area.shape), where=self.present)
        times = self.present.sum(0)
        mean: NDArray[np.float64] = np.divide(
            share.sum(0), times, out=np.full(len(times), np.nan), where=times > 0
        )
        return mean


def check_maps(
    parcel_maps: ArrayLike, n_parcels: int | None = None, background_id: int | None = None
) -> AnyIntArray:
    """Check parcel maps.

    Args:
        parcel_maps: (N, H, W) integer ids, N at least 1.
        n_parcels: Number of parcels K; ids other than the background must be below it. None allows ids up to
            65535.
        background_id: Id of pixels that belong to no parcel, or None.

    Returns:
        The maps as an array.

    Raises:
        ParameterError: Another shape, another dtype, or an id out of range.
    """
    maps = np.asarray(parcel_maps)
    if maps.ndim != 3 or 0 in maps.shape:
        raise ParameterError(f"parcel_maps are {maps.shape}: give (N, H, W), each at least 1")
    if not np.issubdtype(maps.dtype, np.integer):
        raise ParameterError(f"parcel_maps are {maps.dtype}: give integer ids, such as the argmax of the logits")
    low, high = int(maps.min()), int(maps.max())
    if low < 0 or high > _MAX_ID:
        raise ParameterError(
            f"parcel_maps contain the id {low if low < 0 else high}: give ids from 0 to {_MAX_ID}"
        )
    if n_parcels is not None and high >= n_parcels:
        ids = np.unique(maps)
        wrong = ids[(ids >= n_parcels) & (ids != (-1 if background_id is None else background_id))]
        if len(wrong):
            raise ParameterError(
                f"parcel_maps contain the id {int(wrong[0])}, n_parcels is {n_parcels}: raise n_parcels, "
                f"or give that id as background_id (now {background_id})"
            )
    return maps


def check_masks(masks: ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    """Check masks against the shape of their parcel maps.

    Raises:
        ParameterError: The masks are not boolean, or have another shape.
    """
    array = np.asarray(masks)
    if array.dtype != np.bool_:
        raise ParameterError(f"masks are {array.dtype}: give bool, such as label_maps == 1")
    if array.shape != shape:
        raise ParameterError(f"masks are {array.shape}: give the shape of parcel_maps {shape}")
    return array


def check_groups(groups: ArrayLike | None, n_images: int) -> NDArray[Any]:
    """Check the groups (patients) of images; None makes every image a group.

    Raises:
        ParameterError: There is not one entry per image.
    """
    group = np.arange(n_images) if groups is None else np.asarray(groups)
    if group.shape != (n_images,):
        raise ParameterError(f"groups are {group.shape}: give one entry per image ({n_images},)")
    return group


def count_ids(maps: AnyIntArray, background_id: int | None) -> int:
    """Return the highest id of a parcel in the maps, plus 1."""
    return 1 + int(np.max(maps, where=maps != (-1 if background_id is None else background_id), initial=0))


def count(
    parcel_maps: AnyIntArray,
    masks: BoolArray,
    *,
    n_parcels: int,
    background_id: int | None = None,
    overlap: float,
    min_pixels: int,
    min_share_of_target: float,
    exterior_overlap: float,
) -> Counts:
    """Count, image by image, where parcels lie relative to a target (paper, section 3.2).

    A *connected region* of a parcel is inside if at least ``overlap`` of its pixels lie in the target, if these
    are at least ``min_pixels``, and if they cover at least ``min_share_of_target`` of the target. A *parcel* is
    inside in an image if at least one of its regions is, whatever its other regions are. A region crosses the
    lower border if it contains the lowest target pixel of a column while less than ``overlap`` of it lies in the
    target. A parcel as a whole is outside, as in the published code, if at least ``exterior_overlap`` of its
    pixels lie outside.

    Args:
        parcel_maps: (N, H, W) integer ids.
        masks: (N, H, W) bool. An empty mask has no inside and no lower border; everything is outside of it.
        n_parcels: Number of parcels K.
        background_id: Id that is not a parcel.
        overlap: Share in [0, 1].
        min_pixels: Number of pixels at the resolution of the maps.
        min_share_of_target: Share in [0, 1].
        exterior_overlap: Share in [0, 1].

    Returns:
        The counts.
    """
    n_images = len(parcel_maps)
    width = max(n_parcels, int(parcel_maps.max()) + 1)
    area, inner = parcel_pixels(parcel_maps, masks, width, background_id)
    inside, valve = (np.zeros((n_images, width), bool) for _ in range(2))
    for n, (parcel_map, mask) in enumerate(zip(parcel_maps, masks, strict=True)):
        region = regions(parcel_map)
        parcel = parcel_of_region(region, parcel_map)
        pixels = np.bincount(region.ravel())
        within = np.bincount(region[mask], minlength=len(parcel))
        target = int(mask.sum())
        overlaps = (within >= overlap * pixels) & (within > 0)
        inside[n, parcel[overlaps & (within >= min_pixels) & (within >= min_share_of_target * target)]] = True
        columns = np.flatnonzero(mask.any(0))
        lowest = mask.shape[0] - 1 - np.argmax(mask[::-1, columns], axis=0)
        on_border = np.unique(region[lowest, columns])
        valve[n, parcel[on_border[~overlaps[on_border]]]] = True
    if background_id is not None and background_id < width:
        inside[:, background_id] = valve[:, background_id] = False
    outside = (area > 0) & (area - inner >= exterior_overlap * area) & ~inside & ~valve
    k = slice(n_parcels)
    return Counts(area[:, k], inner[:, k], masks.sum((1, 2)), inside[:, k], outside[:, k], valve[:, k])
