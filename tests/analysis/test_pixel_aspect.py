"""Pixels that are not square: the same heart drawn with other pixels gives the same fan, picture and volumes."""

from fractions import Fraction

import av
import nibabel
import numpy as np
import pytest

from alan.analysis import export_loop, find_sources, open_loops
from alan.analysis.measures import Grid, measure_curves
from alan.data.fan import Fan
from alan.data.preprocessing import resize_frames

from .made import MadeLoop, made_labels, made_result
from .screens import dicom, region

#: Size of the phantom in mm: (depth, width).
DEPTH, WIDTH = 96.0, 108.0


def phantom(row, column, length=6):
    """A fan (T, H, W) uint8 whose texture is a function of the position in mm, and its geometry in pixels."""
    shape = (round(DEPTH / row), round(WIDTH / column))
    fan = Fan(4 / row, WIDTH / 2 / column, 0.0, 80 / column, -0.6, 0.6, "curved", shape, row / column)
    y, x = (np.arange(shape[0])[:, None] + 0.5) * row, (np.arange(shape[1]) + 0.5) * column
    waves = [np.sin(0.35 * y + t) * np.cos(0.3 * x - t) for t in range(length)]
    return np.where(fan.mask(), 120 + 100 * np.stack(waves), 0).astype(np.uint8), fan


def nifti_file(path, row, column):
    frames, fan = phantom(row, column)
    image = nibabel.Nifti1Image(frames.transpose(2, 1, 0)[:, :, None], np.eye(4))
    image.header.set_zooms((column, row, 1, 0.04))
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path / "a.nii.gz")
    return path / "a.nii.gz", fan


def spaced_file(path, row, column):
    frames, fan = phantom(row, column)
    return dicom(path / "a.dcm", frames, PixelSpacing=[row, column]), fan


def region_file(path, row, column):
    frames, fan = phantom(row, column)
    item = region((0, 0, *frames.shape[1:]))
    item.PhysicalDeltaY, item.PhysicalDeltaX = row / 10, column / 10
    return dicom(path / "a.dcm", frames, SequenceOfUltrasoundRegions=[item]), fan


def ratio_file(path, row, column):
    frames, fan = phantom(row, column)
    ratio = Fraction(row / column).limit_denominator(100)
    return dicom(path / "a.dcm", frames, PixelAspectRatio=[ratio.numerator, ratio.denominator]), fan


def video_file(path, row, column):
    frames, fan = phantom(row, column)
    with av.open(str(path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:], "gray"
        stream.codec_context.sample_aspect_ratio = Fraction(column / row).limit_denominator(100)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
    return path / "a.mov", fan


def open_one(path):
    ((source,), _) = find_sources([path])
    (loop,) = open_loops(source)
    return loop


@pytest.mark.parametrize("sides", [(0.3, 0.6), (0.6, 0.4)])
@pytest.mark.parametrize("write", [nifti_file, spaced_file, region_file, ratio_file, video_file])
def test_anisotropic_pixels_give_the_fan_and_picture_of_square_ones(tmp_path, write, sides):
    pytest.importorskip("pydicom")
    path, fan = write(tmp_path, *sides)
    loop = open_one(path)
    assert loop.pixel_aspect == pytest.approx(sides[0] / sides[1], rel=0.01)
    assert loop.pixel_mm == (None if write in (ratio_file, video_file) else pytest.approx(sides, rel=1e-5))
    assert (loop.fan.left, loop.fan.right) == pytest.approx((-0.6, 0.6), abs=0.03)
    inside = np.zeros(loop.screen_shape, bool)
    inside[loop.box] = loop.inside
    assert (inside & fan.mask()).sum() / (inside | fan.mask()).sum() > 0.93
    (tmp_path / "square").mkdir()
    square = open_one(nifti_file(tmp_path / "square", 0.4, 0.4)[0])
    pictures = [
        resize_frames(np.concatenate(list(one.chunks(9))), (112, 112)).astype(float) for one in (loop, square)
    ]
    assert np.corrcoef(pictures[0].ravel(), pictures[1].ravel())[0, 1] > 0.95


def half_spheroid(row, column, scale=1.0, tilt=0.3):
    """(H, W) bool: the upper half of a tilted ellipse, drawn with pixels of given sides in mm."""
    rows, columns = np.mgrid[: round(DEPTH / row), : round(WIDTH / column)]
    y, x = (rows + 0.5) * row - 70, (columns + 0.5) * column - WIDTH / 2
    along, across = y * np.cos(tilt) + x * np.sin(tilt), x * np.cos(tilt) - y * np.sin(tilt)
    return ((along / 60) ** 2 + (across / (22 * scale)) ** 2 <= 1) & (along <= 0)


@pytest.mark.parametrize("sides", [(0.3, 0.6), (0.6, 0.3), (0.4, 0.4)])
def test_volumes_of_half_a_spheroid_do_not_depend_on_the_pixels(sides):
    masks = np.stack([half_spheroid(*sides), half_spheroid(*sides, 0.7)])
    curves = measure_curves(masks, Grid((1.0, 1.0), sides))
    exact = [2 / 3 * np.pi * 6.0 * half**2 for half in (2.2, 2.2 * 0.7)]
    np.testing.assert_allclose(curves.volume, exact, rtol=0.03)
    np.testing.assert_allclose(curves.area, [np.pi / 2 * 6.0 * half for half in (2.2, 2.2 * 0.7)], rtol=0.01)
    unsized = measure_curves(masks, Grid((1.0, 1.0), None, sides[0] / sides[1]))
    assert 1 - unsized.volume[1] / unsized.volume[0] == pytest.approx(1 - 0.7**2, abs=0.01)


def test_outputs_without_a_pixel_size_keep_the_aspect(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    loop = MadeLoop(pixel_mm=None, pixel_aspect=0.5)
    export_loop(tmp_path, loop, made_labels(), made_result(loop), ["nifti", "dicom"])
    out = tmp_path / "loops" / "loop1"
    header = nibabel.load(out / "labels.nii.gz").header
    assert header.get_zooms()[:2] == (1.0, 0.5)
    assert header.get_xyzt_units()[0] == "unknown"
    assert list(pydicom.dcmread(out / "segmentation.dcm").PixelAspectRatio) == [1, 2]


def test_pictures_have_square_pixels(tmp_path):
    loop = MadeLoop(pixel_mm=(0.25, 0.5), pixel_aspect=0.5)
    export_loop(tmp_path, loop, made_labels(), made_result(loop), ["overlay"])
    with av.open(str(tmp_path / "loops" / "loop1" / "overlay.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.width / (stream.height - 88) == pytest.approx(2 * 128 / 96, rel=0.01)
