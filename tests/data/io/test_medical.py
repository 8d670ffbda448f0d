import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from alan.data.io.medical import read_grey, read_labels, read_medical
from alan.errors import DataError


@pytest.mark.parametrize("suffix", [".nii.gz", ".mhd"])
@pytest.mark.parametrize("length", [None, 1, 3])
def test_rows_are_depth_and_spacing_follows(tmp_path, archives, suffix, length):
    array = np.arange(6 * 10 * (length or 1)).reshape(*([length] if length else []), 6, 10)
    archives.medical(tmp_path / f"a{suffix}", array, spacing=(0.5, 0.25), dtype=np.int16)
    image = read_medical(tmp_path / f"a{suffix}")
    assert np.array_equal(image.array, array.reshape(-1, 6, 10))
    assert image.spacing == pytest.approx((0.5, 0.25))


def test_axis_0_of_the_nifti_is_the_width(tmp_path, archives):
    """The header, read without any library, says how the official files count: dim[1] is the width."""
    archives.medical(tmp_path / "a.nii.gz", np.zeros((6, 10)))
    header = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert struct.unpack("<3h", header[40:46]) == (2, 10, 6)
    assert read_medical(tmp_path / "a.nii.gz").array.shape == (1, 6, 10)


def test_grey_values_are_rounded(tmp_path, archives):
    archives.medical(tmp_path / "a.nii.gz", np.array([[0, 0.4, 0.6], [254.4, 254.6, 255]]))
    frames, _ = read_grey(tmp_path / "a.nii.gz")
    assert frames.dtype == np.uint8
    assert frames[0].tolist() == [[0, 0, 1], [254, 255, 255]]


@pytest.mark.parametrize("bad", [-1, 255.7, np.nan, np.inf])
def test_grey_values_out_of_range(tmp_path, archives, bad):
    archives.medical(tmp_path / "a.mhd", np.array([[0, bad], [3, 4]]))
    with pytest.raises(DataError, match=rf"a.mhd: grey values must be 0 to 255, found {bad}"):
        read_grey(tmp_path / "a.mhd")


@pytest.mark.parametrize("bad", [4, 1.5, -1])
def test_labels_out_of_range(tmp_path, archives, bad):
    archives.medical(tmp_path / "a.mhd", np.array([[0, bad], [3, 1]]))
    with pytest.raises(DataError, match=rf"a.mhd: labels must be 0 to 3, found {bad}"):
        read_labels(tmp_path / "a.mhd", 3)


def test_what_is_no_grey_still_or_sequence(tmp_path):
    sitk.WriteImage(
        sitk.GetImageFromArray(np.zeros((4, 5, 3), np.uint8), isVector=True), str(tmp_path / "rgb.mhd")
    )
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8)), str(tmp_path / "volume.nii.gz"))
    (tmp_path / "bad.nii.gz").write_bytes(b"no")
    for name, words in (
        ("rgb.mhd", "grey"),
        ("volume.nii.gz", "2 or 3"),
        ("bad.nii.gz", "decoded"),
        ("no.mhd", "no such"),
    ):
        with pytest.raises(DataError, match=words):
            read_medical(tmp_path / name)
