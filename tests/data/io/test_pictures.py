"""Stills, masks and stacks of pages in picture files."""

import contextlib
import errno
import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from alan.data.io import base
from alan.data.io.cine import read_cine
from alan.data.io.pictures import colour_code, count_pages, read_mask, read_pages, read_picture
from alan.errors import SHORTAGE, AlanWarning, DataError

RAMP = np.arange(200, dtype=np.uint8).reshape(10, 20)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


#: EXIF orientation to what a viewer does with the stored pixels (EXIF 2.3, table 6).
SHOWN = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: a[::-1, ::-1],
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].T,
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("orientation", SHOWN)
def test_exif_orientation_is_applied_once(tmp_path, suffix, orientation):
    Image.fromarray(RAMP).save(tmp_path / f"a{suffix}", exif=exif(orientation), quality=100)
    expected = SHOWN[orientation](RAMP)
    shown = read_picture(tmp_path / f"a{suffix}")
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).max() <= (3 if suffix == ".jpg" else 0)
    if suffix != ".jpg":
        assert np.array_equal(read_mask(tmp_path / f"a{suffix}").codes, expected)


def test_transparent_pixels_become_black(tmp_path):
    colours = np.full((2, 3, 4), 255, np.uint8)
    colours[0, :, 3] = 0, 51, 255
    Image.fromarray(colours).save(tmp_path / "rgba.png")
    assert read_picture(tmp_path / "rgba.png").tolist() == [[0, 51, 255], [255, 255, 255]]
    Image.fromarray(colours[..., 2:]).save(tmp_path / "la.png")
    assert read_picture(tmp_path / "la.png").tolist() == [[0, 51, 255], [255, 255, 255]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([200, 200, 200, 100, 100, 100])
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_picture(tmp_path / "p.png").tolist() == [[0, 100]]


def test_more_than_8_bits_are_scaled(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png"), RAMP)
    Image.fromarray((RAMP / 255).astype(np.float32)).save(tmp_path / "a.tif")
    assert np.array_equal(read_picture(tmp_path / "a.tif"), RAMP)
    assert read_pages(tmp_path / "a.tif").notes == ("grey values multiplied by 255",)


def save_with_white_zero(array, path):
    """Write a TIFF file of one strip whose tag 262 says that zero is white."""
    Image.fromarray(array).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHL", 262, 3, 1)) + 8
    data[at : at + 2] = bytes(2)
    path.write_bytes(data)


def test_white_as_zero_is_inverted(tmp_path):
    for dtype, scale in ((np.uint8, 1), (np.uint16, 257)):
        save_with_white_zero((RAMP * dtype(scale)).astype(dtype), tmp_path / "a.tif")
        assert np.array_equal(read_picture(tmp_path / "a.tif"), 255 - RAMP)
    save_with_white_zero(RAMP.astype(np.int32), tmp_path / "a.tif")
    with pytest.raises(DataError, match="or has an unusual depth; save it as PNG"):
        read_picture(tmp_path / "a.tif")


def test_cmyk_is_converted(tmp_path):
    Image.fromarray(RAMP).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_picture(tmp_path / "a.jpg").astype(int) - RAMP).max() <= 3


def test_a_stack_is_a_loop_rather_than_a_picture(tmp_path):
    pages = [Image.fromarray(RAMP + index) for index in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(read_pages(tmp_path / "a.tif").frames, [RAMP + index for index in range(5)])
    assert count_pages(tmp_path / "a.tif") == 5
    with pytest.raises(DataError, match=r"a.tif: holds 5 pages; extract its frames with `alan frames`"):
        read_picture(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a.tif: holds 5 pages"):
        read_mask(tmp_path / "a.tif")
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=[Image.fromarray(RAMP[:5])])
    with pytest.raises(DataError, match=r"b.tif: has frames of \(10, 20\) uint8 and \(5, 20\) uint8"):
        read_pages(tmp_path / "b.tif")
    pages[0].save(tmp_path / "c.tif", save_all=True, append_images=[Image.fromarray(RAMP.astype(np.uint16))])
    with pytest.raises(DataError, match=r"uint8 and \(10, 20\) uint16; one size is needed, one depth"):
        read_pages(tmp_path / "c.tif")


def test_a_grey_animation_with_transparency_is_read(tmp_path):
    """Every one of 256 values is used, so that Pillow keeps no palette."""
    loop = np.random.default_rng(5).integers(0, 256, (3, 40, 50), np.uint8)
    first, *others = map(Image.fromarray, loop)
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, transparency=0, disposal=2)
    assert np.abs(read_pages(tmp_path / "a.gif").frames.astype(int) - loop).max() <= 1


@pytest.mark.parametrize(("durations", "notes"), [([20, 20, 20], 0), ([20, 30, 20], 1), ([0, 0, 0], 0)])
def test_an_animation_has_the_times_at_which_its_frames_are_shown(tmp_path, durations, notes):
    first, *others = (Image.fromarray(np.full((8, 8), 60 * n, np.uint8)) for n in range(3))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=durations, loop=0)
    cine = read_pages(tmp_path / "a.gif")
    if durations[0]:
        assert cine.times == pytest.approx(np.cumsum([0, *durations[:2]]) / 1000)
    else:
        assert cine.times is None
    assert len([note for note in cine.notes if "variable frame rate" in note]) == notes


def test_the_still_of_an_animated_png_is_no_frame_of_it(tmp_path):
    pages = [Image.fromarray(RAMP + index) for index in range(5)]
    title = Image.fromarray(255 - RAMP)
    title.save(tmp_path / "a.png", save_all=True, default_image=True, append_images=pages, duration=40)
    found = read_pages(tmp_path / "a.png")
    assert np.array_equal(found.frames, [RAMP + index for index in range(5)])
    assert found.fps == pytest.approx(25)
    assert count_pages(tmp_path / "a.png") == 5


def test_missing_pages_are_refused(tmp_path):
    (tmp_path / "junk.tif").write_bytes(b"II*\0junk")
    assert count_pages(tmp_path / "junk.tif") == 0
    assert count_pages(tmp_path / "none.tif") == 0


@pytest.mark.filterwarnings("ignore::alan.errors.AlanWarning")
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_truncated_stack_is_refused(tmp_path, compression):
    pages = [Image.fromarray(RAMP + index) for index in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], compression=compression)
    whole = (tmp_path / "a.tif").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "b.tif").write_bytes(whole[:length])
        try:
            frames = read_pages(tmp_path / "b.tif").frames
        except DataError:
            continue
        assert len(frames) == 4, f"{len(frames)} of 4 pages after {length} of {len(whole)} bytes"


def test_masks_are_read_by_ids_colours_and_palette(tmp_path):
    ids = np.array([[0, 1, 2]], np.uint8)
    colours = np.array([[0, 0, 0], [9, 8, 7], [1, 2, 3]], np.uint8)
    Image.fromarray(ids).save(tmp_path / "grey.png")
    mask = read_mask(tmp_path / "grey.png")
    assert (mask.codes.tolist(), mask.coloured, mask.palette) == (ids.tolist(), False, None)
    Image.fromarray(ids.astype(np.uint16) * 1000).save(tmp_path / "deep.png")
    assert read_mask(tmp_path / "deep.png").codes.tolist() == [[0, 1000, 2000]]
    Image.fromarray(colours[ids]).save(tmp_path / "rgb.png")
    mask = read_mask(tmp_path / "rgb.png")
    assert (mask.codes.tolist(), mask.coloured) == (colour_code(colours[ids]).tolist(), True)
    image = Image.fromarray(ids, "P")
    image.putpalette(colours.ravel().tolist())
    image.save(tmp_path / "palette.png")
    mask = read_mask(tmp_path / "palette.png")
    assert (mask.codes.tolist(), mask.coloured) == (ids.tolist(), False)
    assert mask.palette.tolist() == colour_code(colours[ids]).tolist()
    image.save(tmp_path / "hole.png", transparency=2)
    mask = read_mask(tmp_path / "hole.png")
    assert mask.codes.tolist() == [[0, 1, 0]]
    assert mask.palette.tolist() == [[0, *colour_code(colours[1:2]).tolist(), 0]]


def test_transparent_pixels_of_masks_are_background(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    code = int(colour_code(np.array([10, 20, 30])))
    assert read_mask(tmp_path / "a.png").codes.tolist() == [[code, 0]]
    assert read_mask(tmp_path / "a.png", opaque=True).codes.tolist() == [[code, code]]
    Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8)).save(tmp_path / "b.png")
    assert read_mask(tmp_path / "b.png").codes.tolist() == [[7, 0]]
    assert read_mask(tmp_path / "b.png", opaque=True).codes.tolist() == [[7, 7]]


def test_pictures_that_are_not_masks_are_refused(tmp_path):
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="this one is F"):
        read_mask(tmp_path / "a.tif")


def bomb(width, height):
    """A PNG whose header claims a size and whose data are a few bytes."""

    def chunk(name, data):
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 6, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10000, 10000), (13300, 13300), (60000, 60000), (2**31 - 1, 1)])
def test_a_header_of_huge_size_is_refused_before_decoding(tmp_path, width, height):
    (tmp_path / "a.png").write_bytes(bomb(width, height))
    for read in (read_picture, read_mask):
        with pytest.raises(DataError, match=r"a.png: (claims|cannot be decoded)"):
            read(tmp_path / "a.png")


def test_a_stack_of_many_pages_is_refused_before_decoding(tmp_path, monkeypatch):
    pages = [Image.fromarray(RAMP) for _ in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    monkeypatch.setattr(base, "MAX_BYTES", 4 * RAMP.size)
    with pytest.raises(DataError, match="claims 5 x 10 x 20 pixels"):
        read_pages(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_truncated_and_other_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(RAMP).save(path)
    whole, shown = path.read_bytes(), read_picture(path)
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with contextlib.suppress(DataError):
            assert np.array_equal(read_picture(path), shown)  # what is missing is no pixel
    path.write_bytes(b"no picture" * 20)
    with pytest.raises(DataError, match="cannot be decoded"):
        read_picture(path)
    with pytest.raises(DataError, match="no such picture"):
        read_picture(tmp_path / f"b{suffix}")
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        read_picture(path)


def test_a_corrupted_byte_in_a_png_is_noticed(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for place in range(60, len(whole) - 20, 11):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"a.png: cannot be decoded"):
            read_picture(tmp_path / "a.png")


def test_decoder_warnings_are_shown_once(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    load = PngImagePlugin.PngImageFile.load_prepare

    def warn_twice(image):
        for _ in range(2):
            __import__("warnings").warn("odd chunk", UserWarning, stacklevel=1)
        return load(image)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", warn_twice)
    with pytest.warns(AlanWarning, match=r"a.png: odd chunk") as caught:
        assert np.array_equal(read_picture(tmp_path / "a.png"), RAMP)
    assert len(caught) == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG, errno.EMFILE])
def test_a_picture_that_cannot_be_opened_is_refused(tmp_path, monkeypatch, number):
    (tmp_path / "a.png").write_bytes(b"secret")
    monkeypatch.setattr(Path, "open", Mock(side_effect=OSError(number, os.strerror(number))))
    kind = OSError if number in SHORTAGE else DataError
    with pytest.raises(kind, match=os.strerror(number)):
        read_picture(tmp_path / "a.png")


def test_warnings_about_code_are_no_notes_on_a_file(tmp_path):
    """Another thread may raise them, such as the server of the page."""
    (tmp_path / "a.png").write_bytes(b"a")

    def read():
        with base.reading(tmp_path / "a.png", "picture"):
            warnings.warn("an old argument", DeprecationWarning, stacklevel=1)
            warnings.warn("an odd pixel", UserWarning, stacklevel=1)

    with pytest.warns(AlanWarning) as caught:
        read()
    assert [str(one.message) for one in caught] == [f"{tmp_path / 'a.png'}: an odd pixel"]


@pytest.mark.parametrize(
    ("fields", "resolution", "fps", "spacing"),
    [
        ("unit=mm\nfinterval=0.04", (2.5, 2), 25, (0.5, 0.4)),
        ("unit=\\u00B5m\nfps=30.0", (0.0025, 0.002), 30, (0.5, 0.4)),
        ("unit=cm\nfinterval=0", (25, 20), None, (0.5, 0.4)),
        ("unit=pixel\nfinterval=0.04", (1, 1), 25, None),
        ("finterval=nan", (2, 2), None, None),
    ],
)
def test_times_and_sizes_of_imagej_are_read(tmp_path, fields, resolution, fps, spacing):
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 9), np.uint8)
    first, *others = map(Image.fromarray, frames)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270] = f"ImageJ=1.54f\nimages=5\nframes=5\n{fields}\nloop=false\n"
    info[282], info[283] = resolution
    first.save(tmp_path / "a.tif", save_all=True, append_images=others, tiffinfo=info)
    found = read_cine(tmp_path / "a.tif")
    assert np.array_equal(found.frames, frames)
    assert found.fps == (None if fps is None else pytest.approx(fps))
    assert found.spacing == (None if spacing is None else pytest.approx(spacing, rel=1e-4))
    info[270] = fields  # of another program
    first.save(tmp_path / "b.tif", save_all=True, append_images=others, tiffinfo=info)
    found = read_cine(tmp_path / "b.tif")
    assert (found.fps, found.spacing) == (None, None)
