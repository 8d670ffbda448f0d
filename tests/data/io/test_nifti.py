"""NIfTI files with headers as various programs write them, made byte by byte."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from alan.data.io.base import MAX_BYTES
from alan.data.io.cine import read_cine
from alan.data.io.medical import RawFrames, medical_files, medical_layout, read_grey, read_labels, read_medical
from alan.errors import AlanWarning, DataError

_CODES = {"u1": (2, 8), "i2": (4, 16), "f4": (16, 32), "f8": (64, 64), "u2": (512, 16)}
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 12, 9), np.uint8)


def nifti(
    array,
    sizes=None,
    *,
    order="<",
    pixdim=(0.3, 0.5, 1.0, 0.0),
    unit=2,
    slope=(1.0, 0.0),
    cal=(0.0, 0.0),
    sform=None,
    offset=352,
    magic=b"n+1\0",
):
    """The bytes of a NIfTI file; array (T, H, W) or (H, W), sizes as the header shall claim them."""
    array = np.asarray(array)
    code, bits = _CODES[array.dtype.str[1:]]
    sizes = sizes or array.shape[::-1]
    header = bytearray(348)
    struct.pack_into(order + "i", header, 0, 348)
    struct.pack_into(order + "8h", header, 40, len(sizes), *sizes, *[1] * (7 - len(sizes)))
    struct.pack_into(order + "hh", header, 70, code, bits)
    struct.pack_into(order + "8f", header, 76, 1, *pixdim, *[1] * (7 - len(pixdim)))
    struct.pack_into(order + "3f", header, 108, offset, *slope)
    struct.pack_into(order + "2f", header, 124, cal[1], cal[0])
    header[123] = unit
    if sform is not None:
        struct.pack_into(order + "hh", header, 252, 0, 1)
        struct.pack_into(order + "12f", header, 280, *np.ravel(sform)[:12])
    header[344:348] = magic
    return (
        bytes(header) + bytes(max(int(offset) - 348, 0)) + array.astype(array.dtype.newbyteorder(order)).tobytes()
    )


@pytest.fixture
def write(tmp_path):
    def write(data, name="a.nii.gz"):
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", "u2"])
def test_all_types_and_byte_orders_are_read(write, name, order, dtype):
    image = read_medical(write(nifti(FRAMES.astype(dtype), order=order), name))
    assert np.array_equal(image.array, FRAMES)
    assert image.spacing == pytest.approx((0.5, 0.3))


def test_compression_is_recognised_by_content(tmp_path, write):
    plain = nifti(FRAMES)
    (tmp_path / "a.nii.gz").write_bytes(plain)
    (tmp_path / "b.nii").write_bytes(gzip.compress(plain))
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(plain[:500]) + gzip.compress(plain[500:]))  # as bgzip does
    (tmp_path / "d.nii.gz").write_bytes(gzip.compress(plain) + bytes(512))
    for name in ("a.nii.gz", "b.nii", "c.nii.gz", "d.nii.gz"):
        assert np.array_equal(read_medical(tmp_path / name).array, FRAMES), name


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("sizes", [(1, 5), (5, 1), (5,), (1, 5, 1), (1, 1, 5), (1, 1, 1, 5)])
def test_sizes_of_1_are_ignored(write, name, sizes):
    path = write(nifti(FRAMES, (9, 12, *sizes)), name)
    assert np.array_equal(read_medical(path).array, FRAMES)
    assert medical_layout(path).shape == (5, 12, 9)


@pytest.mark.parametrize(
    "sizes", [(9, 12, 5, 2), (9, 12, 1, 5, 2), (9, 12, 1, 1, 3), (9,), (0, 12, 5), (9, -12, 5), (9, 12, 0)]
)
def test_other_dimensions_are_refused(write, sizes):
    with pytest.raises(DataError, match=r"a.nii.gz: claims"):
        read_medical(write(nifti(FRAMES, sizes)))


def test_vectors_are_no_frames(write):
    data = bytearray(nifti(FRAMES, (9, 12, 1, 1, 5)))
    data[68:70] = struct.pack("<h", 1007)  # NIFTI_INTENT_VECTOR
    with pytest.raises(DataError, match=r"a.nii.gz: holds vectors \(intent code 1007\)"):
        read_medical(write(bytes(data)))


def test_frames_along_the_fifth_axis_have_no_stated_times(write):
    cine = read_grey(write(nifti(FRAMES, (9, 12, 1, 1, 5), pixdim=(0.3, 0.5, 1, 0.02), unit=2 + 8)))
    assert (cine.fps, cine.spacing) == (None, pytest.approx((0.5, 0.3)))
    cine = read_grey(write(nifti(FRAMES, (9, 12, 1, 5, 1), pixdim=(0.3, 0.5, 1, 0.02), unit=2 + 8)))
    assert cine.fps == pytest.approx(50)


def test_an_affine_that_is_not_a_rotation_is_accepted(write):
    sheared = [[-0.3, 0.01, 0, 0], [0, -0.5, 0, 0], [0, 0, 1, 0]]
    assert np.array_equal(read_medical(write(nifti(FRAMES, sform=sheared))).array, FRAMES)


@pytest.mark.parametrize(
    ("pixdim", "unit", "spacing", "note"),
    [
        ((0.3, 0.5), 2, (0.5, 0.3), False),
        ((300, 500), 3, (0.5, 0.3), False),  # micrometres
        ((0.0003, 0.0005), 1, (0.5, 0.3), False),  # metres
        ((0.3, 0.5), 0, (0.5, 0.3), True),
        ((1, 1), 2, (1, 1), False),
        ((1, 1), 0, None, False),
        ((0, 0), 2, None, False),
        ((-0.3, 0.5), 2, None, False),
        ((float("nan"), 0.5), 2, None, False),
    ],
)
def test_an_unknown_pixel_size_stays_unknown(write, pixdim, unit, spacing, note):
    cine = read_grey(write(nifti(FRAMES, pixdim=(*pixdim, 1.0, 0.0), unit=unit, sform=np.eye(4))))
    assert cine.spacing == (None if spacing is None else pytest.approx(spacing))
    assert cine.notes == (("pixel size without a unit, assumed to be in mm",) if note else ())


def test_an_impossible_pixel_size_counts_as_unknown(write):
    with pytest.warns(AlanWarning, match="states pixels of 300 x 300 mm, which are left out"):
        assert read_grey(write(nifti(FRAMES, pixdim=(300, 300, 1.0, 0.0), unit=2))).spacing is None


def test_times_are_read(write):
    sequence = (9, 12, 1, 5)
    cine = read_grey(write(nifti(FRAMES, sequence, pixdim=(0.3, 0.5, 1, 20), unit=2 + 16)))  # milliseconds
    assert cine.times == pytest.approx([0, 0.02, 0.04, 0.06, 0.08])
    assert cine.fps == pytest.approx(50)
    cine = read_grey(write(nifti(FRAMES, sequence, pixdim=(0.3, 0.5, 1, 0.5), unit=2 + 8)))  # seconds
    assert cine.times == pytest.approx([0, 0.5, 1, 1.5, 2])
    for unknown in (
        nifti(FRAMES, sequence, pixdim=(0.3, 0.5, 1, 20), unit=2),
        nifti(FRAMES, sequence, pixdim=(0.3, 0.5, 1, 0), unit=18),
        nifti(FRAMES, pixdim=(0.3, 0.5, 20), unit=18),
    ):
        assert read_grey(write(unknown)).times is None


def test_slopes_are_applied(write):
    assert np.array_equal(read_grey(write(nifti(FRAMES // 2, slope=(2, 0)))).frames, FRAMES // 2 * 2)
    assert np.array_equal(read_grey(write(nifti(FRAMES, slope=(0, 5)))).frames, FRAMES)  # 0 means none
    assert np.array_equal(read_grey(write(nifti(FRAMES.astype("f8"), slope=(-1, 255)))).frames, 255 - FRAMES)


@pytest.mark.parametrize("dtype", ["u1", "i2"])
def test_labels_are_read_through_a_slope(write, dtype):
    """As nibabel writes float labels to integers; label 0 comes back as -2e-5."""
    labels = FRAMES % 4
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    slope = np.float32(3 / (highest - lowest))
    intercept = np.float32(-lowest * 3 / (highest - lowest))
    stored = np.clip(np.rint((labels - np.float64(intercept)) / slope), lowest, highest).astype(dtype)
    path = write(nifti(stored, slope=(slope, intercept)))
    assert np.array_equal(read_labels(path, 3), labels)
    assert not np.array_equal(read_medical(path).array, labels) or dtype == "u1"


def test_the_display_range_is_used_for_values_outside_0_to_255(write):
    array = np.array([[0, 300, 600]], "i2")
    assert read_grey(write(nifti(array, cal=(0, 1000)))).frames.tolist() == [[[0, 76, 153]]]
    assert read_grey(write(nifti(array, cal=(0, 500)))).frames.tolist() == [[[0, 128, 255]]]  # it would cut off
    assert read_grey(write(nifti(array // 3, cal=(0, 1000)))).frames.tolist() == [[[0, 100, 200]]]


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_truncated_file_is_refused(write, name):
    noise = np.random.default_rng(1).integers(0, 256, (20, 30), np.uint8)
    path = write(nifti(noise), name)
    whole = path.read_bytes()
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"ends early"):
            read_medical(path)


def test_an_error_names_the_number_of_bytes(write):
    path = write(nifti(FRAMES), "a.nii")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"a.nii: ends early, it holds 852 of 892 bytes; get the file again"):
        read_medical(path)
    path = write(nifti(FRAMES[:1]), "b.nii.gz")
    path.write_bytes(gzip.compress(nifti(FRAMES, (9, 12, 5))[:-40]))
    with pytest.raises(DataError, match=r"b.nii.gz: ends early, it holds 500 of 540 bytes"):
        read_medical(path)


def test_a_corrupted_byte_in_a_compressed_file_is_noticed(write):
    path = write(nifti(np.random.default_rng(1).integers(0, 256, (20, 30), np.uint8)))
    whole = path.read_bytes()
    for place in range(10, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a.nii.gz"):
            read_medical(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("sizes", [(32767, 32767), (30000, 30000, 1000), (1000, 1000, 1000), (5000, 5000, 40)])
def test_a_header_of_huge_size_is_refused(write, name, sizes):
    with pytest.raises(DataError, match=r"claims .* pixels|ends early, \d+ of \d+ bytes"):
        read_medical(write(nifti(np.zeros((2, 2), "f8"), sizes), name))


def test_more_pixels_than_declared_are_reported(write):
    with pytest.raises(DataError, match="holds more pixels than its header claims"):
        read_medical(write(nifti(np.zeros((2000, 2000), "u1"), (9, 12))))
    assert MAX_BYTES < 2**31


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"magic": b"ni1\0"}, "pixels in a second file"),
        ({"offset": 1e9}, "claims 1000000000 bytes before its pixels"),
    ],
)
def test_invalid_headers_are_refused(write, change, words):
    data = nifti(FRAMES, **{**change, "offset": 352})
    if "offset" in change:
        data = data[:108] + struct.pack("<f", change["offset"]) + data[112:]
    with pytest.raises(DataError, match=words):
        read_medical(write(data))


def test_other_files_are_refused(write):
    with pytest.raises(DataError, match=r"a.nii: is not a NIfTI file"):
        read_medical(write(b"no NIfTI file at all" * 40, "a.nii"))


def test_an_offset_of_0_means_the_default_offset(write):
    data = bytearray(nifti(FRAMES))
    data[108:112] = bytes(4)
    assert np.array_equal(read_medical(write(bytes(data[:348] + data[352:]))).array, FRAMES)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_pixels_beyond_an_offset_of_0_are_refused(write, name):
    data = bytearray(nifti(FRAMES))
    data[108:112] = bytes(4)
    with pytest.raises(DataError, match="not state the offset of its pixels, and holds 4 bytes beyond its header"):
        read_medical(write(bytes(data), name))


@pytest.mark.parametrize("pixels", ["a.img", "a.img.gz"])
@pytest.mark.parametrize("offset", [0, 16])
def test_a_header_with_its_pixels_in_a_second_file_is_read(tmp_path, write, pixels, offset):
    whole = nifti(FRAMES, (9, 12, 1, 5), magic=b"ni1\0", offset=offset)
    header = write(whole[:348], "a.hdr")
    with pytest.raises(DataError, match=r"a\.hdr: the file of its pixels, 'a\.img', is missing; copy both files"):
        read_medical(header)
    assert medical_files(header) == (header,)
    second = write(bytes(offset) + FRAMES.tobytes(), pixels)
    image = read_medical(header)
    assert np.array_equal(image.array, FRAMES)
    assert image.spacing == pytest.approx((0.5, 0.3))
    assert np.array_equal(read_cine(header).frames, FRAMES)
    assert medical_files(header) == (header, second)
    if pixels == "a.img":  # the oracle
        assert np.array_equal(nib.load(header).get_fdata().squeeze().T, FRAMES)
    write(FRAMES.tobytes()[:-9], pixels)
    with pytest.raises(DataError, match=r"a\.img.*ends early, "):
        read_medical(header)


def test_headers_of_other_formats_named_hdr_are_refused(write):
    with pytest.raises(DataError, match=r"a\.hdr: is not a NIfTI file"):
        read_medical(write(b"#?RADIANCE\n" * 40, "a.hdr"))
    with pytest.raises(DataError, match=r"is in the format Analyze 7\.5 or damaged; save it as NIfTI"):
        read_medical(write(nifti(FRAMES, magic=b"\0\0\0\0"), "a.hdr"))  # Analyze 7.5, without orientation


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_colours_become_luma(write, name):
    colours = np.random.default_rng(1).integers(0, 256, (3, 12, 9, 3), np.uint8)
    data = bytearray(nifti(np.zeros((3, 12, 9), "u1"), (9, 12, 1, 3)))[:352] + colours.tobytes()
    struct.pack_into("<hh", data, 70, 128, 24)
    path = write(bytes(data), name)
    expected = np.rint(colours @ [0.299, 0.587, 0.114])
    assert np.abs(read_grey(path).frames - expected).max() <= 1
    for frame, rgb in zip(RawFrames(path), colours, strict=True):
        assert np.array_equal(frame.colours(), rgb)
    for read in (read_medical, lambda file: read_labels(file, 3)):
        with pytest.raises(DataError, match="holds colours; save it as values of one channel"):
            read(path)
