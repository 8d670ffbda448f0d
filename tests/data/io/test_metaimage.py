"""Hand-made MetaImage files; those of SimpleITK are tested in test_medical."""

import zlib

import numpy as np
import pytest

from alan.data.io.cine import read_cine
from alan.data.io.grey import luma
from alan.data.io.medical import medical_layout, read_medical
from alan.errors import AlanWarning, DataError

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 12, 9), np.uint8)
PIXELS = FRAMES.tobytes()


@pytest.fixture
def write(tmp_path):
    """Write a header with fields in place of the usual ones (None leaves a field out), and the pixels."""

    def write(data=PIXELS, name="a.mhd", pixels="a.raw", **changes):
        fields = {
            "ObjectType": "Image",
            "NDims": 3,
            "DimSize": "9 12 3",
            "ElementType": "MET_UCHAR",
            "ElementSpacing": "0.25 0.5 1",
            **changes,
            "ElementDataFile": pixels,
        }
        text = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)
        if pixels == "LOCAL":
            (tmp_path / name).write_bytes(text.encode() + data)
        else:
            (tmp_path / name).write_text(text)
            (tmp_path / "a.raw").write_bytes(data)
        return tmp_path / name

    return write


def test_spacing_is_read(write):
    assert read_medical(write()).spacing == (0.5, 0.25)
    assert read_medical(write(ElementSpacing=None, ElementSize="0.2 0.3 1")).spacing == (0.3, 0.2)
    for none in (None, "0 0 0", "-1 1 1", "nan 1 1", ""):
        assert read_medical(write(ElementSpacing=none)).spacing is None
    assert np.array_equal(read_medical(write()).array, FRAMES)
    with pytest.warns(AlanWarning, match="states pixels of 300 x 300 mm"):  # micrometres
        assert read_medical(write(ElementSpacing="300 300 1")).spacing is None


def test_a_byte_order_mark_is_accepted(write):
    path = write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert np.array_equal(read_medical(path).array, FRAMES)


@pytest.mark.parametrize("field", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_big_endian_pixels_are_read(write, field):
    data = FRAMES.astype(">i2").tobytes()
    assert np.array_equal(read_medical(write(data, ElementType="MET_SHORT", **{field: "True"})).array, FRAMES)


def test_the_offset_of_the_pixels_is_followed(write):
    assert np.array_equal(read_medical(write(b"x" * 7 + FRAMES.tobytes(), HeaderSize=7)).array, FRAMES)
    assert np.array_equal(read_medical(write(b"x" * 7 + FRAMES.tobytes(), HeaderSize=-1)).array, FRAMES)
    assert np.array_equal(read_medical(write(name="b.mha", pixels="LOCAL")).array, FRAMES)


@pytest.mark.parametrize("local", [False, True])
def test_compressed_pixels_are_read(write, local):
    data = zlib.compress(FRAMES.tobytes())
    place = {"name": "b.mha", "pixels": "LOCAL"} if local else {}
    for known in ({"CompressedDataSize": len(data)}, {}):
        path = write(data, CompressedData="True", **place, **known)
        assert np.array_equal(read_medical(path).array, FRAMES)


@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_pixels_are_refused(write, compressed):
    data = zlib.compress(FRAMES.tobytes()) if compressed else FRAMES.tobytes()
    for length in [*range(0, len(data), 9), len(data) - 1]:
        path = write(data[:length], CompressedData=str(compressed))
        with pytest.raises(DataError, match=r"a.raw: ends early"):
            read_medical(path)
    if not compressed:
        with pytest.raises(DataError, match=r"a.raw: ends early, it holds 323 of 324 bytes; get the file again"):
            read_medical(path)


def test_truncated_headers_are_refused(write):
    path = write()
    text = path.read_text()
    for length in range(1, text.index("a.raw")):
        path.write_text(text[:length])
        with pytest.raises(DataError, match=r"a.mhd"):
            read_medical(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_colours_become_luma(write, compressed):
    colours = np.random.default_rng(1).integers(0, 256, (*FRAMES.shape, 3), np.uint8)
    data = zlib.compress(colours.tobytes()) if compressed else colours.tobytes()
    path = write(data, ElementNumberOfChannels=3, CompressedData=str(compressed))
    assert np.array_equal(read_cine(path).frames, np.stack(list(map(luma, colours))))
    with pytest.raises(DataError, match="holds colours; save it as values of one channel"):
        read_medical(path)


def test_missing_pixels_are_refused(write, tmp_path):
    path = write()
    (tmp_path / "a.raw").unlink()
    assert medical_layout(path).shape == (3, 12, 9)
    with pytest.raises(DataError, match=r"a.mhd: the file of its pixels, 'a.raw', is missing; copy both files"):
        read_medical(path)


def test_more_bytes_than_claimed_are_reported(write):
    with pytest.warns(AlanWarning, match=r"a.raw: 5 bytes beyond those that the header claims are not read"):
        assert np.array_equal(read_medical(write(FRAMES.tobytes() + b"12345")).array, FRAMES)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a.raw", "sub/../../a.raw"])
def test_pixel_files_outside_the_folder_are_refused(write, name):
    with pytest.raises(DataError, match=r"ElementDataFile is .* give a file in the same folder"):
        read_medical(write(pixels=name))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DimSize": "9 12"}, "NDims is 3 but DimSize has 2 numbers"),
        ({"NDims": 4, "DimSize": "9 12 3 2"}, "a still or one sequence"),
        ({"DimSize": "9 12 -3"}, "claims a size"),
        ({"DimSize": "60000 60000 1"}, "claims 1 x 60000 x 60000 pixels"),
        ({"DimSize": "1000 1000 100000"}, "bytes are decoded"),
        ({"DimSize": "9 twelve 3"}, "cannot be decoded"),
        (
            {"ElementType": "MET_STRING"},
            "1 channels of MET_STRING; save it as RGB of three MET_UCHAR or as grey values",
        ),
        ({"ElementNumberOfChannels": 4}, "4 channels of MET_UCHAR; save it as RGB of three MET_UCHAR"),
        ({"ElementNumberOfChannels": 3, "ElementType": "MET_USHORT"}, "3 channels of MET_USHORT"),
        ({"BinaryData": "False"}, "pixels as text"),
        ({"ElementType": None}, "its header has no ElementType"),
        ({"pixels": "LIST"}, "pixels in several files"),
        ({"pixels": "a%03d.raw 1 3 1"}, "pixels in several files"),
    ],
)
def test_invalid_headers_are_refused(write, changes, words):
    with pytest.raises(DataError, match=words):
        read_medical(write(**changes))


def test_headers_of_other_programs_are_read(write, tmp_path):
    path = write(ElementSpacing="0,25 0,5 1")
    path.write_text(path.read_text().replace("NDims", "# by hand\nNDims").replace("a.raw", '".\\a.raw"'))
    image = read_medical(path)
    assert np.array_equal(image.array, FRAMES)
    assert image.spacing == (0.5, 0.25)
    (tmp_path / "a.raw").rename(tmp_path / "é.raw")
    path.write_text(path.read_text().replace("a.raw", "é.raw"), encoding="utf-8")
    assert np.array_equal(read_medical(path).array, FRAMES)


@pytest.mark.parametrize("spell", [str.lower, str.upper])
def test_names_of_fields_in_another_case_are_read(write, spell):
    path = write(ElementSpacing="0.25 0.5 1", HeaderSize="0")
    lines = [line.partition("=") for line in path.read_text().splitlines()]
    path.write_text("".join(f"{spell(name)}={value}\n" for name, _, value in lines))
    image = read_medical(path)
    assert np.array_equal(image.array, FRAMES)
    assert image.spacing == (0.5, 0.25)
    path.write_text(f"DimSize = 12 9 3\n{path.read_text()}")
    with pytest.raises(DataError, match=r"states DimSize as '12 9 3' and as '9 12 3'; keep one line"):
        read_medical(path)


def test_a_field_with_two_values_is_refused(write):
    path = write()
    path.write_text(f"DimSize = 12 9 3\n{path.read_text()}")
    with pytest.raises(DataError, match=r"states DimSize as '12 9 3' and as '9 12 3'; keep one line"):
        read_medical(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_header_in_another_encoding_is_named(write, encoding):
    path = write()
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(DataError, match=r"a.mhd: its header is in UTF-16; save it as UTF-8"):
        read_medical(path)


def test_other_files_are_refused(tmp_path):
    for content in (b"nothing of the kind", bytes(range(256)) * 1000):
        (tmp_path / "a.mhd").write_bytes(content)
        with pytest.raises(DataError, match=r"a.mhd: is not a MetaImage file"):
            read_medical(tmp_path / "a.mhd")
