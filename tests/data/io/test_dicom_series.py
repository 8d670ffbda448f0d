"""Loops in DICOM files of one frame are put together, or refused by the frame that is missing."""

import numpy as np
import pytest

from alan.data.io.cine import frame_source
from alan.data.io.dicom_series import FEWEST, find_split_loops
from alan.data.io.frames import read_all
from alan.errors import DataError
from tests.analysis.screens import dicom

pydicom = pytest.importorskip("pydicom")
FRAMES = np.random.default_rng(0).integers(0, 256, (12, 16, 20)).astype(np.uint8)


def split(folder, frames=FRAMES, series="1.2.3", first=1, **elements):
    """Write one file per frame in a shuffled order of names; an element may be a function of the frame."""
    folder.mkdir(exist_ok=True)
    order = np.random.default_rng(1).permutation(len(frames))
    paths = [folder / f"{series}_{first}_{name:03d}.dcm" for name in order]
    for n, path in enumerate(paths):
        values = {name: value(n) if callable(value) else value for name, value in elements.items()}
        values = {"InstanceNumber": n + first, "SOPInstanceUID": f"{series}.{first}.{n}", **values}
        known = {name: value for name, value in values.items() if value is not None}
        dicom(path, frames[n : n + 1], SeriesInstanceUID=series, **known)
        if values.get("FrameTime", True) is None:
            dataset = pydicom.dcmread(path)
            del dataset.FrameTime
            dataset.save_as(path)
    return tuple(paths)


def clock(seconds, step=0.04):
    """Times of day, from a number of seconds on."""
    return lambda n: f"10{int(seconds + n * step) // 60:02d}{(seconds + n * step) % 60:09.6f}"


def by_name(loops):
    return sorted(tuple(path.name for path in loop) for loop in loops)


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"FrameTime": None, "ContentTime": clock(5)},
        {"FrameTime": None, "InstanceNumber": None, "AcquisitionDateTime": lambda n: f"20240101{clock(5)(n)}"},
        {"FrameTime": None, "TriggerTime": lambda n: 40 * n},
        {"FrameTime": None, "InstanceNumber": None, "TriggerTime": lambda n: 40 * n},
        {"FrameTime": 0, "CineRate": 25},
    ],
)
def test_single_frames_are_joined_in_the_order_of_time(tmp_path, elements):
    paths = split(tmp_path, **elements)
    assert find_split_loops(sorted(paths)) == [paths]
    cine = read_all(frame_source(*paths, whole=True))
    assert (cine.frames == FRAMES).all()
    assert cine.times == pytest.approx(np.arange(12) / 25)
    assert "put together from 12 files of one frame" in cine.notes


@pytest.mark.parametrize("lacking", [[5], [5, 6, 7]])
def test_a_missing_frame_is_named(tmp_path, lacking):
    paths = [path for n, path in enumerate(split(tmp_path)) if n not in lacking]
    (loop,) = find_split_loops(paths)
    with pytest.raises(DataError, match=r"which lacks InstanceNumber 6" + (" to 8" if len(lacking) > 1 else ";")):
        read_all(frame_source(*loop, whole=True))


def test_a_missing_frame_is_found_by_its_time(tmp_path):
    paths = split(tmp_path, FrameTime=None, InstanceNumber=None, ContentTime=clock(5))
    (loop,) = find_split_loops([path for path in paths if path != paths[5]])
    with pytest.raises(DataError, match=r"one is missing before 0\.240 s"):
        read_all(frame_source(*loop, whole=True))


def test_a_number_that_occurs_twice_is_named(tmp_path):
    (loop,) = find_split_loops(split(tmp_path, InstanceNumber=lambda n: min(n, 10)))
    with pytest.raises(DataError, match="of which two have InstanceNumber 10"):
        read_all(frame_source(*loop, whole=True))


def test_numbers_that_contradict_the_times_are_named(tmp_path):
    (loop,) = find_split_loops(split(tmp_path, InstanceNumber=lambda n: 20 - n, ContentTime=clock(5)))
    with pytest.raises(DataError, match="InstanceNumber 19 comes after 20 in time"):
        read_all(frame_source(*loop, whole=True))


def test_two_loops_of_a_series_are_distinguished(tmp_path):
    by_time = [split(tmp_path / f"{n}", first=n, ContentTime=clock(n)) for n in (1, 30)]
    assert by_name(find_split_loops([*by_time[0], *by_time[1]])) == by_name(by_time)
    by_number = [split(tmp_path / f"{n}", series="1.2.4", first=1 + n, AcquisitionNumber=n) for n in (1, 2)]
    assert by_name(find_split_loops([*by_number[0], *by_number[1]])) == by_name(by_number)
    by_size = [split(tmp_path / "a", FRAMES), split(tmp_path / "b", FRAMES[:, 2:], first=13)]
    assert by_name(find_split_loops([*by_size[0], *by_size[1]])) == by_name(by_size)


@pytest.mark.parametrize(
    "elements",
    [
        {"ContentTime": clock(5, step=4)},  # seconds apart
        {"FrameTime": None},  # neither times nor a rate
        {"FrameTime": None, "ContentTime": "000000"},
        {"InstanceNumber": None},  # no order
        {"Modality": "MR"},
        {"PatientID": str},
        {"WindowWidth": lambda n: 100 + n, "WindowCenter": 50},
    ],
)
def test_stills_stay_stills(tmp_path, elements):
    assert find_split_loops(split(tmp_path, **elements)) == []


def test_few_files_and_series_with_loops_are_stills(tmp_path):
    paths = split(tmp_path)
    assert find_split_loops(paths[: FEWEST - 1]) == []
    loop = dicom(tmp_path / "loop.dcm", FRAMES, SeriesInstanceUID="1.2.3")
    assert find_split_loops([*paths, loop]) == []
    (tmp_path / "damaged.dcm").write_bytes(paths[0].read_bytes()[:200])
    assert find_split_loops([*paths, tmp_path / "damaged.dcm"]) == [paths]


def test_a_frame_rate_that_is_given_replaces_the_evidence(tmp_path):
    paths = split(tmp_path, FrameTime=None)
    assert find_split_loops(paths, timed=True) == [paths]


def test_frames_of_any_grey_scale_share_one_mapping(tmp_path):
    deep = (FRAMES.astype(np.uint16) << 4) | 15
    paths = split(tmp_path, deep, BitsStored=12, HighBit=11)
    cine = read_all(frame_source(*paths, whole=True))
    assert np.abs(cine.frames.astype(int) - FRAMES).max() <= 1
