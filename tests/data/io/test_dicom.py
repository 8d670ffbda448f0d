"""DICOM: files that ship with pydicom, and written ones."""

import numpy as np
import pytest

from alan.data.io.dicom import is_dicom, read_dicom
from alan.errors import ConfigError, DataError

pydicom = pytest.importorskip("pydicom")
data = pytest.importorskip("pydicom.data")


def shipped(name):
    return data.get_testdata_file(name, download=False)


@pytest.fixture
def write(tmp_path):
    """Write an uncompressed file; array (T, H, W) or (T, H, W, 3)."""

    def write(array, photometric="MONOCHROME2", bits=8, name="a.dcm", **elements):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.UltrasoundMultiFrameImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=["a"])
        dataset.NumberOfFrames, dataset.Rows, dataset.Columns = array.shape[:3]
        dataset.SamplesPerPixel = 3 if array.ndim == 4 else 1
        if array.ndim == 4:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated = 8 * array.dtype.itemsize
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
        for key, value in elements.items():
            setattr(dataset, key, value)
        dataset.PixelData = array.tobytes()
        dataset.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write


@pytest.fixture
def grey():
    return np.random.default_rng(0).integers(0, 256, (3, 8, 10), np.uint8)


def region(row, column, box=(0, 0, 9, 7), units=3, form=1):
    item = pydicom.Dataset()
    item.RegionSpatialFormat, item.RegionDataType = form, 1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = column, row
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box
    return item


def test_a_real_cine_loop_in_colour():
    video = read_dicom(shipped("examples_ybr_color.dcm"))
    assert video.frames.shape == (30, 240, 320)
    assert video.frames.dtype == np.uint8
    assert video.fps == pytest.approx(30, rel=1e-3)  # FrameTime 33.333 ms
    assert video.spacing == pytest.approx((0.5104970559, 0.5104970559))
    raw = pydicom.pixels.pixel_array(shipped("examples_ybr_color.dcm"), raw=True, index=4)
    assert np.abs(video.frames[4].astype(int) - raw[..., 0]).mean() < 1  # Y of YBR is luma
    assert video.frames[0].std() > 10  # a dark sector on black, but a picture


def test_a_palette_becomes_grey():
    video = read_dicom(shipped("examples_palette.dcm"))
    dataset = pydicom.dcmread(shipped("examples_palette.dcm"))
    tables = [
        np.frombuffer(getattr(dataset, f"{name}PaletteColorLookupTableData"), "<u2") // 256
        for name in ("Red", "Green", "Blue")
    ]
    indices = dataset.pixel_array.astype(int) - dataset.RedPaletteColorLookupTableDescriptor[1]
    colours = np.stack([table[indices] for table in tables], axis=-1)
    assert np.abs(video.frames[0] - colours @ np.array([0.299, 0.587, 0.114])).max() < 2
    # the second region is a Doppler spectrum, which has no size
    assert video.spacing == pytest.approx((0.26228787661969978,) * 2)
    assert video.fps is None


def test_grey_comes_back_bit_by_bit(write, grey):
    assert np.array_equal(read_dicom(write(grey)).frames, grey)
    assert np.array_equal(read_dicom(write(grey, "MONOCHROME1")).frames, 255 - grey)
    assert np.array_equal(read_dicom(write(np.repeat(grey[..., None], 3, -1), "RGB")).frames, grey)
    twelve = (grey.astype(np.uint16) * 4095) // 255
    assert np.array_equal(read_dicom(write(twelve, bits=12)).frames, np.rint(twelve * (255 / 4095)))


def test_bits_that_are_not_stored_do_not_count(write):
    values = np.array([[[0, 2048, 4095, 4096 + 2048, 61440]]], np.uint16)  # overlays may lie above the 12 bits
    assert read_dicom(write(values, bits=12)).frames.tolist() == [[[0, 128, 255, 128, 0]]]


def test_colour_is_reduced_to_luma(write):
    colours = np.zeros((1, 1, 4, 3), np.uint8)
    colours[0, 0, :3] = 255 * np.eye(3, dtype=np.uint8)
    assert read_dicom(write(colours, "RGB")).frames.ravel().tolist() == [76, 150, 29, 0]


@pytest.mark.parametrize(
    ("elements", "fps"),
    [
        ({"FrameTime": 20, "CineRate": 99}, 50),
        ({"FrameTimeVector": [0, 10, 30]}, 50),
        ({"FrameTimeVector": [20], "CineRate": 33}, 33),
        ({"CineRate": 33, "RecommendedDisplayFrameRate": 10}, 33),
        ({"RecommendedDisplayFrameRate": 10}, 10),
        ({"FrameTime": 0}, None),
        ({}, None),
    ],
)
def test_frame_rate(write, grey, elements, fps):
    assert read_dicom(write(grey, **elements)).fps == fps


def test_pixel_size(write, grey):
    small, large = region(0.02, 0.03, (0, 0, 4, 4)), region(0.05, 0.04, (0, 0, 9, 7))
    other = [region(9, 9, units=4), region(9, 9, form=3)]
    video = read_dicom(write(grey, SequenceOfUltrasoundRegions=[*other, small, large], PixelSpacing=[7, 7]))
    assert video.spacing == pytest.approx((0.5, 0.4))
    assert read_dicom(write(grey, SequenceOfUltrasoundRegions=other, PixelSpacing=[0.3, 0.2])).spacing == (
        0.3,
        0.2,
    )
    assert read_dicom(write(grey)).spacing is None


def test_no_pictures_in_it():
    with pytest.raises(DataError, match=r"test-SR.dcm: a DICOM file without pictures \(SR\)"):
        read_dicom(shipped("test-SR.dcm"))


@pytest.mark.filterwarnings("ignore")
def test_damaged_files(tmp_path, write, grey):
    with pytest.raises(DataError, match="signed"):
        read_dicom(write(grey, PixelRepresentation=1))
    (tmp_path / "junk.dcm").write_bytes(b"junk" * 50)
    with pytest.raises(DataError, match=r"junk.dcm: cannot be decoded"):
        read_dicom(tmp_path / "junk.dcm")
    with pytest.raises(DataError, match="no such file"):
        read_dicom(tmp_path / "none.dcm")
    whole = write(grey).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"cut.dcm"):
        read_dicom(tmp_path / "cut.dcm")
    for length in range(140, len(whole) - 240, 7):
        (tmp_path / "cut.dcm").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut.dcm"):
            read_dicom(tmp_path / "cut.dcm")


def test_a_coding_that_nobody_can_read(tmp_path):
    dataset = pydicom.dcmread(shipped("examples_ybr_color.dcm"))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(DataError, match=r"a.dcm: cannot be decoded"):
        read_dicom(tmp_path / "a.dcm")


def test_without_pydicom(monkeypatch, write, grey):
    path = write(grey)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"alan-echo\[dicom\]"):
        read_dicom(path)


def test_the_first_bytes(tmp_path, write, grey):
    assert is_dicom(write(grey))
    assert not is_dicom(tmp_path / "none")
    (tmp_path / "short").write_bytes(b"DICM")
    assert not is_dicom(tmp_path / "short")
