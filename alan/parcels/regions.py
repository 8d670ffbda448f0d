"""Regions of a parcel map and which of them touch: NumPy only, one pass over neighbouring pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.measure import label

from alan.errors import ParameterError

RegionMap = NDArray[np.int32]


def _plane(array: ArrayLike, name: str) -> NDArray[np.integer]:
    plane = np.asarray(array)
    if plane.ndim != 2 or plane.size == 0 or not np.issubdtype(plane.dtype, np.integer):
        raise ParameterError(f"{name} must be a non-empty integer array (H, W), got {plane.dtype} {plane.shape}")
    return plane


def regions(parcel_map: ArrayLike) -> RegionMap:
    """Split a parcel map into its connected regions: 4-connected sets of pixels with one id.

    Args:
        parcel_map: (H, W) integer ids, 0 and above.

    Returns:
        (H, W) int32; regions are numbered 0 to R - 1 in the order of their first pixel, row by row. The
        background, where there is one, falls into regions like any other id.

    Raises:
        ParameterError: not a non-empty integer array (H, W) of ids from 0.
    """
    plane = _plane(parcel_map, "parcel_map")
    if plane.min() < 0:
        raise ParameterError(f"parcel_map holds the id {plane.min()}: ids start at 0")
    labels = label(plane.astype(np.int32), connectivity=1, background=-1)  # type: ignore[no-untyped-call]
    return np.asarray(labels - 1, np.int32)


def adjacency(region_map: ArrayLike) -> NDArray[np.int64]:
    """Pairs of regions that share a pixel edge.

    Args:
        region_map: (H, W) integer ids from 0, as :func:`regions` gives; a parcel map works too and gives pairs of
            parcels.

    Returns:
        (E, 2) int64: each pair once, the smaller id first, sorted. (0, 2) where there is a single region.

    Raises:
        ParameterError: not a non-empty integer array (H, W).
    """
    plane = _plane(region_map, "region_map").astype(np.int64)
    side = int(plane.max()) + 1
    codes = []
    for first, second in ((plane[:, :-1], plane[:, 1:]), (plane[:-1], plane[1:])):
        differ = first != second
        a, b = first[differ], second[differ]
        codes.append(np.minimum(a, b) * side + np.maximum(a, b))
    code = np.unique(np.concatenate(codes))
    return np.stack([code // side, code % side], axis=1)


def parcel_of_region(region_map: ArrayLike, parcel_map: ArrayLike) -> NDArray[np.int64]:
    """Parcel id of each region.

    Args:
        region_map: (H, W) integer, as :func:`regions` gives.
        parcel_map: (H, W) integer ids that the regions come from.

    Returns:
        (R,) int64.

    Raises:
        ParameterError: not integer arrays of one shape (H, W).
    """
    region, parcel = _plane(region_map, "region_map"), _plane(parcel_map, "parcel_map")
    if region.shape != parcel.shape:
        raise ParameterError(f"region_map is {region.shape}, parcel_map {parcel.shape}: they must have one shape")
    ids = np.zeros(int(region.max()) + 1, np.int64)
    ids[region] = parcel
    return ids
