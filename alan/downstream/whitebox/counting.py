"""What is counted over labelled frames: which parcels are present, inside, outside, or on the lower border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.errors import ParameterError
from alan.parcels.regions import parcel_of_region, regions

BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.integer]
CountArray = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Counts over N labelled images and K parcels; all flags are per image and parcel.

    Attributes:
        area: (N, K) int64, pixels of the parcel in the image.
        overlap: (N, K) int64, those of them inside the target.
        target: (N,) int64, pixels of the target; 0 where the image has none.
        inside: (N, K) bool, at least one connected region of the parcel counts as inside the target.
        outside: (N, K) bool, the parcel as a whole is outside and is neither inside nor valve in that image.
        valve: (N, K) bool, a region of the parcel crosses the lower border of the target.
    """

    area: CountArray
    overlap: CountArray
    target: CountArray
    inside: BoolArray
    outside: BoolArray
    valve: BoolArray

    @classmethod
    def none(cls, n_parcels: int) -> Self:
        """Counts over no image at all."""
        pixels, flags = np.zeros((0, n_parcels), np.int64), np.zeros((0, n_parcels), bool)
        return cls(pixels, pixels, np.zeros(0, np.int64), flags, flags, flags)

    @property
    def present(self) -> BoolArray:
        """(N, K) bool, the parcel has at least one pixel in the image."""
        return self.area > 0

    @property
    def mean_overlap(self) -> NDArray[np.float64]:
        """(K,) share of the parcel inside the target, mean over the images where present; NaN where never."""
        share = np.divide(self.overlap, self.area, out=np.zeros(self.area.shape), where=self.present)
        times = self.present.sum(0)
        mean: NDArray[np.float64] = np.divide(
            share.sum(0), times, out=np.full(len(times), np.nan), where=times > 0
        )
        return mean


def check_maps(parcel_maps: ArrayLike, n_parcels: int | None = None, background_id: int | None = None) -> IntArray:
    """Check parcel maps.

    Args:
        parcel_maps: (N, H, W) integer ids, N at least 1.
        n_parcels: K; ids must be below it, the background's apart. None: any id will do.
        background_id: the id of pixels that belong to no parcel, or None.

    Returns:
        The maps as an array.

    Raises:
        ParameterError: another shape, another dtype, or an id out of range.
    """
    maps = np.asarray(parcel_maps)
    if maps.ndim != 3 or 0 in maps.shape:
        raise ParameterError(f"parcel_maps must be (N, H, W), none of them 0, got {maps.shape}")
    if not np.issubdtype(maps.dtype, np.integer):
        raise ParameterError(f"parcel_maps must hold integer ids, got {maps.dtype}: take the argmax of the logits")
    if int(maps.min()) < 0:
        raise ParameterError(f"parcel_maps hold the id {int(maps.min())}; ids start at 0")
    if n_parcels is not None and int(maps.max()) >= n_parcels:
        ids = np.unique(maps)
        wrong = ids[(ids >= n_parcels) & (ids != (-1 if background_id is None else background_id))]
        if len(wrong):
            raise ParameterError(
                f"parcel_maps hold the id {int(wrong[0])}, n_parcels is {n_parcels}: raise n_parcels, "
                f"or name that id as background_id (now {background_id})"
            )
    return maps


def check_masks(masks: ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    """Check masks against the shape of their parcel maps.

    Raises:
        ParameterError: not boolean, or of another shape.
    """
    array = np.asarray(masks)
    if array.dtype != np.bool_:
        raise ParameterError(
            f"masks must be bool, got {array.dtype}: compare the label map with the label's value"
        )
    if array.shape != shape:
        raise ParameterError(f"masks must have the shape of parcel_maps {shape}, got {array.shape}")
    return array


def check_groups(groups: ArrayLike | None, n_images: int) -> NDArray[Any]:
    """Check the patients of images; None makes every image its own.

    Raises:
        ParameterError: not one entry per image.
    """
    group = np.arange(n_images) if groups is None else np.asarray(groups)
    if group.shape != (n_images,):
        raise ParameterError(f"groups must hold one entry per image ({n_images},), got {group.shape}")
    return group


def count(
    parcel_maps: IntArray,
    masks: BoolArray,
    *,
    n_parcels: int,
    background_id: int | None = None,
    overlap: float = 0.75,
    min_pixels: int = 10,
    min_share_of_target: float = 0.02,
    exterior_overlap: float = 0.95,
) -> Counts:
    """Count, image by image, how parcels lie to a target (paper, section 3.2).

    A *connected region* of a parcel is inside when at least ``overlap`` of its pixels lie in the target, when
    these are at least ``min_pixels``, and when they are at least ``min_share_of_target`` of the target. A
    *parcel* is inside in an image when at least one of its regions is: a stray second region elsewhere does
    not undo it. A region crosses the lower border when it holds the lowest target pixel of a column while
    less than ``overlap`` of it lies in the target. Exterior is asked of the parcel as a whole, as in the
    published code: at least ``exterior_overlap`` of its pixels lie outside.

    Args:
        parcel_maps: (N, H, W) integer ids.
        masks: (N, H, W) bool; an empty mask has no inside and no lower border, and everything is outside of it.
        n_parcels: K.
        background_id: an id that counts as no parcel.
        overlap: share in [0, 1].
        min_pixels: pixels at the maps' resolution.
        min_share_of_target: share in [0, 1].
        exterior_overlap: share in [0, 1].

    Returns:
        The counts.
    """
    n_images = len(parcel_maps)
    width = max(n_parcels, int(parcel_maps.max()) + 1)
    area, inner = (np.zeros((n_images, width), np.int64) for _ in range(2))
    inside, valve = (np.zeros((n_images, width), bool) for _ in range(2))
    for n, (parcel_map, mask) in enumerate(zip(parcel_maps, masks, strict=True)):
        region = regions(parcel_map)
        parcel = parcel_of_region(region, parcel_map)
        pixels = np.bincount(region.ravel())
        within = np.bincount(region[mask], minlength=len(parcel))
        target = int(mask.sum())
        area[n] = np.bincount(parcel, pixels, width)
        inner[n] = np.bincount(parcel, within, width)
        overlaps = (within >= overlap * pixels) & (within > 0)
        inside[n, parcel[overlaps & (within >= min_pixels) & (within >= min_share_of_target * target)]] = True
        columns = np.flatnonzero(mask.any(0))
        lowest = mask.shape[0] - 1 - np.argmax(mask[::-1, columns], axis=0)
        on_border = np.unique(region[lowest, columns])
        valve[n, parcel[on_border[~overlaps[on_border]]]] = True
    if background_id is not None and background_id < width:
        for array in (area, inner, inside, valve):
            array[:, background_id] = 0
    outside = (area > 0) & (area - inner >= exterior_overlap * area) & ~inside & ~valve
    return Counts(
        area[:, :n_parcels],
        inner[:, :n_parcels],
        masks.sum((1, 2)),
        inside[:, :n_parcels],
        outside[:, :n_parcels],
        valve[:, :n_parcels],
    )
