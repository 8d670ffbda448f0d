"""Connected regions against a flood fill, and pixel counts against a plain loop."""

import numpy as np
import pytest
from scipy import ndimage

from alan.errors import ParameterError
from alan.parcels.regions import parcel_of_region, parcel_pixels, regions


def random_map(seed, shape=(23, 31), n_parcels=6, smooth=1.5):
    """Blobs: argmax over smoothed noise."""
    noise = np.random.default_rng(seed).normal(size=(n_parcels, *shape))
    return np.stack([ndimage.gaussian_filter(plane, smooth) for plane in noise]).argmax(0).astype(np.uint8)


def slow_regions(parcel_map):
    """Flood fill, pixel by pixel, in reading order."""
    out = np.full(parcel_map.shape, -1)
    count = 0
    for start in np.ndindex(parcel_map.shape):
        if out[start] >= 0:
            continue
        stack = [start]
        out[start] = count
        while stack:
            r, c = stack.pop()
            for nr, nc in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                inside = 0 <= nr < out.shape[0] and 0 <= nc < out.shape[1]
                if inside and out[nr, nc] < 0 and parcel_map[nr, nc] == parcel_map[start]:
                    out[nr, nc] = count
                    stack.append((nr, nc))
        count += 1
    return out


@pytest.mark.parametrize("seed", range(5))
def test_regions_equal_a_flood_fill(seed):
    parcel_map = random_map(seed)
    region_map = regions(parcel_map)
    assert region_map.dtype == np.int32
    np.testing.assert_array_equal(region_map, slow_regions(parcel_map))
    np.testing.assert_array_equal(parcel_of_region(region_map, parcel_map)[region_map], parcel_map)


def test_diagonal_neighbours_are_not_connected():
    checker = np.array([[0, 1], [1, 0]], np.uint8)
    np.testing.assert_array_equal(regions(checker), [[0, 1], [2, 3]])


def test_parcel_zero_forms_regions():
    np.testing.assert_array_equal(regions(np.array([[0, 5, 0]])), [[0, 1, 2]])


def test_a_flat_map_is_one_region():
    assert regions(np.full((3, 4), 7, np.uint8)).max() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint64])
def test_pixels_of_parcels_equal_a_plain_loop(dtype):
    maps = np.stack([random_map(seed) for seed in range(3)]).astype(dtype)
    masks = np.random.default_rng(0).random(maps.shape) < 0.4
    area, inside = parcel_pixels(maps, masks, 8, background_id=2)
    for n, k in np.ndindex(3, 8):
        assert area[n, k] == (0 if k == 2 else (maps[n] == k).sum())
        assert inside[n, k] == (0 if k == 2 else ((maps[n] == k) & masks[n]).sum())
    assert parcel_pixels(maps, masks, 2)[0].shape == (3, 2)  # higher ids are left out


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 3)), np.zeros((2, 3, 4), int), np.zeros((0, 3), int), np.array([[-1]])]
)
def test_invalid_parcel_maps_are_refused(bad):
    with pytest.raises(ParameterError, match="parcel_map"):
        regions(bad)


def test_maps_of_two_shapes_are_refused():
    with pytest.raises(ParameterError, match="one shape"):
        parcel_of_region(np.zeros((2, 2), int), np.zeros((2, 3), int))
