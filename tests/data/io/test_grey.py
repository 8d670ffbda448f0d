"""Conversion of grey values of any source to 0..255."""

import numpy as np
import pytest

from alan.data.io.grey import GreyRange, Window, grey_mapping
from alan.errors import DataError

RAMP = np.arange(256.0).reshape(1, 16, 16)


def to_grey(values, path, **options):
    """Convert the frames of a loop, as readers do."""
    found = GreyRange()
    for frame in values:
        found.add(frame)
    mapping, notes = grey_mapping(found, path, **options)
    return values if mapping is None else np.stack([mapping(frame) for frame in values]), notes


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_values_from_0_to_255_are_kept(dtype):
    frames, notes = to_grey(RAMP.astype(dtype), "a", declared=(0, 65535))
    assert np.array_equal(frames, RAMP)
    assert frames.dtype == np.uint8
    assert notes == ()


def test_values_just_outside_are_rounded():
    frames, notes = to_grey(np.array([[[-0.4, 0.4, 0.6, 254.4, 254.6, 255.4]]]), "a")
    assert frames.tolist() == [[[0, 0, 1, 254, 255, 255]]]
    assert notes == ()


def test_whole_numbers_are_not_scaled_as_fractions():
    assert to_grey(np.array([[[0.0, 1.0]]]), "a")[0].tolist() == [[[0, 1]]]


def test_fractions_up_to_1_are_multiplied_by_255():
    frames, notes = to_grey(RAMP / 255, "a")
    assert np.array_equal(frames, RAMP)
    assert notes == ("grey values multiplied by 255",)
    dim, _ = to_grey(RAMP / 510, "a")  # the darkest and the brightest frame of a loop keep their relation
    assert np.abs(dim - RAMP / 2).max() <= 0.5


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([-1000, 0, 3000], -1000, 3000),
        ([-2.5, 0.3, 1.7], -2.5, 1.7),  # standardised
        ([0.0, 0.5, 1.2], 0, 1.2),  # overshoot of an interpolation
        ([0, 300, 500], 0, 500),
    ],
)
def test_other_values_are_stretched_with_a_note(values, low, high):
    array = np.array([[values]])
    frames, notes = to_grey(array, "a")
    assert np.array_equal(frames, np.rint((array - low) * (255 / (high - low))))
    assert notes == (f"grey values stretched from {low:g}..{high:g}",)


def test_all_frames_are_scaled_alike():
    frames, _ = to_grey(np.array([[[0, 100]], [[0, 1000]]]), "a")
    assert frames.tolist() == [[[0, 26]], [[0, 255]]]


def test_the_declared_range_is_used_unless_almost_empty():
    twelve = np.array([[[0, 2048, 3000]]], np.uint16)
    frames, notes = to_grey(twelve, "a", declared=(0, 4095))
    assert frames.tolist() == [[[0, 128, 187]]]
    assert notes == ("grey values stretched from 0..4095",)
    frames, notes = to_grey(twelve, "a", declared=(0, 65535))  # would be 0, 8, 12
    assert frames.tolist() == [[[0, 174, 255]]]
    assert notes == ("grey values stretched from 0..3000",)


def test_a_window_is_applied_first():
    values = np.array([[[0, 100, 200, 250]]], np.uint8)
    frames, notes = to_grey(values, "a", window=Window(150, 100, "LINEAR_EXACT"))
    assert frames.tolist() == [[[0, 0, 255, 255]]]
    assert notes == ("grey values in the window 150 / 100",)


def test_a_window_without_any_value_is_ignored():
    frames, notes = to_grey(RAMP.astype(np.uint8), "a", window=Window(5000, 10))
    assert np.array_equal(frames, RAMP)
    assert notes == ("the window 5000 / 10 shows no pixel and is not applied",)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(128, 256), (100, 1), (40.5, 33), (2048, 4096)])
def test_windows_agree_with_pydicom(function, center, width):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.pixels.processing import apply_windowing

    values = np.arange(4096, dtype=np.uint16)
    dataset = pydicom.Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = "MONOCHROME2", 12, 0
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = center, width, function
    expected = apply_windowing(values, dataset) / 4095
    assert np.allclose(Window(center, width, function).apply(values), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused(bad):
    with pytest.raises(DataError, match=r"a.nii: holds grey .* replace values that are not finite by 0"):
        to_grey(np.array([[[0, bad]]]), "a.nii")


def test_values_that_are_not_numbers_are_refused():
    with pytest.raises(DataError, match="complex128"):
        to_grey(np.zeros((1, 2, 2), complex), "a")
