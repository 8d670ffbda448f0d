"""Thumbnails in TIFF files, and times and sizes in the descriptions of ImageJ, tifffile and OME-TIFF."""

import numpy as np
import pytest
import tifffile
from PIL import Image, TiffImagePlugin

from alan.data.io.cine import is_cine, read_cine
from alan.data.io.pictures import read_mask, read_picture
from alan.errors import DataError

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 32, 48), np.uint8)
#: Planes of an image that is spread over five files.
FILES = "".join(f'<TiffData FirstT="{t}"><UUID FileName="{t}.tif"/></TiffData>' for t in range(5))


def write(path, *pages):
    """Write pages (array, NewSubfileType)."""
    with tifffile.TiffWriter(path) as file:
        for page, kind in pages:
            file.write(page, subfiletype=kind, metadata=None, photometric="minisblack")
    return path


def pixels(more="", inner="", **sizes):
    """OME-XML of one image."""
    stated = {"SizeX": 48, "SizeY": 32, "SizeC": 1, "SizeZ": 1, "SizeT": 5} | sizes
    words = " ".join(f'{name}="{value}"' for name, value in stated.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?><!-- Warning: this comment is an OME-XML metadata block -->'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" {words} {more}>{inner}</Pixels></Image></OME>'
    )


def ome(path, text, frames=FRAMES):
    """Write a stack with a description."""
    first, *others = map(Image.fromarray, frames)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270] = text.encode()
    first.save(path, save_all=True, append_images=others, tiffinfo=info)
    return path


def test_thumbnails_are_no_frames(tmp_path):
    small = FRAMES[0, ::4, ::4]
    stack = [(frame, 0) for frame in FRAMES]
    path = write(tmp_path / "a.tif", stack[0], (small, 1), *stack[1:], (small, 1))
    assert is_cine(path)
    found = read_cine(path)
    assert np.array_equal(found.frames, FRAMES)
    assert found.notes == ("thumbnail pages are left out",)
    still = write(tmp_path / "b.tif", (small, 1), stack[0])
    assert not is_cine(still)
    assert np.array_equal(read_picture(still), FRAMES[0])
    assert np.array_equal(read_mask(still).codes, FRAMES[0])


def test_pages_that_are_not_smaller_are_frames_whatever_they_are_called(tmp_path):
    path = write(tmp_path / "a.tif", *((frame, int(index > 0)) for index, frame in enumerate(FRAMES)))
    assert np.array_equal(read_cine(path).frames, FRAMES)
    path = write(tmp_path / "b.tif", *((frame, 1) for frame in FRAMES))
    assert np.array_equal(read_cine(path).frames, FRAMES)
    path = write(tmp_path / "c.tif", (FRAMES[0], 0), (FRAMES[0, ::2, ::2], 0))
    with pytest.raises(DataError, match="one size is needed"):
        read_cine(path)


@pytest.mark.parametrize(
    ("more", "inner", "fps", "spacing"),
    [
        ('TimeIncrement="0.04" PhysicalSizeX="400" PhysicalSizeY="500"', "", 25, (0.5, 0.4)),
        (
            'TimeIncrement="20" TimeIncrementUnit="ms" PhysicalSizeX="0.4" PhysicalSizeXUnit="mm" '
            'PhysicalSizeY="0.05" PhysicalSizeYUnit="cm"',
            "",
            50,
            (0.5, 0.4),
        ),
        ('PhysicalSizeX="400"', "", None, None),
        (
            'PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"',
            "",
            None,
            None,
        ),
        ('TimeIncrement="1" TimeIncrementUnit="week"', "", None, None),
        # the times of planes, in any order, precede a constant step
        (
            'TimeIncrement="0.04"',
            "".join(f'<Plane TheZ="0" TheC="0" TheT="{t}" DeltaT="{1 + t / 50}"/>' for t in (3, 1, 0, 2, 4)),
            50,
            None,
        ),
        ('TimeIncrement="0.04"', '<Plane TheT="0" DeltaT="1"/><Plane TheT="1" DeltaT="2"/>', 25, None),
        ("", "".join(f'<TiffData IFD="{t}" FirstT="{t}" PlaneCount="1"/>' for t in range(5)), None, None),
    ],
)
def test_times_and_sizes_of_ome_are_read(tmp_path, more, inner, fps, spacing):
    found = read_cine(ome(tmp_path / "a.ome.tif", pixels(more, inner)))
    assert np.array_equal(found.frames, FRAMES)
    assert found.fps == (None if fps is None else pytest.approx(fps))
    assert found.spacing == (None if spacing is None else pytest.approx(spacing))


def test_times_of_planes_may_be_uneven(tmp_path):
    inner = "".join(f'<Plane TheT="{t}" DeltaT="{t * t + t}" DeltaTUnit="ms"/>' for t in range(5))
    found = read_cine(ome(tmp_path / "a.tif", pixels(inner=inner)))
    assert found.times == pytest.approx([0, 0.002, 0.006, 0.012, 0.02])
    assert found.notes == ("variable frame rate, 125 to 500 fps",)


def test_what_tifffile_writes_as_ome_is_read(tmp_path):
    metadata = {"axes": "TYX", "TimeIncrement": 0.04, "PhysicalSizeX": 400.0, "PhysicalSizeY": 500.0}
    tifffile.imwrite(tmp_path / "a.ome.tif", FRAMES, ome=True, metadata=metadata)
    found = read_cine(tmp_path / "a.ome.tif")
    assert np.array_equal(found.frames, FRAMES)
    assert (found.fps, found.spacing) == (pytest.approx(25), pytest.approx((0.5, 0.4)))
    colours = np.repeat(FRAMES[..., None], 3, -1)
    tifffile.imwrite(tmp_path / "b.ome.tif", colours, ome=True, photometric="rgb", metadata={"axes": "TYXS"})
    assert np.array_equal(read_cine(tmp_path / "b.ome.tif").frames, FRAMES)


def test_slices_of_a_volume_are_known_as_such(tmp_path):
    found = read_cine(ome(tmp_path / "a.tif", pixels(SizeZ=5, SizeT=1)))
    assert found.attributes == {"volume": 1.0}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (pixels(SizeT=10), "ends early, it holds 5 of 10 pages"),
        (pixels(SizeT=3), "holds 5 pages, of which its OME-XML states 3"),
        (pixels(SizeT=1, SizeC=5), "holds 5 channels in separate pages"),
        (pixels(SizeT=5, SizeZ=2), "ends early, it holds 5 of 10 pages"),
        (
            pixels(inner="".join(f'<TiffData IFD="{t}" FirstT="{4 - t}"/>' for t in range(5))),
            "not in the order of time",
        ),
        (
            pixels(
                inner="".join(f'<TiffData FirstT="{t}"><UUID FileName="{t}.tif"/></TiffData>' for t in range(5))
            ),
            "is one of several files",
        ),
        (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><BinaryOnly MetadataFile="a"/></OME>',
            "is one of several files",
        ),
        (pixels().replace("</OME>", "<Image ID='Image:1'><Pixels/></Image></OME>"), "holds 2 images"),
        (pixels().replace("</Pixels>", ""), "its OME-XML is damaged"),
        (pixels().replace("<OME", "<!DOCTYPE a [<!ENTITY b 'c'>]><OME"), "has a document type"),
        ("ImageJ=1.54f\nimages=9\nframes=9", "ends early, it holds 5 of 9 pages"),
        ("ImageJ=1.54f\nimages=5\nchannels=5", "holds 5 channels in separate pages"),
        ('{"shape": [9, 32, 48]}', "ends early, it holds 5 of 9 pages"),
    ],
)
def test_stacks_that_are_no_whole_loop_are_refused(tmp_path, text, words):
    with pytest.raises(DataError, match=words):
        read_cine(ome(tmp_path / "a.tif", text))


def test_volumes_over_time_are_refused(tmp_path):
    path = ome(tmp_path / "a.tif", pixels(SizeZ=2, SizeT=3), np.concatenate([FRAMES, FRAMES[:1]]))
    with pytest.raises(DataError, match="holds 3 volumes of 2 slices"):
        read_cine(path)


def test_frames_that_tifffile_stores_in_one_page_are_refused(tmp_path):
    for options in ({"metadata": {"axes": "TYX"}}, {"imagej": True}):
        tifffile.imwrite(tmp_path / "a.tif", FRAMES, truncate=True, **options)
        with pytest.raises(DataError, match="ends early, it holds 1 of 5 pages"):
            read_cine(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "a.tif", np.repeat(FRAMES[..., None], 3, -1), photometric="rgb")
    assert len(read_cine(tmp_path / "a.tif").frames) == 5


@pytest.mark.parametrize("text", ['{"shape": "a"}', '{"shape"', "<OME>", "<a/>", "ImageJ"])
def test_other_descriptions_are_ignored(tmp_path, text):
    if text == "<OME>":
        text = "<b>OME"
    assert np.array_equal(read_cine(ome(tmp_path / "a.tif", text)).frames, FRAMES)


def test_a_still_of_an_image_in_several_files_keeps_its_size(tmp_path):
    sizes = 'PhysicalSizeX="400" PhysicalSizeY="500"'
    found = read_cine(ome(tmp_path / "a.tif", pixels(sizes, FILES), FRAMES[:1]))
    assert (len(found.frames), found.spacing) == (1, pytest.approx((0.5, 0.4)))
