import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.morphology import disk

from alan.downstream.whitebox.steps import (
    PostProcessing,
    add_enclaves,
    close,
    main_component,
    median_filter,
)

OFF = {"component": False, "enclaves": False, "closing_radius": 0, "fill": False, "contour": False}
MASKS = arrays(bool, st.tuples(st.integers(1, 25), st.integers(1, 25)))


@settings(max_examples=60)
@given(MASKS, st.integers(1, 12))
def test_closing_equals_scipy(mask, radius):
    grown = ndimage.binary_dilation(mask, disk(radius))
    closed = ndimage.binary_erosion(grown, disk(radius), border_value=1)
    np.testing.assert_array_equal(close(mask, radius), closed)


@settings(max_examples=30)
@given(MASKS, st.integers(1, 4))
def test_median_equals_scipy(mask, radius):
    expected = ndimage.median_filter(mask.astype(np.uint8), footprint=disk(radius)).astype(bool)
    np.testing.assert_array_equal(median_filter(mask, radius), expected)


def test_the_component_with_most_parcels_is_kept_not_the_largest():
    parcel_map = np.zeros((10, 20), np.uint8)
    parcel_map[1:9, 1:9] = 1  # 64 pixels of one parcel
    parcel_map[1:4, 12:14], parcel_map[1:4, 14:16] = 2, 3  # 12 pixels of two
    kept = main_component(parcel_map > 0, parcel_map)
    assert kept.sum() == 12
    assert kept[2, 13]


def test_the_larger_of_components_with_equally_many_parcels_is_kept():
    parcel_map = np.zeros((10, 20), np.uint8)
    parcel_map[1:3, 1:3] = 1
    parcel_map[1:9, 12:18] = 1
    assert main_component(parcel_map > 0, parcel_map)[5, 15]


def ring(regions_inside):
    """A ring of parcel 1 on a background of 0, with the given number of regions in its hole."""
    parcel_map = np.zeros((20, 40), np.uint8)
    parcel_map[4:14, 4:34] = 1
    parcel_map[6:12, 6:32] = 2
    for i in range(regions_inside - 1):
        parcel_map[8:10, 7 + 2 * i] = 3
    return parcel_map


@pytest.mark.parametrize(("inside", "added"), [(1, True), (8, True), (9, False)])
def test_enclaves_of_at_most_eight_regions_are_filled(inside, added):
    parcel_map = ring(inside)
    segment = parcel_map == 1
    out = add_enclaves(segment, parcel_map, 8)
    assert out[7, 10] == added
    assert out.sum() == (300 if added else segment.sum())


def test_a_hole_at_the_border_is_not_an_enclave():
    parcel_map = ring(1)[6:]
    segment = parcel_map == 1
    np.testing.assert_array_equal(add_enclaves(segment, parcel_map, 8), segment)


@pytest.mark.parametrize("step", ["component", "enclaves", "closing_radius", "fill", "contour", "median_radius"])
def test_every_step_alone_changes_the_segment(step):
    parcel_map = ring(1)
    parcel_map[7, 34:37] = 1
    parcel_map[16:18, 30:38] = 1
    union = parcel_map == 1
    np.testing.assert_array_equal(PostProcessing(**OFF)(union, parcel_map), union)
    on = {"closing_radius": 20, "median_radius": 8}.get(step, True)
    out = PostProcessing(**(OFF | {step: on}))(union, parcel_map)
    assert (out != union).any()


def test_lengths_scale_with_the_image():
    small = np.zeros((112, 112), bool)
    small[40:80, 30:50] = small[40:80, 66:90] = True  # a gap of 16: closed by a disk of 10
    large = small.repeat(2, 0).repeat(2, 1)
    steps = PostProcessing(**(OFF | {"closing_radius": 10}))
    ids = np.zeros_like(small, np.uint8)
    assert steps(small, ids)[60, 58]
    assert steps(large, ids.repeat(2, 0).repeat(2, 1))[120, 116]


@settings(max_examples=60)
@given(
    arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30)), elements=st.integers(0, 3)),
    st.sampled_from([0, 3]),
)
def test_every_map_is_processed(parcel_map, median_radius):
    union = parcel_map == 1
    before = union.copy()
    out = PostProcessing(median_radius=median_radius)(union, parcel_map)
    assert out.shape == union.shape
    assert out.dtype == bool
    assert union.any() or not out.any()
    np.testing.assert_array_equal(union, before)


def test_steps_can_differ_by_structure():
    assert PostProcessing.for_structure("lv") == PostProcessing()
    assert not PostProcessing.for_structure("myo").closing_radius
    assert PostProcessing.for_structure("la").median_radius == 3
