import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import hausdorff_distance

from alan.errors import ParameterError
from alan.evaluation.metrics import boundary_pixels, dice, distances, iou, surface_distances


def blob(rng, size=24):
    rows, columns = np.mgrid[:size, :size]
    centre, radii = rng.uniform(6, size - 6, 2), rng.uniform(2, 7, 2)
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def brute_outline(mask):
    padded = np.pad(mask, 1)
    points = []
    for r, c in np.argwhere(mask):
        near = padded[r, c + 1], padded[r + 2, c + 1], padded[r + 1, c], padded[r + 1, c + 2]
        if not all(near):
            points.append((r, c))
    return np.array(points, float).reshape(-1, 2)


def brute_distances(a, b, spacing):
    pa, pb = brute_outline(a) * spacing, brute_outline(b) * spacing
    between = np.sqrt(((pa[:, None] - pb[None]) ** 2).sum(-1))
    return between.min(1), between.min(0)


def test_overlap_matches_hand_computed_values():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[:2, :2] = True  # 4 pixels
    b[1:3, :3] = True  # 6 pixels, 2 shared
    assert dice(a, b) == pytest.approx(2 * 2 / 10)
    assert iou(a, b) == pytest.approx(2 / 8)


def test_empty_masks_are_undefined_or_zero():
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    a, b = np.stack([empty, empty, full, full]), np.stack([empty, full, empty, full])
    for metric in (dice, iou):
        np.testing.assert_array_equal(metric(a, b), [np.nan, 0, 0, 1])
    pairs = ((empty, empty), (empty, full), (full, empty))
    assert np.isnan([distances(x, y, (1.0, 1.0)) for x, y in pairs]).all()


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_dice_and_iou_are_consistent(seed):
    rng = np.random.default_rng(seed)
    a, b = blob(rng), blob(rng)
    overlap = iou(a, b)
    assert dice(a, b) == pytest.approx(2 * overlap / (1 + overlap))
    assert dice(a, b) == dice(b, a)


@pytest.mark.parametrize("seed", range(6))
def test_distances_equal_brute_force(seed):
    rng = np.random.default_rng(seed)
    a, b, spacing = blob(rng), blob(rng), (0.4, 0.7)
    to_b, to_a = brute_distances(a, b, spacing)
    assert sorted(map(tuple, boundary_pixels(a))) == sorted(map(tuple, brute_outline(a).astype(int)))
    got = surface_distances(a, b, spacing)
    np.testing.assert_allclose(np.sort(got[0]), np.sort(to_b))
    np.testing.assert_allclose(np.sort(got[1]), np.sort(to_a))
    expected = max(np.percentile(to_b, 95), np.percentile(to_a, 95)), np.concatenate([to_b, to_a]).mean()
    assert distances(a, b, spacing) == pytest.approx(expected)


def test_hausdorff_distance_equals_scikit_image():
    rng = np.random.default_rng(3)
    a, b = blob(rng), blob(rng)
    outlines = [np.zeros_like(a), np.zeros_like(a)]
    for image, mask in zip(outlines, (a, b), strict=True):
        image[tuple(boundary_pixels(mask).T)] = True
    assert max(map(np.max, surface_distances(a, b, (1.0, 1.0)))) == pytest.approx(hausdorff_distance(*outlines))


def test_a_shift_is_measured_in_millimetres():
    a = np.zeros((20, 20), bool)
    a[5:10, 5:10] = True
    assert distances(a, np.roll(a, 4, axis=0), (0.5, 9.0))[0] == pytest.approx(2.0)
    assert distances(a, np.roll(a, 4, axis=1), (9.0, 0.25))[0] == pytest.approx(1.0)


def test_masks_of_different_shape_are_refused():
    with pytest.raises(ParameterError, match="one shape"):
        dice(np.ones((2, 3), bool), np.ones((3, 2), bool))
    with pytest.raises(ParameterError, match="one pair"):
        distances(np.ones((1, 3, 3), bool), np.ones((1, 3, 3), bool), (1.0, 1.0))


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, math.nan)])
def test_distances_of_volumes_need_positive_sizes_along_each_axis(spacing):
    volume = np.ones((2, 3, 3), bool)
    with pytest.raises(ParameterError, match="finite"):
        surface_distances(volume, volume, spacing)
