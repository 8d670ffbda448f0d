"""DICOM files, shipped with pydicom and written by the tests."""

import base64
import io
import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from alan.data.io.dicom import DicomFrames, is_dicom
from alan.data.io.frames import read_all
from alan.data.io.grey import luma
from alan.errors import AlanWarning, ConfigError, DataError

pydicom = pytest.importorskip("pydicom")
data = pytest.importorskip("pydicom.data")


def read_dicom(path):
    return read_all(DicomFrames(Path(path)))


def shipped(name):
    return data.get_testdata_file(name, download=False)


@pytest.fixture
def write(tmp_path):
    """Write an uncompressed file; array (T, H, W) or (T, H, W, 3)."""

    def write(array, photometric="MONOCHROME2", bits=8, name="a.dcm", pixels=None, **elements):
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
        dataset.PixelData = pixels or array.tobytes()
        dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
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


def test_a_real_colour_loop_is_read():
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


def test_grey_values_are_read_exactly(write, grey):
    assert np.array_equal(read_dicom(write(grey)).frames, grey)
    assert np.array_equal(read_dicom(write(grey, "MONOCHROME1")).frames, 255 - grey)
    assert np.array_equal(read_dicom(write(np.repeat(grey[..., None], 3, -1), "RGB")).frames, grey)
    twelve = (grey.astype(np.uint16) * 4095) // 255
    assert np.array_equal(read_dicom(write(twelve, bits=12)).frames, np.rint(twelve * (255 / 4095)))


def test_unused_bits_are_ignored(write):
    values = np.array([[[0, 2048, 4095, 4096 + 2048, 61440]]], np.uint16)  # overlays may lie above the 12 bits
    assert read_dicom(write(values, bits=12)).frames.tolist() == [[[0, 128, 255, 128, 0]]]
    assert read_dicom(write(values << 4 | 15, bits=12, HighBit=15)).frames.tolist() == [[[0, 128, 255, 128, 0]]]


def test_colour_is_reduced_to_luma(write):
    colours = np.zeros((1, 1, 4, 3), np.uint8)
    colours[0, 0, :3] = 255 * np.eye(3, dtype=np.uint8)
    assert read_dicom(write(colours, "RGB")).frames.ravel().tolist() == [76, 150, 29, 0]


@pytest.mark.parametrize(
    ("elements", "fps"),
    [
        ({"FrameTime": 20, "CineRate": 99}, 50),
        ({"FrameTimeVector": [20], "CineRate": 33}, 33),
        ({"FrameTimeVector": [20]}, 50),
        ({"FrameTimeVector": [20, 20]}, 50),
        ({"FrameTimeVector": [0, 20, 20.4, 20, 20]}, 50),
        ({"FrameTimeVector": [0, 20, 30, 20, 20]}, None),
        ({"FrameTimeVector": [0, 0, 0, 0, 0]}, None),
        ({"CineRate": 33, "RecommendedDisplayFrameRate": 10}, 33),
        ({"RecommendedDisplayFrameRate": 10}, 10),
        ({"ActualFrameDuration": "20"}, 50),
        ({"ActualFrameDuration": "20", "CineRate": 33, "RecommendedDisplayFrameRate": 10}, 33),
        ({"ActualFrameDuration": "20", "RecommendedDisplayFrameRate": 10}, 50),
        ({"ActualFrameDuration": "0", "RecommendedDisplayFrameRate": 10}, 10),
        ({"FrameTime": 0, "CineRate": 25}, 25),
        ({"FrameTime": 0}, None),
        ({}, None),
    ],
)
def test_a_constant_frame_rate_gives_times(write, grey, elements, fps):
    video = read_dicom(write(grey, **elements))
    assert video.fps == fps
    if fps is None:
        assert video.times is None
    else:
        assert video.times == pytest.approx(np.arange(3) / fps)


@pytest.mark.filterwarnings("ignore:.*times are unknown:alan.errors.AlanWarning")
@pytest.mark.parametrize(
    ("elements", "fps"),
    [
        ({"FrameTime": 1e9}, None),
        ({"FrameTime": 1e-6}, None),
        ({"FrameTime": -20}, None),
        ({"FrameTime": 1e9, "CineRate": 33}, 33),
        ({"CineRate": 1000000}, None),
        ({"CineRate": 1000000, "RecommendedDisplayFrameRate": 10}, 10),
        ({"FrameTimeVector": [0, 10, 1e9]}, None),
        ({"FrameTimeVector": [0, 1e-5, 1e-5], "FrameTime": 20}, 50),
    ],
)
def test_a_frame_rate_that_no_loop_of_a_heart_has_is_unknown(write, grey, elements, fps):
    video = read_dicom(write(grey, **elements))
    assert video.fps == fps
    assert (video.times is None) == (fps is None)


def test_an_unknown_frame_rate_is_reported_with_its_bounds(write, grey):
    message = r"a.dcm: states 1e-06 frames per second, which are left out: a loop of a heart has 1 to 5000"
    with pytest.warns(AlanWarning, match=message):
        read_dicom(write(grey, FrameTime=1e9))


def test_times_sum_the_frame_time_vector(write, grey):
    video = read_dicom(write(grey, FrameTimeVector=[0, 10, 30], FrameTime=99))
    assert video.times == pytest.approx([0, 0.01, 0.04])
    assert video.fps == 50
    assert video.notes == ("variable frame rate, 33.33 to 100 fps",)
    assert read_dicom(write(grey, FrameTimeVector=[0, 20, 20])).notes == ()
    assert read_dicom(write(grey, FrameTimeVector=[10, 30])).times == pytest.approx([0, 0.01, 0.04])
    video = read_dicom(write(grey, FrameTimeVector=[7, 20, 20]))  # some count from the start of the acquisition
    assert video.times == pytest.approx([0, 0.02, 0.04])


def test_the_frame_increment_pointer_chooses_the_times(write, grey):
    both = {"FrameTimeVector": [0, 10, 30], "FrameTime": 25}
    assert read_dicom(write(grey, FrameIncrementPointer=0x00181063, **both)).fps == 40
    assert read_dicom(write(grey, FrameIncrementPointer=0x00181065, **both)).fps == 50


@pytest.mark.parametrize(
    ("vector", "note"),
    [([0, 10], "FrameTimeVector has 2 steps for 3 frames"), ([0, 10, -10], "FrameTimeVector does not increase")],
)
def test_a_frame_time_vector_of_another_length_is_ignored(write, grey, vector, note):
    video = read_dicom(write(grey, FrameTimeVector=vector, FrameTime=40))
    assert video.fps == 25
    assert note in video.notes[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_invalid_number_is_reported(write, grey):
    path = write(grey, CineRate=33, FrameTime="20.0")
    path.write_bytes(path.read_bytes().replace(b"20.0", b"soon"))
    with pytest.warns(AlanWarning, match=r"a.dcm: FrameTime is not a number and is left out"):
        assert read_dicom(path).fps == 33


def test_r_waves_are_read(write, grey):
    assert read_dicom(write(grey)).attributes == {}
    beats = read_dicom(write(grey, HeartRate=72, RWaveTimeVector=[100.0, 900.5])).attributes
    assert beats == {"heart_rate": 72, "r_wave_times": (0.1, 0.9005)}


@pytest.mark.filterwarnings("ignore:.*is left out:alan.errors.AlanWarning", "ignore:.*are left out")
@pytest.mark.parametrize(
    ("elements", "stage"),
    [
        ({"StageNumber": 2, "StageName": "PEAK", "NumberOfStages": 4}, "2"),
        ({"StageNumber": 1, "NumberOfStages": 1, "StageName": "REST"}, None),
        ({"StageNumber": 8150815}, None),
        ({"StageName": " "}, None),
    ],
)
def test_the_stage_of_a_stress_test_is_read(write, grey, elements, stage):
    assert read_dicom(write(grey, **elements)).attributes.get("stage") == stage


def test_the_name_of_a_stage_becomes_a_pseudonym(write, grey):
    names = [
        read_dicom(write(grey, StageName=name)).attributes["stage"] for name in ("Doe Jane", "doe jane ", "Rest")
    ]
    assert names[0] == names[1] != names[2]
    assert "doe" not in names[0].lower()


@pytest.mark.parametrize("wrong", [{"HeartRate": 1000000}, {"HeartRate": -5}, {"RWaveTimeVector": [900, 100]}])
def test_heart_rates_that_no_heart_has_are_left_out(write, grey, wrong):
    with pytest.warns(AlanWarning, match=next(iter(wrong))):
        assert read_dicom(write(grey, **wrong)).attributes == {}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"PatientID": "M\u00fc"}, {"PatientID": "Mu\u0308"}),
        ({"PatientName": "Doe^John"}, {"PatientName": "DOE^JOHN^^"}),
    ],
)
def test_two_spellings_of_a_patient_have_one_pseudonym(write, grey, first, second):
    cases = (("a", first), ("b", second))
    paths = [write(grey, name=name, SpecificCharacterSet="ISO_IR 192", **patient) for name, patient in cases]
    assert read_dicom(paths[0]).patient == read_dicom(paths[1]).patient


#: High-throughput JPEG 2000 of 24 x 32 pixels, 5 y + 4 x, lossless (OpenJPH).
HTJ2K = (
    "/0//UQApQAAAAAAgAAAAGAAAAAAAAAAAAAAAIAAAABgAAAAAAAAAAAABBwEB/1AACAACAAAAAv9SAAwAAgABAAUEBEAB/1wAEyBI"
    "UFBQUFBQUFBQUFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAI0AAf+TwCXhAId0AMASwBKAkAEHdACqAQd0"
    "AMATQBIACPIAgnQA7QozAMAVEAVIQoigAjACdgAsy7LAAAG+tgDAFVAFaAAAAOeAp6fCdwCUiIiI/vpye/fJ7LgAwCtgFrCqqqr5"
    "/inp6enp4noACAAAAAAA/v9xgSe/ZJ79knv2Sey/AP/Z"
)


def test_high_throughput_jpeg_2000_is_decoded(tmp_path, write, grey):
    dataset = pydicom.dcmread(write(grey))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2KLossless
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = 24, 32, 3
    dataset.PixelData = pydicom.encaps.encapsulate([base64.b64decode(HTJ2K)] * 3)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a.dcm")
    expected = np.add.outer(5 * np.arange(24), 4 * np.arange(32))
    frames = read_dicom(tmp_path / "a.dcm").frames
    assert frames.shape == (3, 24, 32)
    assert (frames == expected).all()


def test_jpeg_of_12_bits_is_to_be_exported_uncompressed(tmp_path, write, grey):
    dataset = pydicom.dcmread(write(grey))
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGExtended12Bit
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 20] * 3)
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "a.dcm")
    with pytest.raises(DataError, match=r"a JPEG of 12 bits, which no decoder reads; export it uncompressed$"):
        read_dicom(tmp_path / "a.dcm")


def test_encapsulated_pixels_without_their_end_are_refused(write, grey):
    path = compressed(write(grey), grey, 3)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"a DICOM file without pictures, perhaps cut off; get the file"):
        read_dicom(path)


def test_the_patient_is_a_pseudonym(write, grey):
    first, same, other = (
        read_dicom(write(grey, PatientID=name)).patient for name in ("12345", " 12345 ", "12346")
    )
    assert first == same
    assert first != other
    assert "12345" not in first
    assert read_dicom(write(grey)).patient is None


def test_the_pixel_size_is_read(write, grey):
    large = region(0.05, 0.04, (0, 0, 9, 7))
    other = [region(9, 9, units=4), region(9, 9, form=3)]
    video = read_dicom(write(grey, SequenceOfUltrasoundRegions=[*other, large], PixelSpacing=[7, 7]))
    assert video.spacing == pytest.approx((0.5, 0.4))
    assert [part.kind for part in video.regions] == ["2d", "spectrum", "2d"]
    assert video.notes == (
        "PixelSpacing states 7 mm per row, the region 0.5: the region is used",
        "the pixel size applies to the 2d region only, other regions have none",
    )
    assert [part.spacing for part in video.regions] == [None, None, pytest.approx((0.5, 0.4))]
    video = read_dicom(write(grey, SequenceOfUltrasoundRegions=other, PixelSpacing=[0.3, 0.2]))
    assert video.spacing == (0.3, 0.2)
    assert read_dicom(write(grey)).spacing is None


@pytest.mark.parametrize("wrong", [{"PixelSpacing": [0.0003, 0.0003]}, {"PixelSpacing": [0.3, 40]}, {}])
def test_an_impossible_pixel_size_counts_as_unknown(write, grey, wrong):
    elements = wrong or {"SequenceOfUltrasoundRegions": [region(1e30, 1e30)]}
    with pytest.warns(AlanWarning, match=r"states pixels of .* mm, which are left out"):
        assert read_dicom(write(grey, **elements)).spacing is None


def test_regions_of_different_scale_give_no_pixel_size(write, grey):
    halves = [region(0.03, 0.03, (0, 0, 4, 7)), region(0.06, 0.06, (5, 0, 9, 7))]
    video = read_dicom(write(grey, SequenceOfUltrasoundRegions=halves))
    assert video.spacing is None
    assert [(part.box, part.spacing) for part in video.regions] == [
        ((0, 0, 8, 5), pytest.approx((0.3, 0.3))),
        ((0, 5, 8, 10), pytest.approx((0.6, 0.6))),
    ]
    assert "regions of different scales (0.3, 0.6 mm per row)" in video.notes[0]
    alike = [region(0.03, 0.03, (0, 0, 4, 7)), region(0.0301, 0.03, (5, 0, 9, 7))]
    assert read_dicom(write(grey, SequenceOfUltrasoundRegions=alike)).spacing == pytest.approx((0.3, 0.3))


def test_a_region_with_exchanged_corners_is_read(write, grey):
    (part,) = read_dicom(write(grey, SequenceOfUltrasoundRegions=[region(0.1, 0.1, box=(9, 7, 0, 0))])).regions
    assert part.box == (0, 0, 8, 10)


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS:UserWarning")
def test_elements_without_which_the_pixels_are_clear_may_be_missing(write, grey):
    path = write(grey, PhotometricInterpretation="monochrome2")
    dataset = pydicom.dcmread(path)
    for name in ("BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"):
        del dataset[name]
    dataset.save_as(path)
    assert np.array_equal(read_dicom(path).frames, grey)
    del dataset.PhotometricInterpretation
    dataset.save_as(path)
    assert np.array_equal(read_dicom(path).frames, grey)
    colours = np.repeat(grey[..., None], 3, -1)
    path = write(colours)
    dataset = pydicom.dcmread(path)
    del dataset.PhotometricInterpretation
    dataset.save_as(path)
    assert np.array_equal(read_dicom(path).frames, grey)


def test_regions_outside_the_frame_are_ignored(write, grey):
    parts = [region(0.03, 0.03, (100, 0, 200, 7)), region(0.06, 0.06, (0, 0, 500, 500))]
    video = read_dicom(write(grey, SequenceOfUltrasoundRegions=parts))
    assert [part.box for part in video.regions] == [(0, 0, 8, 10)]


# Grey values


def ramp(dtype, factor=1, offset=0):
    return (np.arange(180).reshape(1, 10, 18) * factor + offset).astype(dtype)


def test_eight_bits_in_sixteen_are_read(write):
    assert np.array_equal(read_dicom(write(ramp(np.uint16), bits=16)).frames, ramp(np.uint8))
    windowed = write(ramp(np.uint16), bits=16, WindowCenter=128, WindowWidth=256)
    assert np.array_equal(read_dicom(windowed).frames, ramp(np.uint8))
    assert read_dicom(windowed).notes == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"RescaleSlope": 0, "RescaleIntercept": 5},
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": -5},
    ],
)
def test_conversions_to_black_are_ignored(write, grey, wrong):
    with pytest.warns(AlanWarning, match="is 0 and is left out|is -5 and is left out"):
        assert np.array_equal(read_dicom(write(grey, **wrong)).frames, grey)


def test_twelve_bits_in_sixteen_are_read(write):
    windowed = read_dicom(write(ramp(np.uint16, 16), bits=16, WindowCenter=2048, WindowWidth=4096))
    assert np.array_equal(windowed.frames, np.rint(ramp(float, 16) * (255 / 4095)))
    assert windowed.notes == ("grey values in the window 2048 / 4096",)
    alone = read_dicom(write(ramp(np.uint16, 16), bits=16))
    assert np.array_equal(alone.frames, np.rint(ramp(float) * (255 / 179)))  # by 16 bits it would be black
    assert alone.notes == ("grey values stretched from 0..2864",)


def test_fewer_than_eight_bits_are_read(write):
    assert read_dicom(write(np.array([[[0, 21, 63]]], np.uint8), bits=6)).frames.tolist() == [[[0, 85, 255]]]


def test_the_modality_lut_is_applied_first(write):
    half = ramp(np.uint8) // 2
    assert np.array_equal(read_dicom(write(half, RescaleSlope=2, RescaleIntercept=1)).frames, half * 2 + 1)
    doubled = read_dicom(write(half, RescaleSlope=2, RescaleIntercept=0, WindowCenter=50.5, WindowWidth=101))
    assert np.abs(doubled.frames - np.clip(half * 2 / 100.0, 0, 1) * 255).max() <= 0.5
    lut = pydicom.Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [4, 0, 8], "US"
    lut.LUTData = np.array([9, 200, 7, 100], "<u2").tobytes()
    frames = read_dicom(write(np.array([[[0, 1, 2, 3, 9]]], np.uint8), ModalityLUTSequence=[lut])).frames
    assert frames.tolist() == [[[9, 200, 7, 100, 100]]]


def test_a_voi_lut_is_applied(write):
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [4, 0, 8]
    lut.LUTData = np.array([0, 255, 51, 102], "<u2").tobytes()
    video = read_dicom(write(np.array([[[0, 1, 2, 3]]], np.uint8), VOILUTSequence=[lut]))
    assert video.frames.tolist() == [[[0, 255, 51, 102]]]


def test_a_window_in_a_functional_group_is_applied(write):
    voi, shared = pydicom.Dataset(), pydicom.Dataset()
    voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = 100, 100, "LINEAR_EXACT"
    shared.FrameVOILUTSequence = [voi]
    measures = pydicom.Dataset()
    measures.PixelSpacing = [0.4, 0.5]
    shared.PixelMeasuresSequence = [measures]
    video = read_dicom(write(np.array([[[50, 100, 150]]], np.uint8), SharedFunctionalGroupsSequence=[shared]))
    assert video.frames.tolist() == [[[0, 128, 255]]]
    assert video.spacing == (0.4, 0.5)


def test_all_frames_are_scaled_alike(write):
    loop = np.concatenate([ramp(np.uint16, 4), ramp(np.uint16, 16)])
    frames = read_dicom(write(loop, bits=12)).frames.astype(int)
    assert np.abs(frames[1] - 4 * frames[0]).max() <= 3


def test_signed_pixels_are_read(write):
    signed = np.array([[[-1000, 0, 1000, 2000]]], np.int16)
    video = read_dicom(write(signed, bits=16, PixelRepresentation=1))
    assert video.frames.tolist() == [[[0, 85, 170, 255]]]
    windowed = write(signed, bits=16, PixelRepresentation=1, WindowCenter=500.5, WindowWidth=1001)
    assert read_dicom(windowed).frames.tolist() == [[[0, 0, 255, 255]]]
    with pytest.raises(DataError, match="signed pixels of 8 bits from -128 to 127; export it unsigned"):
        read_dicom(write(np.array([[[100, 127, 128, 200]]], np.uint8), PixelRepresentation=1))


# What a file promises


def test_files_without_preamble_are_read(tmp_path, write, grey):
    whole = write(grey, FrameTime=20).read_bytes()
    (tmp_path / "IM_0001").write_bytes(whole[132:])
    assert is_dicom(tmp_path / "IM_0001")
    assert np.array_equal(read_dicom(tmp_path / "IM_0001").frames, grey)
    for name in ("ExplVR_LitEndNoMeta.dcm", "ExplVR_BigEndNoMeta.dcm"):  # SOP classes, without pictures
        with pytest.raises(DataError, match="a DICOM file without pictures"):
            read_dicom(shipped(name))
    dataset = pydicom.dcmread(write(grey))
    for implicit in (True, False):
        bare = pydicom.Dataset(dataset)
        bare.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
        bare.save_as(tmp_path / "bare", implicit_vr=implicit, little_endian=True)
        assert is_dicom(tmp_path / "bare")
        assert np.array_equal(read_dicom(tmp_path / "bare").frames, grey)


@pytest.mark.parametrize("count", [1, 9, 10, 30])
@pytest.mark.parametrize("columns", [10, 128])
def test_uncompressed_ybr_full_422_is_read(write, count, columns):
    luma = np.random.default_rng(count).integers(0, 256, (count, 8, columns), np.uint8)
    pixels = np.full((count, 8, 2 * columns), 128, np.uint8)
    pixels[..., 0::4], pixels[..., 1::4] = luma[..., 0::2], luma[..., 1::2]
    path = write(luma, "YBR_FULL_422", SamplesPerPixel=3, PlanarConfiguration=0, pixels=pixels.tobytes())
    assert np.array_equal(read_dicom(path).frames, luma)


def test_ybr_full_422_with_all_samples_is_read(write, grey):
    path = write(np.stack([grey, grey * 0 + 128, grey * 0 + 128], -1), "YBR_FULL_422")
    with pytest.warns(AlanWarning, match="the colours are not subsampled"):
        assert np.array_equal(read_dicom(path).frames, grey)


def test_luma_of_uncompressed_ybr_partial_422_is_expanded(write):
    """Retired, with the levels of television: black is 16, white 235 (PS3.3-2016, C.7.6.3.1.2)."""
    luma = np.random.default_rng(0).integers(0, 256, (3, 8, 10), np.uint8)
    luma[0, 0, :5] = 0, 16, 126, 235, 255
    pixels = np.full((3, 8, 20), 128, np.uint8)
    pixels[..., 0::4], pixels[..., 1::4] = luma[..., 0::2], luma[..., 1::2]
    path = write(luma, "YBR_PARTIAL_422", SamplesPerPixel=3, PlanarConfiguration=0, pixels=pixels.tobytes())
    found = read_dicom(path).frames
    assert found[0, 0, :5].tolist() == [0, 0, 128, 255, 255]
    assert np.array_equal(found, np.clip((luma.astype(int) - 16) * 255 / 219, 0, 255).round())
    (colours,) = (frame.colours() for n, frame in enumerate(DicomFrames(path)) if not n)
    assert np.abs(colours.astype(int) - found[0][..., None]).max() <= 1
    pixels[..., 2::4] = 240  # the bluest
    path = write(luma, "YBR_PARTIAL_422", SamplesPerPixel=3, PlanarConfiguration=0, pixels=pixels.tobytes())
    (colours,) = (frame.colours() for n, frame in enumerate(DicomFrames(path)) if not n)
    assert colours[0, 2].tolist() == [128, 84, 255]


def test_compressed_ybr_partial_422_is_refused(write, grey):
    dataset = pydicom.dcmread(compressed(write(np.stack([grey] * 3, -1), "RGB"), np.stack([grey] * 3, -1), 3))
    dataset.PhotometricInterpretation = "YBR_PARTIAL_422"
    dataset.save_as(dataset.filename)
    with pytest.raises(DataError, match="has the photometric interpretation 'YBR_PARTIAL_422'"):
        read_dicom(dataset.filename)


def compressed(path, frames, count, syntax=pydicom.uid.RLELossless):
    dataset = pydicom.dcmread(path)
    dataset.PixelData = frames.tobytes()
    dataset.NumberOfFrames = len(frames)
    dataset.compress(syntax)
    dataset.NumberOfFrames = count
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("table", ["right", "zeros", "empty", "shifted", "one less", "huge", "odd"])
def test_a_wrong_table_of_offsets_is_ignored_where_each_fragment_is_a_frame(write, extended, table):
    frames = np.random.default_rng(0).integers(0, 256, (4, 20, 30), np.uint8)
    path = compressed(write(frames), frames, 4)
    dataset = pydicom.dcmread(path)
    found = pydicom.encaps.generate_fragmented_frames(dataset.PixelData, number_of_frames=4)
    fragments = [fragment for (fragment,) in found]
    offsets = np.cumsum([0, *(len(fragment) + 8 for fragment in fragments)])[:-1]
    lengths = [len(fragment) for fragment in fragments]
    change = {
        "right": lambda x: x,
        "zeros": lambda x: 0 * x,
        "empty": lambda x: x[:0],
        "shifted": lambda x: np.array([0, x[2], x[2] + 8, x[3]]),  # the second frame would be lost
        "one less": lambda x: x[:-1],
        "huge": lambda x: x + 2**31,
        "odd": lambda x: x,
    }[table]
    wide = "<u8" if extended else "<u4"
    stored = change(offsets).astype(wide).tobytes() + b"\1\0" * (table == "odd" and extended)
    if extended:
        dataset.ExtendedOffsetTable = stored
        dataset.ExtendedOffsetTableLengths = np.array(lengths, wide).tobytes()
        stored = b""
    items = [b"\xfe\xff\x00\xe0" + len(x).to_bytes(4, "little") + x for x in (stored, *fragments)]
    dataset.PixelData = b"".join(items) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    assert np.array_equal(read_dicom(path).frames, frames)
    if extended and table == "zeros":  # the number of frames is wrong, too
        dataset.NumberOfFrames = 3
        dataset.save_as(path)
        with pytest.warns(AlanWarning, match="holds 4 frames where its header states 3; all are read"):
            assert np.array_equal(read_dicom(path).frames, frames)


def test_fewer_frames_than_declared_are_refused(write, grey):
    assert np.array_equal(read_dicom(compressed(write(grey), grey, 3)).frames, grey)
    with pytest.raises(DataError, match=r"a.dcm: ends early, it holds 3 of 10 frames; get the file again"):
        read_dicom(compressed(write(grey), grey, 10))
    with pytest.raises(DataError, match=r"a.dcm: ends early, it holds 240 of 800 bytes"):
        read_dicom(write(grey, NumberOfFrames=10))


def test_more_frames_than_declared_are_read_and_reported(write, grey):
    for path in (write(grey, NumberOfFrames=2), compressed(write(grey), grey, 2)):
        with pytest.warns(AlanWarning, match="holds 3 frames where its header states 2; all are read"):
            assert np.array_equal(read_dicom(path).frames, grey)


def test_frames_are_counted_if_their_number_is_missing(write, grey):
    assert np.array_equal(read_dicom(write(grey, NumberOfFrames=None)).frames, grey)


@pytest.mark.filterwarnings("ignore::alan.errors.AlanWarning")
@pytest.mark.parametrize("syntax", [None, pydicom.uid.RLELossless, pydicom.uid.DeflatedExplicitVRLittleEndian])
def test_a_truncated_file_is_refused(write, syntax):
    noise = np.random.default_rng(0).integers(0, 256, (4, 20, 30), np.uint8)
    path = write(noise, PatientID="1")
    if syntax == pydicom.uid.RLELossless:
        compressed(path, noise, 4)
    elif syntax is not None:
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)
    whole = path.read_bytes()
    assert np.array_equal(read_dicom(path).frames, noise)
    for length in range(1, len(whole), 13):
        path.write_bytes(whole[:length])
        try:
            frames = read_dicom(path).frames
        except DataError:
            continue
        assert np.array_equal(frames, noise), length  # what is missing is no pixel


@pytest.mark.filterwarnings("ignore::alan.errors.AlanWarning")
def test_a_truncated_jpeg_loop_is_refused(tmp_path):
    whole = open(shipped("examples_ybr_color.dcm"), "rb").read()  # noqa: PTH123, SIM115
    for share in (0.3, 0.7, 0.99, 0.9999):
        (tmp_path / "a.dcm").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(DataError, match=r"a.dcm: .*(of 30 frames|cannot be decoded|perhaps cut off)"):
            read_dicom(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    "claims",
    [
        {"Rows": 65535, "Columns": 65535},
        {"NumberOfFrames": 2**31 - 1},
        {"Rows": 5000, "Columns": 5000, "NumberOfFrames": 500},
        {"Rows": 0},
        {"NumberOfFrames": 0},
        {"NumberOfFrames": -5},
    ],
)
def test_headers_with_false_sizes_are_refused(write, grey, claims):
    for path in (write(grey, **claims), compressed(write(grey), grey, 3)):
        dataset = pydicom.dcmread(path)
        for name, value in claims.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
        with pytest.raises(DataError, match=r"a.dcm: (claims|states|ends early)"):
            read_dicom(path)


def test_a_deflated_file_that_inflates_without_bound_is_refused(tmp_path, write, grey, monkeypatch):
    dataset = pydicom.dcmread(write(grey))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.PixelData = bytes(3_000_000)
    dataset.save_as(tmp_path / "a.dcm")
    assert (tmp_path / "a.dcm").stat().st_size < 5000
    monkeypatch.setattr("alan.data.io.dicom.MAX_BYTES", 2_000_000)
    with pytest.raises(DataError, match="inflates to more than 2000000 bytes"):
        read_dicom(tmp_path / "a.dcm")


def test_an_element_that_claims_gigabytes_is_refused(write, grey):
    path = write(grey, PatientID="somebody")
    data = path.read_bytes()
    at = data.index(b"\x10\x00\x20\x00LO")
    path.write_bytes(data[: at + 4] + b"UN\0\0" + (2**32 - 2).to_bytes(4, "little") + data[at + 8 :])
    with pytest.raises(DataError, match=r"a.dcm"):
        read_dicom(path)


# Encodings


def video(frames, container):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream("mpeg4" if container == "mp4" else "mpeg2video", rate=25)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        for array in frames:
            frame = av.VideoFrame.from_ndarray(array, format="gray").reformat(format="yuv420p")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("container", "uid"),
    [
        ("mp4", "1.2.840.10008.1.2.4.102"),
        ("mpeg2video", "1.2.840.10008.1.2.4.100"),
        ("mpegts", "1.2.840.10008.1.2.4.101"),
        ("mp4", "1.2.840.10008.1.2.4.102.1"),
    ],
)
def test_video_in_dicom_is_read(tmp_path, write, container, uid):
    rows, columns = np.indices((48, 64))
    frames = np.stack([rows * 2 + columns + 5 * t for t in range(8)]).astype(np.uint8)
    dataset = pydicom.dcmread(write(frames, FrameTime=20))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
    data = video(frames, container)
    parts = [data[:500], data[500:]] if uid.endswith(".1") else [data]
    dataset.PixelData = pydicom.encaps.encapsulate([part + b"\0" * (len(part) % 2) for part in parts])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "v.dcm")
    got = read_dicom(tmp_path / "v.dcm")
    assert got.frames.shape == frames.shape
    assert np.abs(got.frames.astype(int) - frames).mean() < 3
    assert got.fps == 50  # as in the header, not as in the stream
    dataset.NumberOfFrames = 20
    dataset.save_as(tmp_path / "v.dcm")
    with pytest.raises(DataError, match=r"v.dcm: ends early, it holds 8 of 20 frames"):
        read_dicom(tmp_path / "v.dcm")


@pytest.mark.parametrize(
    "name", ["SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jls_lossy_line.dcm", "examples_jpeg2k.dcm", "SC_rgb_rle_2frame.dcm"]
)
def test_compressions_of_the_dicom_extra_are_read(name):
    path = shipped(name)
    got = read_dicom(path).frames
    expected = pydicom.pixels.pixel_array(path)
    grey = np.asarray([Image.fromarray(f).convert("L") for f in expected.reshape(-1, *expected.shape[-3:])])
    assert np.abs(got.astype(int) - grey).max() <= 1


def test_a_jpeg_declared_as_rgb_is_read(write, grey):
    """The stream is YCbCr, as its JFIF marker says."""
    colours = np.repeat(np.repeat(np.repeat(grey[..., None], 3, -1), 4, 1), 4, 2)
    dataset = pydicom.dcmread(write(colours, "RGB"))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    streams = []
    for frame in colours:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=95)
        streams.append(buffer.getvalue() + b"\0" * (len(buffer.getvalue()) % 2))
    dataset.PixelData = pydicom.encaps.encapsulate(streams)
    dataset["PixelData"].is_undefined_length = True
    path = Path(dataset.filename)
    dataset.save_as(path)
    with pytest.warns(AlanWarning, match="Photometric Interpretation"):
        frames = read_dicom(path).frames
    assert np.abs(frames.astype(int) - colours[..., 0]).max() <= 6


def test_a_decoder_that_is_missing_is_named(monkeypatch):
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda _: False))
    with pytest.raises(DataError) as caught:
        read_dicom(shipped("SC_rgb_jls_lossy_line.dcm"))
    assert str(caught.value).partition("SC_rgb_jls_lossy_line.dcm: ")[2] == (
        "is compressed as JPEG-LS Lossy (Near-Lossless) Image Compression"
        ", for which no decoder is installed: pip install 'alan-echo[dicom]' brings pyjpegls, "
        "pylibjpeg-openjpeg and python-gdcm"
    )


def test_a_crash_of_a_decoder_ends_only_its_own_process(tmp_path, monkeypatch):
    whole = bytearray(Path(shipped("SC_rgb_jpeg_gdcm.dcm")).read_bytes())
    at = whole.index(b"\xff\xd8\xff") + 4
    whole[at : at + 60] = bytes(60)
    (tmp_path / "a.dcm").write_bytes(whole)
    with pytest.raises(DataError, match=r"a.dcm: cannot be decoded"):
        read_dicom(tmp_path / "a.dcm")
    monkeypatch.setattr("sys.executable", "false")
    with pytest.raises(DataError, match=r"SC_rgb_jpeg_gdcm.dcm: cannot be decoded \(its decoder crashed\)"):
        read_dicom(shipped("SC_rgb_jpeg_gdcm.dcm"))


def test_unsupported_encodings_and_kinds_are_refused(tmp_path, write, grey):
    dataset = pydicom.dcmread(write(grey))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID("1.2.840.113619.5.2")
    dataset.save_as(tmp_path / "a.dcm", implicit_vr=True, little_endian=True)
    with pytest.raises(DataError, match=r"a.dcm: is encoded as 1.2.840.113619.5.2, which is not supported"):
        read_dicom(tmp_path / "a.dcm")
    with pytest.raises(DataError, match="the photometric interpretation 'HSV'; export it as grey or RGB"):
        read_dicom(write(np.repeat(grey[..., None], 3, -1), "HSV"))


@pytest.mark.real
def test_real_files_of_a_clinic_are_read():
    folder = Path(os.environ.get("ALAN_REAL_DATA", Path(__file__).parents[4] / "shared" / "data")) / "DICOM"
    if not folder.is_dir():
        pytest.skip(f"no real files in {folder}")
    with pytest.warns(AlanWarning, match="GB18030"):
        loops = {path.stem: read_dicom(path) for path in sorted(folder.glob("*.dcm"))}
    cine = loops["ie33_colour_cine"]
    assert cine.frames.shape == (16, 600, 800)
    assert cine.times == pytest.approx(np.arange(16) * 0.102)
    assert cine.spacing == pytest.approx((0.3086960,) * 2)
    kinds = {name: {part.kind for part in loop.regions} for name, loop in loops.items()}
    assert kinds["ie33_mmode"] == {"2d", "m-mode"}
    assert kinds["ie33_cw_doppler"] == {"2d", "spectrum"}


def test_a_file_without_pictures_is_refused():
    with pytest.raises(DataError, match=r"test-SR.dcm: a DICOM file without pictures \(SR\)"):
        read_dicom(shipped("test-SR.dcm"))


def test_pictures_of_floating_point_numbers_are_refused(tmp_path, write, grey):
    dataset = pydicom.dcmread(write(grey))
    dataset.FloatPixelData = grey.astype(np.float32).tobytes()
    del dataset.PixelData
    dataset.save_as(tmp_path / "float.dcm")
    with pytest.raises(DataError, match=r"float.dcm: holds pixels of floating point; export them"):
        read_dicom(tmp_path / "float.dcm")


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused(tmp_path, write, grey):
    (tmp_path / "junk.dcm").write_bytes(b"junk" * 50)
    with pytest.raises(DataError, match=r"junk.dcm: is not a DICOM file"):
        read_dicom(tmp_path / "junk.dcm")
    with pytest.raises(DataError, match="no such DICOM file"):
        read_dicom(tmp_path / "none.dcm")
    whole = write(grey).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"cut.dcm"):
        read_dicom(tmp_path / "cut.dcm")
    for length in range(140, len(whole) - 240, 7):
        (tmp_path / "cut.dcm").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut.dcm"):
            read_dicom(tmp_path / "cut.dcm")


@pytest.mark.parametrize("end", [b"\x02\x00\x00\x00", b"\x08\x00", b"\xe0\x7f\x10\x00"])
def test_a_file_of_zeros_is_refused_quickly(tmp_path, write, grey, end):
    """A file that was allocated but never written contains zeros only; parsing it as elements would take hours."""
    whole = write(grey).read_bytes()
    (tmp_path / "hole.dcm").write_bytes(whole[: whole.index(end, 132)])
    os.truncate(tmp_path / "hole.dcm", 2**36)
    with pytest.raises(DataError, match=r"hole.dcm: (a DICOM file without pictures|holds zeros in place of)"):
        read_dicom(tmp_path / "hole.dcm")


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "loop.mp4")
    assert not is_dicom(tmp_path / "loop.mp4")


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        (
            {"InConcatenationNumber": 2, "InConcatenationTotalNumber": 3},
            "is part 2 of 3 of a loop",
        ),
        ({"InConcatenationNumber": 1}, "is a part of a loop in several files"),
        ({"InConcatenationNumber": 1, "InConcatenationTotalNumber": 1}, ""),
    ],
)
def test_a_part_of_a_concatenation_is_no_whole_loop(write, grey, elements, words):
    path = write(grey, ConcatenationUID="1.2.3", **elements)
    if not words:
        assert np.array_equal(read_dicom(path).frames, grey)
        return
    with pytest.raises(DataError, match=words):
        read_dicom(path)
    assert len(read_dicom(write(grey[:1], ConcatenationUID="1.2.3", **elements)).frames) == 1  # a still


def test_a_missing_pydicom_names_the_extra(monkeypatch, write, grey):
    path = write(grey)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"alan-echo\[dicom\]"):
        read_dicom(path)


def test_dicom_is_recognised_by_its_first_bytes(tmp_path, write, grey):
    assert is_dicom(write(grey))
    assert not is_dicom(tmp_path / "none")
    (tmp_path / "short").write_bytes(b"DICM")
    assert not is_dicom(tmp_path / "short")


def test_samples_per_pixel_that_contradict_the_colours_are_refused(write, grey):
    with pytest.raises(DataError, match="states 1 samples per pixel, but RGB has 3; export it again"):
        read_dicom(write(np.repeat(grey[..., None], 3, 3), "RGB", SamplesPerPixel=1))
    with pytest.raises(DataError, match="states 3 samples per pixel, but MONOCHROME2 has 1"):
        read_dicom(write(grey, SamplesPerPixel=3, PlanarConfiguration=0))


def lumas(colours):
    return np.stack([luma(np.ascontiguousarray(frame)) for frame in colours])


def smooth(shape, seed=0):
    """A loop of smooth pictures of three different colours."""
    noise = np.random.default_rng(seed).normal(size=(2, *shape, 3))
    found = ndimage.gaussian_filter(noise, (0, 4, 4, 0))
    return np.clip(128 + 300 * found, 0, 255).astype(np.uint8)


def layouts(colours):
    """The pixels of a loop (T, H, W, 3) by the value of PlanarConfiguration."""
    return colours.tobytes(), np.ascontiguousarray(np.moveaxis(colours, -1, 1)).tobytes()


@pytest.mark.parametrize("stated", [0, 1])
@pytest.mark.parametrize("kind", ["grey", "colours"])
def test_a_wrong_planar_configuration_is_noticed(write, stated, kind):
    colours = smooth((80, 96))
    colours = np.repeat(colours[..., :1], 3, -1) if kind == "grey" else colours
    truth = read_dicom(write(colours, "RGB", pixels=layouts(colours)[stated], PlanarConfiguration=stated)).frames
    assert np.abs(truth - lumas(colours).astype(float)).max() <= 1
    path = write(colours, "RGB", pixels=layouts(colours)[1 - stated], PlanarConfiguration=stated)
    how = "plane by plane" if stated == 0 else "pixel by pixel"
    with pytest.warns(AlanWarning, match=f"PlanarConfiguration is wrong: colours are stored {how}"):
        assert np.array_equal(read_dicom(path).frames, truth)


def test_a_layout_of_noise_and_of_small_pictures_is_believed(write):
    noise = np.random.default_rng(0).integers(0, 256, (1, 80, 96, 3), np.uint8)
    small = smooth((40, 48))
    plain = np.full((1, 80, 96, 3), (200, 100, 0), np.uint8)
    for layout in (0, 1):
        path = write(plain, "RGB", pixels=layouts(plain)[layout], PlanarConfiguration=layout)
        assert np.array_equal(read_dicom(path).frames, lumas(plain))
    for colours in (noise, small):
        found = read_dicom(write(colours, "RGB", pixels=layouts(colours)[1], PlanarConfiguration=0)).frames
        read_as_stated = np.frombuffer(layouts(colours)[1], np.uint8).reshape(colours.shape)
        assert np.array_equal(found, lumas(read_as_stated))


def test_colours_without_a_planar_configuration_are_read_pixel_by_pixel(write, grey):
    path = write(np.repeat(grey[..., None], 3, 3), "RGB", PlanarConfiguration=None)
    assert np.array_equal(read_dicom(path).frames, grey)
