"""Damaged and unusual files: each is refused with a reason or read with a note; the other files are processed."""

import re
import zipfile

import numpy as np
import pytest

from alan.analysis import NotALoopError, find_sources, open_loops
from alan.data.fan import Fan
from alan.data.io import frames as frame_streams
from alan.errors import DataError

from .screens import FAN, colour, dicom, metaimage, nifti, pages, screen, speckle, steady, video

pytest.importorskip("pydicom")
LOOP = screen(FAN, text=True)
WIDE = (96, 256)
LEFT, RIGHT = (Fan(6.0, column, 0.0, 84.0, -0.6, 0.6, "curved", WIDE) for column in (64.0, 192.0))
QUAD = [
    Fan(row, column, 0.0, 66.0, -0.6, 0.6, "curved", (160, 192)) for row in (6.0, 84.0) for column in (48.0, 144.0)
]
NOISE = np.random.default_rng(1).bytes(4000)
INSIDE = FAN.mask()
DEEPER = np.zeros_like(LOOP)
DEEPER[:3], DEEPER[3:, ::2, 32:96] = LOOP[:3], LOOP[3:, ::2, ::2]
DEEPER[3:, :48, 32:96], DEEPER[3:, 48:] = DEEPER[3:, ::2, 32:96], 0
TITLE = np.full((2, 96, 128), 235, np.uint8)
TITLE[:, 40:50, 20:100:4] = 10
BLACK = np.zeros((1, 96, 128), np.uint8)
SPECK = BLACK.copy()
SPECK[0, 51, 61] = 200
LINEAR = np.zeros((6, 96, 128), np.uint8)
LINEAR[:, 4:90, 30:100] = np.maximum(speckle((96, 128)), 60)[:, 4:90, 30:100]
FLOW = [np.zeros_like(INSIDE) for _ in range(2)]
VELOCITY = colour(LOOP)
VELOCITY[:, :, :64, 0], VELOCITY[:, :, 64:, 2] = 0, 0
FLOW[0][40:48, 50:60], FLOW[1][55:62, 64:74] = True, True


def save(name, data):
    def make(folder):
        (folder / name).write_bytes(data() if callable(data) else data)

    return make


def cut(name, data, share=0.6):
    """Truncate a file."""

    def make(folder):
        whole = data(folder / f"whole_{name}") if callable(data) else data
        if not isinstance(whole, bytes):
            content = whole.read_bytes()
            whole.unlink()
            whole = content
        (folder / name).write_bytes(whole[: int(share * len(whole))])

    return make


def archive(folder):
    with zipfile.ZipFile(folder / "a.avi", "w") as file:
        file.writestr("loop.avi", LOOP.tobytes())


def sound(folder):
    import av

    with av.open(str(folder / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def stills(*arrays):
    def make(folder):
        for number, array in enumerate(arrays):
            (folder / f"still_{number:03d}.png").write_bytes(pages(array[None], "PNG"))

    return make


def raw(make_pixels):
    def make(folder):
        (folder / "a.mhd").write_bytes(metaimage(LOOP, "a.raw"))
        if make_pixels:
            (folder / "a.raw").write_bytes(LOOP.tobytes()[:5000])

    return make


def film(frames, name="a.avi", **options):
    return lambda folder: video(folder / name, frames, **options)


def named(name, make, other):
    """Give a file another name."""

    def write(folder):
        make(folder)
        (folder / name).rename(folder / other)

    return write


def header(frames, name="a.dcm", **elements):
    return lambda folder: dicom(folder / name, frames, **elements)


def of(value, dtype=np.float32):
    """The loop with one invalid value."""
    frames = LOOP.astype(dtype)
    frames[2, 50, 60] = value
    return frames


def strip(lines):
    """An M-mode or Doppler strip below a small fan."""
    small = Fan(2.0, 64.0, 0.0, 36.0, -0.6, 0.6, "curved", (96, 128))
    frame = screen(small)[:1]
    rng = np.random.default_rng(0)
    if lines:
        frame[0, 44:92, 4:124] = np.repeat(rng.integers(30, 200, (48, 1)), 120, 1) + rng.integers(0, 9, (48, 120))
    else:
        tall = np.abs(np.sin(np.arange(120) / 7)) * 40
        spectrum = np.where(np.arange(48)[:, None] < 6 + tall, rng.integers(60, 220, (48, 120)), 8)
        frame[0, 44:92, 4:124] = spectrum
    return frame


DAMAGED = {
    "zero bytes, avi": (save("a.avi", b""), "is empty"),
    "zero bytes, mp4": (save("a.mp4", b""), "is empty"),
    "zero bytes, dicom": (save("a.dcm", b""), "is empty"),
    "zero bytes, nifti": (save("a.nii.gz", b""), "is empty"),
    "zero bytes, mhd": (save("a.mhd", b""), "is empty"),
    "zero bytes, png": (save("a.png", b""), "is empty"),
    "zero bytes, gif": (save("a.gif", b""), "is empty"),
    "cut, avi": (cut("a.avi", lambda path: video(path, LOOP, "mjpeg", "yuvj420p")), "ends early|damaged|decoded"),
    "cut, mp4": (cut("a.mp4", lambda path: video(path, LOOP, "mpeg4", "yuv420p")), "cannot be decoded"),
    "cut, mkv": (cut("a.mkv", lambda path: video(path, LOOP)), "ends early|damaged|decoded"),
    "cut, mov": (cut("a.mov", lambda path: video(path, LOOP, "mjpeg", "yuvj420p")), "cannot be decoded"),
    "cut, tif": (cut("a.tif", pages(LOOP, "TIFF")), "cannot be decoded|ends early"),
    "cut, png": (cut("a.png", pages(LOOP[:1], "PNG")), "cannot be decoded"),
    "cut, jpg": (cut("a.jpg", pages(LOOP[:1], "JPEG")), "cannot be decoded"),
    "cut, bmp": (cut("a.bmp", pages(LOOP[:1], "BMP")), "cannot be decoded"),
    "cut, gif": (cut("a.gif", pages(LOOP, "GIF")), "cannot be decoded|ends early"),
    "cut, webp": (cut("a.webp", pages(LOOP, "WEBP", lossless=True)), "cannot be decoded"),
    "cut, dicom": (cut("a.dcm", lambda path: dicom(path, LOOP)), "ends early|cannot be decoded"),
    "cut, nii": (cut("a.nii", nifti(LOOP)), "ends early, .* of .* bytes"),
    "cut, nii.gz": (cut("a.nii.gz", nifti(LOOP, compressed=True)), "ends early"),
    "cut, check sum of nii.gz": (cut("a.nii.gz", nifti(LOOP, compressed=True), 0.9999), "check sum"),
    "cut, mha": (cut("a.mha", metaimage(LOOP)), "ends early, .* of .* bytes"),
    "cut, compressed mha": (cut("a.mha", metaimage(LOOP, compressed=True)), "ends early"),
    "cut, raw of mhd": (raw(make_pixels=True), "ends early, it holds 5000 of .* bytes"),
    "raw of mhd is missing": (raw(make_pixels=False), "the file of its pixels, .*, is missing"),
    "raw of mhd outside": (save("a.mhd", metaimage(LOOP, "../../etc/passwd")), "give a file in the same folder"),
    "text as avi": (save("a.avi", b"this is no video\n" * 40), "cannot be decoded"),
    "web page as mp4": (save("a.mp4", b"<html><body>log in</body></html>" * 9), "cannot be decoded"),
    "playlist as avi": (save("a.avi", b"ffconcat version 1.0\nfile /etc/passwd\n"), "cannot be decoded"),
    "zip as avi": (archive, "cannot be decoded"),
    "sound": (sound, "has no video stream"),
    "pointer": (save("a.avi", b"version https://git-lfs.github.com/spec/v1\noid 1\n"), "a pointer of Git LFS"),
    "encrypted": (save("a.dcm", bytes(128) + b"DICM" + NOISE), "cannot be decoded|without pictures|no DICOM"),
    "noise as dicom": (save("a.dcm", NOISE), "is not a DICOM file"),
    "noise as nii.gz": (save("a.nii.gz", NOISE), "is not a NIfTI file"),
    "noise as mp4": (save("a.mp4", NOISE), "cannot be decoded"),
    "noise as tif": (save("a.tif", NOISE), "cannot be decoded"),
    "no NIfTI magic": (save("a.nii", nifti(LOOP, magic=b"\0\0\0\0")), "in the format Analyze 7.5 or damaged"),
    "complex values": (save("a.nii", nifti(LOOP.astype(np.complex64))), "holds complex64 values"),
    "nifti with opacity": (save("a.nii", nifti(LOOP, code=2304)), "holds .* values"),
    "five dimensions": (save("a.nii", nifti(LOOP, dims=(5, 128, 96, 2, 3, 2, 1, 1))), "one sequence"),
    "huge header": (save("a.nii", nifti(LOOP, dims=(4, 30000, 30000, 1, 6, 1, 1, 1))), "claims .* pixels"),
    "offset far away": (save("a.nii", nifti(LOOP, offset=1e9)), "ends early"),
    "more frames claimed, nifti": (save("a.nii", nifti(LOOP, dims=(4, 128, 96, 1, 900, 1, 1, 1))), "ends early"),
    "more frames claimed, mha": (save("a.mha", metaimage(LOOP, sizes="128 96 900")), "ends early"),
    "more frames claimed, dicom": (header(LOOP, stated=900), "ends early"),
    "no frames claimed, dicom": (header(LOOP, stated=0), "states 0 frames"),
    "huge rows, dicom": (header(LOOP, Rows=65000, Columns=65000), "claims .* pixels"),
    "signed, dicom": (header(of(200, np.uint8), PixelRepresentation=1), "holds signed pixels"),
    "unknown colours, dicom": (header(LOOP, PhotometricInterpretation="HSV"), "the photometric interpretation"),
    "NaN": (save("a.nii", nifti(of(np.nan))), "grey values from nan"),
    "infinity": (save("a.nii", nifti(of(np.inf))), "grey values from .* to inf"),
    "stills of two sizes": (stills(*steady(LOOP), LOOP[2, :80]), "one size is needed"),
}
#: SOP classes of a comprehensive report, an encapsulated PDF and an ultrasound loop.
REPORT, PDF, CINE = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.3.1"


def without_pixels(modality, *lacking, **elements):
    """Write a DICOM file without pixels and without some other elements."""

    def write(folder):
        import pydicom

        path = dicom(folder / "a.dcm", LOOP, Modality=modality, **elements)
        dataset = pydicom.dcmread(path)
        for name in ("PixelData", *lacking):
            del dataset[name]
        dataset.save_as(path)

    return write


DAMAGED |= {
    "an image without pixels": (without_pixels("US"), "a DICOM file without pictures"),
    "an image without pixels of any modality": (without_pixels("DOEJANE"), "without pictures, perhaps cut off"),
    "an image without pixels and size": (without_pixels("US", "Rows", SOPClassUID=CINE), "without pictures"),
    "no pixels and no class": (without_pixels("US", "Rows"), "without pictures"),
}
OTHER = {
    "a report": (without_pixels("SR", "Rows", SOPClassUID=REPORT), "not an echo", "not an echo, a report without"),
    "raw data of a machine": (
        without_pixels("US", "Rows", SOPClassUID="1.3.46.670589.2.5.1.1"),
        "not an echo",
        "a DICOM object without",
    ),
    "a document": (without_pixels("MRN0815", "Rows", SOPClassUID=PDF), "not an echo", "a DICOM object without"),
    "another modality": (header(LOOP, Modality="CT"), "not an echo", "modality CT; if it shows an echo, export"),
    "contrast agent": (header(LOOP, ContrastBolusAgent="SonoVue"), "contrast", "names a contrast agent"),
    "one frame, avi": (film(LOOP[:1]), "b-mode still", "one frame"),
    "one frame, png": (save("a.png", pages(LOOP[:1], "PNG")), "b-mode still", "one frame"),
    "one frame, dicom": (header(LOOP[:1]), "b-mode still", "one frame"),
    "one frame, nifti": (save("a.nii", nifti(LOOP[:1])), "b-mode still", "one frame"),
    "frozen": (film(np.repeat(LOOP[:1], 5, 0)), "b-mode still", "its 5 frames do not differ"),
    "black": (film(np.zeros_like(LOOP)), "not an echo", "span 0 of 255"),
    "one grey": (film(np.full_like(LOOP, 90)), "not an echo", "span 0 of 255"),
    "white noise": (
        film(np.random.default_rng(0).integers(0, 256, LOOP.shape, np.uint8)),
        "not an echo",
        "it has no sector",
    ),
    "a film": (
        film(np.clip(colour(speckle((96, 128))).astype(int) + np.array([120, 60, 0]), 0, 255).astype(np.uint8)),
        "not an echo",
        "coloured",
    ),
    "bright everywhere": (film(np.maximum(speckle((96, 128)), 90)), "not an echo", "it has no sector"),
    "8 x 8 pixels": (film(LOOP[:, 40:48, 60:68]), "not an echo", "8 x 8 pixels"),
    "1 x 1 pixels": (save("a.nii", nifti(LOOP[:, 50:51, 60:61])), "not an echo", "1 x 1 pixels"),
    "two rows": (save("a.nii", nifti(LOOP[:, 50:52])), "not an echo", "128 x 2 pixels"),
    "m-mode by its lines": (
        save("a.png", pages(strip(True), "PNG")),
        "M-mode",
        "a strip of lines that continue in time",
    ),
    "spectrum by its strip": (
        save("a.png", pages(strip(False), "PNG")),
        "spectral Doppler",
        "are a strip without",
    ),
    "m-mode by its header": (
        header(LOOP, regions=[((50, 0, 96, 128), 2, 1)]),
        "M-mode",
        "a region whose columns are times",
    ),
    "spectrum by its header": (
        header(LOOP, regions=[((48, 0, 96, 128), 3, 4, 4.0, (4, 7))]),
        "spectral Doppler",
        "continuous-wave",
    ),
    "tissue by its header": (
        header(LOOP, regions=[((48, 0, 96, 128), 3, 3, 0.4, (4, 7))]),
        "tissue Doppler",
        "19 cm/s",
    ),
    "upside down": (film(LOOP[:, ::-1]), "not upright", "turn or flip it by 180 degrees"),
    "on its side": (film(np.rot90(LOOP, 1, (1, 2))), "not upright", "turn or flip it by 90 degrees"),
    "a page with a title": (
        film(np.concatenate([TITLE, LOOP])),
        "several scenes",
        "frames 1 and 2 do not resemble",
    ),
    "another depth": (film(DEEPER), "several scenes", "frames 2 and 3 do not resemble"),
    "label maps": (
        save("a_label.nii.gz", nifti((LOOP > 90).astype(np.uint8) * 3)),
        "label map",
        "only 2 different values; if it shows an echo",
    ),
    "a linear probe": (film(LINEAR), "not an echo", "it has no sector"),
    "flow by its header": (header(LOOP, regions=[((0, 0, 96, 128), 1, 2)]), "colour Doppler", "colour flow"),
    "flow by its colours": (film(colour(LOOP, FLOW)), "colour Doppler", "coloured"),
    "tissue by its colours": (film(VELOCITY), "tissue Doppler", "in two hues"),
}
ODD = {
    "16 bits, tif": (save("a.tif", pages(LOOP.astype(np.uint16) * 256, "TIFF")), "grey values stretched"),
    "16 bits, dicom": (header(LOOP.astype(np.uint16) * 200), ""),
    "floats": (save("a.nii", nifti((LOOP / 255).astype(np.float32))), "multiplied by 255"),
    "gif": (save("a.gif", pages(LOOP, "GIF", duration=40, loop=0)), ""),
    "webp": (save("a.webp", pages(LOOP, "WEBP", duration=40, lossless=True)), ""),
    "stills": (stills(*steady(LOOP)), ""),
    "lossy with text": (film(colour(screen(FAN, length=12, text=True))[:6], codec="mjpeg", pixels="yuvj420p"), ""),
    "odd sizes": (film(LOOP[:, :95, :127]), ""),
    "3 frames per second": (film(LOOP, fps=3), "3 frames per second"),
    "a rate that cannot be": (header(LOOP, FrameTime="0.04"), "states 2.5e+04 frames per second"),
    "black at both ends": (film(np.concatenate([BLACK, LOOP[:4], BLACK])), ""),
    "black with one bright pixel at both ends": (film(np.concatenate([SPECK, LOOP[:4], SPECK])), ""),
    "stills of which one is black": (stills(*BLACK, *steady(LOOP)[:5]), ""),
    "dark": (film((LOOP * 0.2).astype(np.uint8)), ""),
    "too bright": (film(np.clip(LOOP * 3.0, 0, 255).astype(np.uint8)), ""),
    "a fan that leaves the picture": (film(LOOP[:, :80, 20:110]), ""),
    "no fan": (film((0.6 * speckle((96, 128))).astype(np.uint8)), "no fan found"),
    "a sepia colour map": (film((LOOP[..., None] * [1.0, 0.75, 0.4]).astype(np.uint8)), ""),
    "dicom without suffix": (header(LOOP, name="IM_0001"), ""),
    "upper case": (film(LOOP, name="A.AVI"), ""),
    "avi without suffix": (named("a.avi", film(LOOP), "a"), ""),
    "mkv without suffix": (named("a.mkv", film(LOOP, "a.mkv"), "a"), ""),
    "mp4 named gif": (named("a.mp4", film(LOOP, "a.mp4", codec="mpeg4", pixels="yuv420p"), "a.gif"), ""),
    "mpeg-2 stream": (film(LOOP, "a.m2v", codec="mpeg2video", pixels="yuv420p"), "does not state the number"),
    "gif without suffix": (save("a", pages(LOOP, "GIF", duration=40)), ""),
    "gif named avi": (save("a.avi", pages(LOOP, "GIF", duration=40)), ""),
    "animated png named dcm": (save("a.dcm", pages(LOOP, "PNG", duration=40)), ""),
    "apng": (save("a.apng", pages(LOOP, "PNG", duration=40)), ""),
    "tif without suffix": (save("a", pages(LOOP, "TIFF")), ""),
    "secondary capture": (header(LOOP, Modality="OT"), ""),
    "regions that do not hold the fan": (header(LOOP, regions=[((0, 0, 20, 20),)]), "do not hold the fan"),
    "regions beyond the frame": (header(LOOP, regions=[((500, 500, 900, 900),)]), ""),
}


def outcome(folder):
    """Return the loops, and kind and reason of each omitted file."""
    sources, left_out = find_sources([folder])
    loops, reasons = [], [(None, reason) for _, reason in left_out]
    for source in sources:
        try:
            loops += open_loops(source)
        except NotALoopError as error:
            reasons.append((error.kind, str(error)))
        except DataError as error:
            reasons.append((None, str(error)))
    return loops, reasons


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused_with_a_reason(tmp_path, name):
    make, words = DAMAGED[name]
    make(tmp_path)
    loops, reasons = outcome(tmp_path)
    assert not loops
    ((kind, reason),) = [reason for reason in reasons if re.search(words, reason[1])] or reasons
    assert re.search(words, reason), reason
    assert kind is None
    assert "\n" not in reason
    assert str(tmp_path) not in reason


@pytest.mark.parametrize("name", OTHER)
def test_files_that_are_not_loops_are_listed_with_their_kind(tmp_path, name):
    make, kind, words = OTHER[name]
    make(tmp_path)
    loops, ((found, reason),) = outcome(tmp_path)
    assert not loops
    assert found == kind, reason
    assert re.search(words, reason), reason


@pytest.mark.parametrize("name", ODD)
def test_unusual_files_are_read(tmp_path, name):
    make, words = ODD[name]
    make(tmp_path)
    (loop,), reasons = outcome(tmp_path)
    assert not reasons
    assert any(words in note for note in loop.notes) or not words, loop.notes
    assert not any("invalid value" in note for note in loop.notes)
    frames = np.concatenate(list(loop.chunks(4)))
    assert frames.shape == (6, *loop.shape)
    assert np.ptp(frames) > (60 if name != "dark" else 25)


def test_more_than_sixty_files_are_tested():
    assert len(DAMAGED) + len(OTHER) + len(ODD) > 60


def test_panels_are_loops_of_their_own(tmp_path):
    video(tmp_path / "quad.avi", screen(*QUAD))
    loops, reasons = outcome(tmp_path)
    assert not reasons
    assert [loop.name[-2:] for loop in loops] == ["_1", "_2", "_3", "_4"]
    middles = [(loop.box[0].start > 70, loop.box[1].start > 90) for loop in loops]
    assert middles == [(False, False), (False, True), (True, False), (True, True)]


def test_a_panel_in_colour_is_left_out(tmp_path):
    frames = screen(LEFT, RIGHT)
    flow = [np.zeros(WIDE, bool), np.zeros(WIDE, bool)]
    flow[0][40:50, 180:190], flow[1][55:65, 195:205] = True, True
    video(tmp_path / "a.avi", colour(frames, flow))
    (loop,), reasons = outcome(tmp_path)
    assert not reasons
    assert loop.box[1].stop < 130
    assert any("a panel is left out: colour Doppler" in note for note in loop.notes)


def test_one_bad_file_does_not_stop_the_others(tmp_path):
    video(tmp_path / "good.avi", LOOP)
    (tmp_path / "bad.avi").write_bytes(b"bad")
    (tmp_path / "notes.txt").write_text("no loop")
    loops, reasons = outcome(tmp_path)
    assert len(loops) == 1
    assert len(reasons) == 2


def test_ten_thousand_frames_are_read_in_constant_memory(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(frame_streams, "_KEPT_BYTES", 2**20)

    frames = np.resize(screen(Fan(3.0, 24.0, 0.0, 40.0, -0.6, 0.6, "curved", (48, 48))), (10_000, 48, 48))
    (tmp_path / "a.nii").write_bytes(nifti(frames))
    (source,), _ = find_sources([tmp_path])
    tracemalloc.start()
    (loop,) = open_loops(source)
    count = sum(len(chunk) for chunk in loop.chunks(500))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == loop.n_frames == 10_000
    assert peak < frames.nbytes / 3


def test_a_file_that_changes_between_two_readings_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(frame_streams, "_KEPT_BYTES", 0)
    (tmp_path / "a.nii").write_bytes(nifti(LOOP))
    (source,), _ = find_sources([tmp_path])
    (loop,) = open_loops(source)
    (tmp_path / "a.nii").write_bytes(nifti(LOOP[:4]))
    with pytest.raises(DataError, match="ends early, it holds 4 of 6 frames"):
        list(loop.chunks(2))
