"""Connected regions of parcel maps, and numbers of pixels per parcel."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.measure import label

from alan.errors import ParameterError

RegionMap = NDArray[np.int32]


def _plane(array: ArrayLike, name: str) -> NDArray[np.integer]:
    plane = np.asarray(array)
    if plane.ndim != 2 or plane.size == 0 or not np.issubdtype(plane.dtype, np.integer):
        raise ParameterError(f"{name} is {plane.dtype} {plane.shape}: give integers (H, W), not empty")
    return plane


def regions(parcel_map: ArrayLike) -> RegionMap:
    """Split a parcel map into connected regions: 4-connected sets of pixels with the same id.

    Args:
        parcel_map: (H, W) integer ids from 0.

    Returns:
        (H, W) int32; regions are numbered 0 to R - 1 in raster order of their first pixel. The background, if
        there is one, is split like any other id.

    Raises:
        ParameterError: The map is empty or not an integer array (H, W) of ids from 0.
    """
    plane = _plane(parcel_map, "parcel_map")
    if plane.min() < 0:
        raise ParameterError(f"parcel_map contains the id {plane.min()}: give ids from 0")
    labels = label(plane.astype(np.int32), connectivity=1, background=-1)  # type: ignore[no-untyped-call]
    return np.asarray(labels - 1, np.int32)


def parcel_of_region(region_map: ArrayLike, parcel_map: ArrayLike) -> NDArray[np.int64]:
    """Compute the parcel id of each region.

    Args:
        region_map: (H, W) integer, as :func:`regions` gives.
        parcel_map: (H, W) integer ids from which the regions were made.

    Returns:
        (R,) int64.

    Raises:
        ParameterError: The arrays are not integers of one shape (H, W).
    """
    region, parcel = _plane(region_map, "region_map"), _plane(parcel_map, "parcel_map")
    if region.shape != parcel.shape:
        raise ParameterError(f"region_map is {region.shape}, parcel_map {parcel.shape}: give one shape")
    ids = np.zeros(int(region.max()) + 1, np.int64)
    ids[region] = parcel
    return ids


def parcel_pixels(
    maps: NDArray[np.integer], masks: NDArray[np.bool_], n_ids: int, background_id: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the pixels of each parcel in each image, and those inside a mask.

    Args:
        maps: (N, H, W) integer ids from 0.
        masks: (N, H, W) bool.
        n_ids: Number of ids that are counted; higher ids are left out.
        background_id: Id that is not a parcel; its counts are 0.

    Returns:
        Two (N, n_ids) int64.
    """
    maps, width = maps.astype(np.intp, copy=False), max(n_ids, int(maps.max()) + 1)
    area = np.stack([np.bincount(ids.ravel(), minlength=width) for ids in maps])
    pairs = zip(maps, masks, strict=True)
    inside = np.stack([np.bincount(ids[mask], minlength=width) for ids, mask in pairs])
    if background_id is not None and background_id < width:
        area[:, background_id] = inside[:, background_id] = 0
    return area[:, :n_ids], inside[:, :n_ids]
