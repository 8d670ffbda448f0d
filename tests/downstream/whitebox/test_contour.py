import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage import draw, filters, measure, segmentation

from alan.downstream.whitebox.contour import active_contour, edge_strength, outlines, smooth_outline
from alan.polygons import fill_polygon

PUBLISHED = {"alpha": 0, "beta": 0.2, "gamma": 0.01, "w_line": 0, "w_edge": 1}
OURS = {"beta": 0.2, "gamma": 0.01, "w_edge": 1.0, "max_iterations": 10}
SMOOTH = {"sigma": 3.0, **OURS}


def smooth_mask(seed, shape=(112, 112), share=0.2):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 7)
    labels = measure.label(noise > np.quantile(noise, 1 - share), connectivity=2)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


@pytest.mark.parametrize("seed", range(12))
def test_contour_equals_skimage(seed):
    shape = (112, 112) if seed % 2 else (80, 130)
    mask = smooth_mask(seed, shape)
    image = filters.gaussian(mask, 3, preserve_range=False)
    (start,) = outlines(mask)
    expected = segmentation.active_contour(image, start, **PUBLISHED, max_num_iter=10)
    np.testing.assert_allclose(active_contour(image, start, **OURS), expected, atol=1e-6)
    assert np.abs(expected - start).max() > 0.3  # it moved
    filled = draw.polygon2mask(shape, expected)
    np.testing.assert_array_equal(fill_polygon(shape, expected), filled)
    assert (smooth_outline(mask, **SMOOTH) != filled).sum() == 0


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"max_iterations": 60}, {"max_num_iter": 60}),
        ({"beta": 5.0, "gamma": 0.1, "max_iterations": 200}, {"beta": 5.0, "gamma": 0.1, "max_num_iter": 200}),
        ({"w_edge": -0.5}, {"w_edge": -0.5, "max_num_iter": 10}),
    ],
)
def test_every_term_and_the_convergence_test_equal_skimage(ours, theirs):
    mask = smooth_mask(3)
    image = filters.gaussian(mask, 3, preserve_range=False)
    (start,) = outlines(mask)
    expected = segmentation.active_contour(image, start, **(PUBLISHED | theirs))
    np.testing.assert_allclose(active_contour(image, start, **(OURS | ours)), expected, atol=1e-6)


def test_convergence_stops_early():
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:30] = True
    image = filters.gaussian(mask, 3)
    (start,) = outlines(mask)
    rested = active_contour(image, start, **(OURS | {"max_iterations": 400}))
    np.testing.assert_array_equal(rested, active_contour(image, start, **(OURS | {"max_iterations": 1000})))


def test_edge_strength_equals_skimage():
    image = np.random.default_rng(0).random((20, 30))
    np.testing.assert_allclose(edge_strength(image), filters.sobel(image), atol=1e-12)


def test_outlines_of_hand_placed_masks_are_exact():
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1:4] = True
    (path,) = outlines(mask)
    assert path.tolist() == [[1, 1], [1, 2], [1, 3], [2, 3], [2, 2], [2, 1]]
    line = np.zeros((3, 5), bool)
    line[1, 1:4] = True
    assert [p.tolist() for p in outlines(line)] == [[[1, 1], [1, 2], [1, 3], [1, 2]]]
    dot = np.zeros((3, 3), bool)
    dot[2, 0] = True
    assert [p.tolist() for p in outlines(dot)] == [[[2, 0]]]
    assert outlines(np.zeros((3, 3), bool)) == []


@settings(max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_outlines_equal_a_plain_walk(slow, mask):
    labels = measure.label(mask, connectivity=2)
    found = outlines(mask)
    assert len(found) == labels.max()
    for path in found:
        row, column = path[0].astype(int)
        np.testing.assert_array_equal(path, slow.trace(labels == labels[row, column]))


def test_components_stay_in_place_and_small_ones_are_kept():
    mask = np.zeros((60, 90), bool)
    mask[5:25, 5:25] = mask[30:55, 50:80] = True
    mask[2, 88] = True
    out = smooth_outline(mask, **SMOOTH)
    assert out[15, 15]
    assert out[42, 65]
    assert out[2, 88]  # one pixel cannot be a polygon: it stays
    assert measure.label(out).max() == 3


@pytest.mark.parametrize(
    "change", [{"sigma": 6.0}, {"beta": 5.0}, {"gamma": 0.1}, {"w_edge": 0.0}, {"max_iterations": 1}]
)
def test_each_parameter_changes_the_outline(change):
    mask = smooth_mask(5)
    assert (smooth_outline(mask, **SMOOTH) != smooth_outline(mask, **(SMOOTH | change))).any()


@settings(max_examples=40)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_every_mask_has_an_outline(mask):
    out = smooth_outline(mask, **SMOOTH)
    assert out.shape == mask.shape
    assert out.any() == mask.any()
