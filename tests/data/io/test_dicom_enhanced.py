"""Enhanced multi-frame DICOM: times, pixel sizes and places from the functional groups of the frames."""

from pathlib import Path

import numpy as np
import pytest

from alan.analysis import NotALoopError, find_sources, open_loops
from alan.data.extract import extract_frames
from alan.data.io.dicom import DicomFrames
from alan.data.io.frames import read_all
from alan.errors import AlanWarning, DataError

from ...analysis.screens import dicom

pydicom = pytest.importorskip("pydicom")
GREY = np.random.default_rng(0).integers(0, 256, (3, 40, 50), np.uint8)


def groups(group, **elements):
    """One functional group for each of three frames; each element is a list with one value per frame."""
    frames = []
    for n in range(3):
        item, frame = pydicom.Dataset(), pydicom.Dataset()
        for name, values in elements.items():
            setattr(item, name, values[n])
        setattr(frame, group, [item])
        frames.append(frame)
    return frames


@pytest.fixture
def write(tmp_path):
    """Write the frames with other elements, and without a time that the test does not give."""
    return lambda grey, **elements: dicom(tmp_path / "a.dcm", grey, **{"FrameTime": None, **elements})


def read(path):
    return read_all(DicomFrames(Path(path)))


MIDNIGHT = ["20200101235959.98", "20200102000000", "20200102000000.04"]
EAST = ["20200101101010.1+0100", "20200101101010.12+0100", "20200101101010.16+0100"]


@pytest.mark.parametrize(
    ("group", "name", "values"),
    [
        ("TemporalPositionSequence", "TemporalPositionTimeOffset", [1.5, 1.52, 1.56]),
        ("FrameContentSequence", "FrameAcquisitionDateTime", MIDNIGHT),
        ("FrameContentSequence", "FrameReferenceDateTime", EAST),
        ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", [10.0, 30.0, 70.0]),
    ],
)
def test_times_of_each_frame_are_read(write, group, name, values):
    video = read(write(GREY, PerFrameFunctionalGroupsSequence=groups(group, **{name: values}), CineRate=99))
    assert video.times == pytest.approx([0, 0.02, 0.06], abs=1e-6)
    assert video.fps == pytest.approx(2 / 0.06, rel=1e-4)
    assert f"times by {name}" in video.notes


@pytest.mark.parametrize("values", [[0.0, 0.02, 0.02], [0.04, 0.02, 0.0]])
def test_times_that_do_not_increase_are_ignored(write, values):
    frames = groups("TemporalPositionSequence", TemporalPositionTimeOffset=values)
    video = read(write(GREY, PerFrameFunctionalGroupsSequence=frames, CineRate=40))
    assert video.fps == 40
    assert video.notes == ("TemporalPositionTimeOffset does not increase and is not used", "times by CineRate")


def test_the_pixel_size_of_each_frame_is_read(write):
    alike = groups("PixelMeasuresSequence", PixelSpacing=[[0.3, 0.4]] * 3)
    assert read(write(GREY, PerFrameFunctionalGroupsSequence=alike)).spacing == (0.3, 0.4)
    unlike = groups("PixelMeasuresSequence", PixelSpacing=[[0.3, 0.4], [0.3, 0.4], [0.5, 0.5]])
    with pytest.warns(AlanWarning, match="PixelSpacing differs from frame to frame"):
        assert read(write(GREY, PerFrameFunctionalGroupsSequence=unlike)).spacing is None


def test_grey_conversions_that_differ_between_frames_are_refused(write):
    frames = groups("PixelValueTransformationSequence", RescaleSlope=[1, 1, 2], RescaleIntercept=[0, 0, 0])
    with pytest.raises(DataError, match="a different RescaleSlope in each frame"):
        read(write(GREY, PerFrameFunctionalGroupsSequence=frames))


@pytest.mark.parametrize(
    "elements",
    [
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.2"},
        {
            "PerFrameFunctionalGroupsSequence": groups(
                "PlanePositionVolumeSequence", ImagePositionVolume=[[0, 0, float(z)] for z in range(3)]
            )
        },
    ],
)
def test_slices_of_a_volume_are_refused(write, tmp_path, elements):
    path = write(GREY, **elements)
    ((source,), _) = find_sources([path])
    with pytest.raises(NotALoopError, match="slices of a volume") as caught:
        open_loops(source)
    assert caught.value.kind == "volume"
    with pytest.raises(DataError, match="slices of a volume"):
        extract_frames(str(path), str(tmp_path / "out"), workers=0)


def test_frames_of_one_plane_form_a_loop(write):
    frames = groups("PlanePositionSequence", ImagePositionPatient=[[1.0, 2.0, 3.0]] * 3)
    assert "volume" not in read(write(GREY, PerFrameFunctionalGroupsSequence=frames)).attributes


@pytest.mark.parametrize(
    ("elements", "fps", "note"),
    [
        ({"FrameTime": 0.02, "CineRate": 50}, 50, "FrameTime is 0.02, which is in seconds"),
        ({"FrameTime": 0.02, "RecommendedDisplayFrameRate": 50}, 50, "FrameTime is 0.02, which is in seconds"),
        ({"FrameTimeVector": [0, 0.02, 0.02]}, 50, "FrameTimeVector is taken as seconds: in milliseconds"),
        ({"ActualFrameDuration": "20"}, 50, "times by ActualFrameDuration"),
        ({"FrameTime": 20, "CineRate": 30}, 50, "FrameTime states 50 frames per second, CineRate 30"),
        ({"FrameTime": 20, "CineRate": 50}, 50, ""),
        ({"FrameTime": 20, "RecommendedDisplayFrameRate": 25}, 50, ""),  # slow motion is usual
    ],
)
def test_contradictory_frame_rates_are_reported(write, elements, fps, note):
    video = read(write(GREY, **elements))
    assert video.fps == pytest.approx(fps)
    assert " ".join(video.notes).startswith(note) if note else video.notes == ()
