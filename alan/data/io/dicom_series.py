"""Loops that were split into DICOM files of one frame: which files make up a loop, and their frames in order."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan.data.io.base import GET_AGAIN, Header, known_rate, mean_frame_rate, variable_rate
from alan.data.io.dicom import DicomFrames
from alan.data.io.dicom_enhanced import moment
from alan.data.io.dicom_header import attribute_number, cine_times
from alan.data.io.frames import DecodedFrame, GreyMapping
from alan.data.io.grey import GreyRange
from alan.errors import DataError
from alan.extras import third_party

#: Smallest number of single frames that count as a loop.
FEWEST = 8
#: Largest time in s between two frames of a loop; stills of an examination are farther apart.
_FARTHEST = 1.0
#: Step in time, divided by the median step, above which a frame without a number is missing.
_MISSING = 1.5
#: Elements that the frames of a loop share.
_SHARED = (
    "PatientID",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "SequenceOfUltrasoundRegions",
)
#: Date and time of a frame, the more reliable ones first; a date may be part of the time.
_CLOCKS = (("", "AcquisitionDateTime"), ("AcquisitionDate", "AcquisitionTime"), ("ContentDate", "ContentTime"))
_RATES = ("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate")
_OTHERS = ("Modality", "SeriesInstanceUID", "AcquisitionNumber", "NumberOfFrames", "InstanceNumber", "TriggerTime")


@dataclass(frozen=True)
class _Part:
    """A file that may be a frame of a split loop.

    Attributes:
        path: The file.
        series: UID of the series and number of the acquisition.
        shared: What the frames of a loop have in common, as text.
        number: InstanceNumber, or None.
        clocks: Seconds by each element of time, None where it is missing; the last one counts from an R wave.
        rated: Whether the header states a frame rate.
        single: Whether it holds one frame.
    """

    path: Path
    series: tuple[str, str]
    shared: tuple[str, ...]
    number: int | None
    clocks: tuple[float | None, ...]
    rated: bool
    single: bool


def find_split_loops(paths: Iterable[Path], *, timed: bool = False) -> list[tuple[Path, ...]]:
    """Find the loops that were split into DICOM files of one frame.

    The frames of a loop are ultrasound, have one series and acquisition, and the same size, regions and grey
    scale. They are in the order of their dates and times, then of InstanceNumber, then of TriggerTime, and end
    where the time steps by more than a second, as between the stills of an examination. Fewer than eight files,
    files with neither times nor a frame rate, and the single frames of a series that also holds loops are stills.

    A loop may have gaps or frames twice; :class:`SplitFrames` refuses it.

    Args:
        paths: Files, also of other formats.
        timed: Whether the frame rate is known, so that headers need not state times or a rate.

    Returns:
        The files of each loop, in the order of time.
    """
    groups: dict[tuple[str, str], list[_Part]] = defaultdict(list)
    for path in paths:
        part = _read_part(path)
        if part is not None:
            groups[part.series].append(part)
    mixed = {series[0] for series, parts in groups.items() if not all(part.single for part in parts)}
    found = []
    for (series, _), parts in groups.items():
        if series not in mixed and len(parts) >= FEWEST:
            runs = _runs(parts)
            found += [tuple(part.path for part in run) for run in runs if _is_loop(run, parts, timed=timed)]
    return found


def _read_part(path: Path) -> _Part | None:
    """Read the header of a file; None if it belongs to no series of ultrasound pictures or is damaged."""
    pydicom = third_party("pydicom", "dicom")
    tags = [*_SHARED, *(name for clock in _CLOCKS for name in clock if name), *_RATES, *_OTHERS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading the frames reports them
        try:
            header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
            series = str(header.get("SeriesInstanceUID") or "")
            if not series or "Rows" not in header or header.get("Modality") not in ("US", "", None):
                return None
            return _Part(
                path,
                (series, str(header.get("AcquisitionNumber") or "")),
                tuple(str(header.get(name)) for name in _SHARED),
                _number(header),
                _clocks(header),
                any(header.get(name) for name in _RATES),
                (header.get("NumberOfFrames") or 1) == 1,
            )
        except Exception:  # a damaged file is reported when it is opened
            return None


def _number(header: Any) -> int | None:
    number = attribute_number(header, "InstanceNumber")
    return None if number is None else int(number)


def _clocks(header: Any) -> tuple[float | None, ...]:
    """Return the seconds by each element of time."""
    trigger = attribute_number(header, "TriggerTime")
    return (*(_seconds(header, *clock) for clock in _CLOCKS), None if trigger is None else trigger / 1000)


def _seconds(header: Any, date: str, time: str) -> float | None:
    text = str(header.get(time) or "")
    if date:
        text = f"{header.get(date) or '19000101'}{text}" if text else ""
    try:
        return moment(text)
    except ValueError:
        return None


def _runs(parts: Sequence[_Part]) -> list[list[_Part]]:
    """Order the frames of a series, and cut it where the time steps or the pictures become others."""
    clock = next((n for n in range(len(_CLOCKS)) if len({part.clocks[n] for part in parts} - {None}) > 1), None)
    if clock is not None and any(part.clocks[clock] is None for part in parts):
        clock = None
    numbered = all(part.number is not None for part in parts)

    def key(part: _Part) -> tuple[float, ...]:
        time = 0 if clock is None else part.clocks[clock]
        return (time or 0, (part.number or 0) if numbered else 0, part.clocks[-1] or 0)

    ordered = sorted(parts, key=key)
    runs = [ordered[:1]]
    for earlier, later in pairwise(ordered):
        if later.shared != earlier.shared or key(later)[0] - key(earlier)[0] > _FARTHEST:
            runs.append([])
        runs[-1].append(later)
    return runs


def _is_loop(run: Sequence[_Part], series: Sequence[_Part], *, timed: bool) -> bool:
    """Decide whether frames in order are those of a loop rather than stills of an examination."""
    if len(run) < FEWEST:
        return False
    clocked = any(len({part.clocks[n] for part in series} - {None}) > 1 for n in range(len(_CLOCKS) + 1))
    ordered = clocked or all(part.number is not None for part in run)
    return ordered and (timed or clocked or run[0].rated)


class SplitFrames:
    """The frames of a loop that was split into DICOM files of one frame.

    Times come from the frame rate that the files state, else from their dates and times.

    Args:
        paths: The files, in the order of time.
        whole: Whether all frames must fit into memory at once.
    """

    kind = "DICOM file"

    def __init__(self, *paths: Path, whole: bool = True) -> None:
        self.path, self._paths, self._whole = paths[0], paths, whole
        self._first = DicomFrames(self.path, whole=whole)
        self._clocks: list[tuple[float | None, ...]] = []

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Decode the files one by one; DataError if a number is missing or occurs twice."""
        self._clocks = []
        last: int | None = None
        for path in self._paths:
            part = DicomFrames(path, whole=self._whole) if path != self.path else self._first
            frames = list(part)
            number = _number(part.dataset)
            if number is not None and last is not None:
                self._check_step(number, last)
            last = number
            self._clocks.append(_clocks(part.dataset))
            yield from frames

    def _check_step(self, number: int, last: int) -> None:
        """Compare the numbers of two neighbouring frames."""
        if number == last:
            raise self._refusal(f"of which two have InstanceNumber {number}")
        if number < last:
            raise self._refusal(f"whose InstanceNumber {number} comes after {last} in time")
        if number > last + 1:
            lacking = str(last + 1) if number == last + 2 else f"{last + 1} to {number - 1}"
            raise self._refusal(f"which lacks InstanceNumber {lacking}")

    def _refusal(self, reason: str) -> DataError:
        count = len(self._paths)
        return DataError(f"{self.path}: a loop in {count} files of one frame, {reason}; {GET_AGAIN}")

    def header(self, count: int, found: GreyRange) -> tuple[Header, GreyMapping]:
        """Return the metadata of the first file, with the times of all files."""
        header, mapping = self._first.header(1, found)
        times, fps, how = cine_times(self._first.dataset, count)
        if times is None:
            times, how = self._times()
            fps = known_rate(mean_frame_rate(times))
        notes = dict.fromkeys((f"put together from {count} files of one frame", *header.notes, *how))
        return replace(header, fps=fps, times=None if fps is None else times, notes=tuple(notes)), mapping

    def _times(self) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
        """Return the times of the files in seconds from the first, and their source."""
        for n, name in enumerate((*(time for _, time in _CLOCKS), "TriggerTime")):
            known = [time for clock in self._clocks if (time := clock[n]) is not None]
            times = np.array(known) - known[0] if len(known) == len(self._clocks) else np.zeros(2)
            steps = np.diff(times)
            if (steps <= 0).any():
                continue
            if self._first.dataset.get("InstanceNumber") is None and steps.max() > _MISSING * np.median(steps):
                raise self._refusal(f"of which one is missing before {times[steps.argmax() + 1]:.3f} s")
            return times, (f"times by {name}", *variable_rate(times))
        return None, ()
