"""Behaviour shared by NIfTI and MetaImage files."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from alan.data.io.medical import medical_layout, read_grey, read_labels, read_medical
from alan.errors import DataError


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mhd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("length", [None, 1, 3])
def test_files_of_simpleitk_are_read_back(tmp_path, archives, suffix, dtype, length):
    array = np.arange(6 * 10 * (length or 1)).reshape(*([length] if length else []), 6, 10)
    path = tmp_path / f"a{suffix}"
    archives.medical(path, array, spacing=(0.5, 0.25), dtype=dtype)
    image = read_medical(path)
    assert np.array_equal(image.array, array.reshape(-1, 6, 10))
    assert image.array.dtype == dtype
    assert image.spacing == pytest.approx((0.5, 0.25))
    assert medical_layout(path).shape == (length or 1, 6, 10)


@pytest.mark.parametrize("suffix", [".mhd", ".mha"])
def test_compressed_metaimages_of_simpleitk_are_read_back(tmp_path, suffix):
    array = np.random.default_rng(0).integers(0, 50, (3, 40, 60), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"a{suffix}"), useCompression=True)
    assert np.array_equal(read_medical(tmp_path / f"a{suffix}").array, array)


def test_the_first_axis_of_nifti_is_the_width(tmp_path, archives):
    """The header, read without any library, says how the official files count: dim[1] is the width."""
    archives.medical(tmp_path / "a.nii.gz", np.zeros((6, 10)))
    header = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert struct.unpack("<3h", header[40:46]) == (2, 10, 6)
    assert read_medical(tmp_path / "a.nii.gz").array.shape == (1, 6, 10)


def test_grey_values_are_scaled_to_0_to_255(tmp_path, archives):
    archives.medical(tmp_path / "a.nii.gz", np.array([[0, 0.4, 0.6], [254.4, 254.6, 255]]))
    cine = read_grey(tmp_path / "a.nii.gz")
    assert cine.frames.dtype == np.uint8
    assert cine.frames[0].tolist() == [[0, 0, 1], [254, 255, 255]]
    assert (cine.times, cine.fps, cine.notes) == (None, None, ())
    assert cine.spacing == (0.5, 0.25)
    archives.medical(tmp_path / "b.nii.gz", np.array([[0, 0.2], [0.6, 1]]))
    cine = read_grey(tmp_path / "b.nii.gz")
    assert cine.frames[0].tolist() == [[0, 51], [153, 255]]
    assert cine.notes == ("grey values multiplied by 255",)
    archives.medical(tmp_path / "c.mhd", np.array([[-1000, 0], [500, 1000]]), dtype=np.int16)
    assert read_grey(tmp_path / "c.mhd").frames[0].tolist() == [[0, 128], [191, 255]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_grey_values_are_refused(tmp_path, archives, bad):
    archives.medical(tmp_path / "a.mhd", np.array([[0, bad], [3, 4]]))
    with pytest.raises(
        DataError, match=r"a.mhd: holds grey values from .* replace values that are not finite by 0"
    ):
        read_grey(tmp_path / "a.mhd")


@pytest.mark.parametrize("bad", [4, 1.5, -1, np.nan, 0.99])
def test_labels_out_of_range_are_refused(tmp_path, archives, bad):
    archives.medical(tmp_path / "a.mhd", np.array([[0, bad], [3, 1]]))
    with pytest.raises(DataError, match=rf"a.mhd: labels must be 0 to 3, found {bad}"):
        read_labels(tmp_path / "a.mhd", 3)


def test_files_other_than_grey_stills_and_sequences_are_refused(tmp_path):
    colours = sitk.GetImageFromArray(np.zeros((4, 5, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / "rgb.mhd"))
    with pytest.raises(DataError, match=r"rgb.mhd: holds colours; save it as values of one channel"):
        read_medical(tmp_path / "rgb.mhd")
    sitk.WriteImage(colours, str(tmp_path / "rgb.nii"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.uint8)), str(tmp_path / "volume.nii.gz"))
    (tmp_path / "bad.nii.gz").write_bytes(b"no")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "pointer.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for name, words in (
        ("rgb.nii", "may be channels of colours; save it as grey values"),
        ("volume.nii.gz", "claims 4 x 3 x 2 x 1 x 5 pixels; a still or one sequence"),
        ("bad.nii.gz", "ends early, it holds 2 of 4 bytes"),
        ("empty.nii.gz", "is empty"),
        ("pointer.nii.gz", "git lfs pull"),
        ("no.mhd", "no such image"),
    ):
        with pytest.raises(DataError, match=f"{name}.*({words})"):
            read_medical(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}.*({words})"):
            medical_layout(tmp_path / name)
