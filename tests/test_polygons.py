import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import draw

from alan.polygons import fill_polygon

SIDES = st.integers(-6, 40)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(3, 30))
def test_polygons_equal_skimage(seed, count):
    polygon = np.random.default_rng(seed).uniform(-10, 50, (count, 2))  # crosses itself: even-odd
    found = fill_polygon((40, 30), polygon)
    np.testing.assert_array_equal(found, draw.polygon2mask((40, 30), polygon))


def inside(row, column, corners):
    """Even-odd rule in whole numbers; centres on an edge count."""
    count = 0
    for (r0, c0), (r1, c1) in zip(corners, corners[1:] + corners[:1], strict=True):
        within = min(r0, r1) <= row <= max(r0, r1) and min(c0, c1) <= column <= max(c0, c1)
        if within and (c1 - c0) * (row - r0) == (column - c0) * (r1 - r0):
            return True
        if (r0 <= row) != (r1 <= row):
            count += c0 + Fraction((row - r0) * (c1 - c0), r1 - r0) < column
    return count % 2 == 1


@settings(max_examples=60)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=3, max_size=8), st.integers(1, 2))
def test_centres_on_an_edge_belong_to_the_polygon(corners, half):
    shape = (12, 9)
    found = fill_polygon(shape, np.array(corners, float) / half)
    expected = [[inside(half * row, half * column, corners) for column in range(9)] for row in range(12)]
    np.testing.assert_array_equal(found, expected)


def test_a_polygon_of_many_points_is_filled_in_seconds():
    angles = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    polygon = np.stack([300 + 200 * np.sin(angles), 400 + 300 * np.cos(angles)], axis=1)
    begin = time.process_time()
    area = fill_polygon((600, 800), polygon).sum()
    assert time.process_time() - begin < 10  # a test of each pixel against each point takes minutes
    assert area == pytest.approx(np.pi * 200 * 300, rel=1e-3)


def test_many_crossings_are_computed_in_parts():
    polygon = np.random.default_rng(0).uniform(0, 300, (30_000, 2))
    halves = [fill_polygon((300, 300), np.concatenate([part, polygon[:1]])) for part in (polygon, polygon[::-1])]
    np.testing.assert_array_equal(*halves)  # either direction crosses the same edges
    assert fill_polygon((4, 4), np.array([[-1e300, -1e300], [-1e300, 1e300], [1e300, 0]])).all()
