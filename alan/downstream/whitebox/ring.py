"""A wall around a cavity: the myocardium lies between the LV's outline and the outline of both together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alan.downstream.readouts.resizing import check_frames
from alan.downstream.whitebox.counting import check_maps, check_masks
from alan.downstream.whitebox.steps import PostProcessing

BoolArray = NDArray[np.bool_]


def ring(
    cavity: ArrayLike,
    wall: ArrayLike,
    parcel_maps: ArrayLike,
    *,
    steps: PostProcessing | None = None,
    frames: ArrayLike | None = None,
) -> BoolArray:
    """Clean a wall as a ring around its cavity.

    A wall by itself has no solid outline, so that components and contours break it. Cavity and wall together have
    one: their union goes through the steps, and the cavity is taken out again. The two do not overlap then.

    Args:
        cavity: (N, H, W) bool, finished masks of the cavity.
        wall: (N, H, W) bool, masks of the wall before post-processing.
        parcel_maps: (N, H, W) integer ids.
        steps: for the union; None: the published ones.
        frames: (N, H, W) uint8, where ``steps`` asks for them.

    Returns:
        (N, H, W) bool, the wall. Where the cavity is empty, the wall is cleaned by a median alone.

    Raises:
        ParameterError: the shapes differ.
    """
    maps = check_maps(parcel_maps)
    inner, outer = check_masks(cavity, maps.shape), check_masks(wall, maps.shape)
    pictures = [None] * len(maps) if frames is None else list(check_frames(frames, maps.shape))
    process = PostProcessing() if steps is None else steps
    alone = PostProcessing.for_structure("myo")
    out = np.empty(maps.shape, bool)
    for n, (parcel_map, frame) in enumerate(zip(maps, pictures, strict=True)):
        if inner[n].any():
            out[n] = process(inner[n] | outer[n], parcel_map, frame) & ~inner[n]
        else:
            out[n] = alone(outer[n], parcel_map)
    return out
