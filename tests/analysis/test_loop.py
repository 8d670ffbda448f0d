"""Loops cropped to their fan: geometry, pixel sizes, times, and decoding in parts."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from alan.analysis import NotALoopError, find_sources, open_loops
from alan.analysis.pixels import panel_pixel
from alan.data.fan import Fan
from alan.data.io.base import Header, Region
from alan.data.io.cine import read_cine
from alan.data.simulator.screen import draw_ecg, simulate_screen
from alan.data.simulator.sequence import simulate_sequence
from alan.errors import ParameterError

from .screens import FAN, dicom, nifti, pages, screen, video

pytest.importorskip("pydicom")
LOOP = screen(FAN, text=True)


def open_one(path, **options):
    ((source,), _) = find_sources([path])
    (loop,) = open_loops(source, **options)
    return loop


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


def whole(loop):
    """Place the frames of a loop on the whole screen."""
    frames = np.zeros((loop.n_frames, *loop.screen_shape), np.uint8)
    frames[:, loop.box[0], loop.box[1]] = np.concatenate(list(loop.chunks(4)))
    return frames


def test_a_loop_is_cropped_to_its_fan(tmp_path):
    loop = open_one(video(tmp_path / "a.avi", LOOP))
    frames = whole(loop)
    inside = np.zeros(loop.screen_shape, bool)
    inside[loop.box] = loop.inside
    assert overlap(inside, FAN.mask()) > 0.9
    assert np.array_equal(frames[:, inside], LOOP[:, inside])
    assert not frames[:, ~inside].any()
    assert not frames[:, :10, :32].any()  # the text
    assert loop.inside.any(0).all()
    assert loop.inside.any(1).all()
    assert overlap(loop.fan.mask(), FAN.mask()[loop.box]) > 0.93
    assert np.allclose(loop.times_s, np.arange(6) / 25)
    assert (loop.pixel_mm, loop.pixel_origin, loop.r_waves_s) == (None, None, None)


def written(shape, place, words="DOE^JANE 01/02/1955"):
    picture = Image.fromarray(np.zeros(shape, np.uint8))
    ImageDraw.Draw(picture).text(place, words, fill=255, font=ImageFont.load_default(16))
    return np.asarray(picture)


def test_text_in_a_still_is_painted_over(tmp_path):
    frame = simulate_sequence("A4C", 901, n_frames=1, size=(420, 520), seed=901).frames[0]
    words = written(frame.shape, (180, 200))
    Image.fromarray(np.maximum(frame, words)).save(tmp_path / "a.png")
    loop = open_one(tmp_path / "a.png", stills=True)
    clean = whole(loop)[0]
    assert (clean[words > 200] > 200).mean() < 0.02
    assert any("text inside the sector is painted over" in note for note in loop.notes)
    assert any("in a single frame, only bright text" in note for note in loop.notes)
    far = ~np.pad(loop.text, 1)[1:-1, 1:-1] & loop.inside
    assert np.array_equal(clean[loop.box][far], frame[loop.box][far])


def test_callipers_are_painted_over(tmp_path):
    frames = simulate_sequence("A4C", 902, n_frames=5, size=(240, 300), seed=902).frames
    mark = written(frames.shape[1:], (120, 100), "5.1 cm") > 100
    mark[60:180, 150] = True
    colours = np.repeat(frames[..., None], 3, axis=-1)
    colours[:, mark] = (255, 255, 0)
    loop = open_one(video(tmp_path / "a.mkv", colours))
    assert any("coloured marks inside the sector are painted over" in note for note in loop.notes)
    inside = loop.inside & mark[loop.box]
    assert inside.sum() > 100
    assert (np.concatenate(list(loop.chunks(4)))[:, inside] > 215).mean() < 0.02


@pytest.mark.parametrize("n", [1, 4, 6, 100])
def test_frames_do_not_depend_on_the_length_of_parts(tmp_path, n):
    loop = open_one(video(tmp_path / "a.avi", LOOP))
    parts = list(loop.chunks(n))
    assert [len(part) for part in parts] == [min(n, 6 - start) for start in range(0, 6, n)]
    assert np.array_equal(np.concatenate(parts), np.concatenate(list(loop.chunks(3))))
    with pytest.raises(ParameterError, match="n is 0"):
        next(loop.chunks(0))


def test_the_sector_of_a_simulated_screen_is_found(tmp_path):
    drawn = simulate_screen(5, n_frames=4)
    loop = open_one(video(tmp_path / "a.avi", drawn.frames, "mjpeg", "yuvj420p"))
    inside = np.zeros(loop.screen_shape, bool)
    inside[loop.box] = loop.inside
    assert overlap(inside, drawn.sectors[0]) > 0.92  # text flickers under the codec


def test_a_loop_without_a_screen_is_unchanged(tmp_path):
    clip = simulate_sequence("A4C", 3, n_frames=5, size=112, seed=1).frames
    loop = open_one(video(tmp_path / "a.avi", clip))
    changed = whole(loop) != clip
    assert changed.mean() < 0.005
    assert min(loop.shape) >= 100


@pytest.mark.real
def test_real_stills_are_unchanged():
    root = Path(os.environ.get("ALAN_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "CAMUS"
    paths = [
        root / f"database_nifti/patient{n:04d}/patient{n:04d}_{v}_ED.nii.gz"
        for n in (1, 7)
        for v in ("2CH", "4CH")
    ]
    if not paths[0].is_file():
        pytest.skip(f"no real frames in {root}")
    for path in paths:
        loop = open_one(path, stills=True)
        frame = read_cine(path).frames
        assert loop.fan is not None
        assert (whole(loop) != frame).mean() < 0.005
        assert loop.pixel_origin == "file"


@pytest.mark.real
def test_real_files_of_a_clinic_are_distinguished_with_and_without_their_headers(tmp_path):
    root = Path(os.environ.get("ALAN_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "DICOM"
    if not root.is_dir():
        pytest.skip(f"no real files in {root}")
    kinds = {}
    for source in find_sources([root])[0]:
        with pytest.raises(NotALoopError) as caught:
            open_loops(source)
        kinds[source.path.stem] = caught.value.kind
    assert kinds == {
        "ie33_colour_cine": "colour Doppler",
        "ie33_cw_doppler": "spectral Doppler",
        "ie33_mmode": "M-mode",
        "ie33_tissue_doppler": "tissue Doppler",
    }
    for name, kind in (("ie33_cw_doppler", "spectral Doppler"), ("ie33_mmode", "M-mode")):
        with pytest.warns(match="GB18030") if name else None:
            frame = read_cine(root / f"{name}.dcm").frames[0]
        Image.fromarray(frame).save(tmp_path / f"{name}.png")
        with pytest.raises(NotALoopError) as caught:
            open_one(tmp_path / f"{name}.png")
        assert caught.value.kind == kind


def test_regions_of_another_screen_size_are_rescaled():
    data = pytest.importorskip("pydicom.data")
    loop = open_one(data.get_testdata_file("examples_ybr_color.dcm", download=False))
    assert loop.n_frames == 30
    assert loop.fan.right - loop.fan.left > 1.3  # the dark sides are part of it
    # the regions were written for a screen of twice the size
    assert loop.pixel_mm == pytest.approx((1.02099,) * 2, rel=1e-4)
    assert any("2 times as large" in note for note in loop.notes)


@pytest.mark.parametrize(("scale", "size"), [(2, (1.0, 1.0)), (8, (4.0, 4.0)), (400, None)])
def test_corners_that_no_screen_has_are_no_scale(scale, size):
    region = Region((0, 0, 96, 128), "2d", (0.5, 0.5), stated=(0, 0, scale * 96, scale * 128))
    found, _, notes = panel_pixel(Header(regions=(region,)), (slice(0, 96), slice(0, 128)), None)
    assert found == size
    assert ("reach beyond the frame" in notes[0]) == (size is None)


def test_stills_are_accepted_on_request(tmp_path):
    (tmp_path / "a.png").write_bytes(pages(screen(FAN)[:1], "PNG"))
    with pytest.raises(NotALoopError, match="b-mode still"):
        open_one(tmp_path / "a.png")
    loop = open_one(tmp_path / "a.png", stills=True)
    assert overlap(loop.fan.mask(), FAN.mask()[loop.box]) > 0.93
    assert loop.n_frames == 1


def test_pixel_size_comes_from_option_region_or_file(tmp_path):
    flat = screen(replace(FAN, aspect=0.75, far=66.0))
    path = dicom(tmp_path / "a.dcm", flat, PixelSpacing=[0.3, 0.4])
    loop = open_one(path)
    assert (loop.pixel_mm, loop.pixel_origin) == ((0.3, 0.4), "file")
    assert open_one(path, spacing=(0.6, 0.8)).pixel_mm == (0.6, 0.8)
    regions = [((0, 0, 96, 128), 1, 1, 0.06)]
    path = dicom(tmp_path / "b.dcm", LOOP, regions=regions)
    loop = open_one(path)
    assert (loop.pixel_mm, loop.pixel_origin) == ((pytest.approx(0.6),) * 2, "region")
    loop = open_one(path, spacing=0.5, frame_rate=50)
    assert (loop.pixel_mm, loop.pixel_origin) == ((0.5, 0.5), "option")
    assert loop.times_s == pytest.approx(np.arange(6) / 50)
    with pytest.raises(ParameterError, match="spacing is 0"):
        open_one(path, spacing=0)


def test_each_panel_has_the_pixel_size_of_its_region(tmp_path):
    wide = (96, 256)
    fans = [Fan(6.0, column, 0.0, 84.0, -0.6, 0.6, "curved", wide) for column in (64.0, 192.0)]
    regions = [((0, 0, 96, 128), 1, 1, 0.03), ((0, 128, 96, 256), 1, 1, 0.06)]
    path = dicom(tmp_path / "a.dcm", screen(*fans), regions=regions)
    ((source,), _) = find_sources([path])
    first, second = open_loops(source)
    assert (first.pixel_mm, second.pixel_mm) == ((pytest.approx(0.3),) * 2, (pytest.approx(0.6),) * 2)
    assert (first.name, second.name) == (f"{source.name}_1", f"{source.name}_2")


def test_times_and_r_waves_are_read_from_files(tmp_path):
    loop = open_one(dicom(tmp_path / "a.dcm", LOOP, RWaveTimeVector=[10.0, 810.0]))
    assert loop.r_waves_s == pytest.approx([0.01, 0.81])
    (tmp_path / "a.nii").write_bytes(nifti(LOOP))
    assert open_one(tmp_path / "a.nii").times_s == pytest.approx(np.arange(6) * 0.04)
    (tmp_path / "a.gif").write_bytes(pages(LOOP, "GIF", duration=50, loop=0))
    assert open_one(tmp_path / "a.gif").times_s == pytest.approx(np.arange(6) * 0.05)


@pytest.mark.parametrize("seed", [0, 4])
def test_r_waves_are_read_from_the_screen(tmp_path, seed):
    """A sweep, and a still trace with a mark."""
    fan = replace(FAN, shape=(300, 400), column=200.0, far=190.0)
    frames = screen(fan, length=60)
    phase = (np.arange(60) / 60 * 2.6 + 0.3) % 1.0
    waves = draw_ecg(frames, phase, 25.0, np.random.default_rng(seed))
    loop = open_one(video(tmp_path / "a.avi", frames))
    assert np.abs(loop.drawn_r_waves() - waves).max() < 0.04
    assert not len(open_one(video(tmp_path / "b.avi", screen(fan, length=20))).drawn_r_waves())
