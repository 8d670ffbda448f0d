"""Header of DICOM files: times, pixel sizes, heart beat and patient."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alan.data.io.base import (
    RATES,
    Region,
    Spacing,
    known_rate,
    known_spacing,
    mean_frame_rate,
    times_at,
    variable_rate,
)
from alan.data.io.dicom_ecg import r_waves_of_waveform
from alan.data.io.dicom_enhanced import frame_times, group_values, is_volume
from alan.data.pseudonyms import patient_key, uid_key
from alan.extras import third_party

_FRAME_TIME = 0x00181063
#: Frame rate that no machine reaches, and relative difference above which two frame rates contradict each other.
_TOO_FAST, _UNLIKE = 1000, 0.1
#: Smallest and largest number of heart beats per minute.
_BEATS = (10, 400)
#: Largest number of a stage of a stress test; larger ones may be identifiers.
_STAGES = 99
_CM = 3  # code of PhysicalUnitsXDirection (PS3.3, C.8.5.5)
#: Modality of ultrasound, and of secondary captures, which may be of anything.
_MAY_BE_ECHO = ("", "US", "OT")
#: RegionSpatialFormat to what a region shows.
_KINDS = {1: "2d", 2: "m-mode", 3: "spectrum", 4: "curve"}
#: RegionDataType to what was measured.
_CONTENTS = {1: "tissue", 2: "colour flow", 3: "pw doppler", 4: "cw doppler"}
_CM_PER_SECOND = 7
#: Largest relative difference of the scales of regions that count as one scale.
_ALIKE = 0.01
#: Elements that every DICOM object must have and that may be empty.
MAY_BE_EMPTY = (
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
#: Elements that identify a patient, and placeholders for no patient.
_NAMES = ("PatientID", "PatientName")
_NOBODY = re.compile(r"[\W_]*(anon[a-z]*|unknown|unnamed|no[\W_]?name|none|null|n/?a|x*|0*)[\W_]*", re.IGNORECASE)
#: Largest date of birth that is a placeholder.
_NO_BIRTH = "19001231"
#: Elements of patient and study by which an archive files an object.
_STUDY = ("PatientID", "IssuerOfPatientID", "PatientName", *MAY_BE_EMPTY)


def lookup(dataset: Any, name: str, group: str) -> Any:
    """Return an element of the dataset, or of a functional group where all frames agree (enhanced files).

    Args:
        dataset: The file.
        name: Keyword of the element.
        group: Keyword of the functional group that holds it.

    Returns:
        The value; None if it is missing, and with a warning if it differs from frame to frame.
    """
    if dataset.get(name) is not None:
        return dataset.get(name)
    if not group or not (values := group_values(dataset, group, name)):
        return None
    if len({str(value) for value in values}) > 1:
        warnings.warn(f"{name} differs from frame to frame and is not used", stacklevel=2)
        return None
    return values[0]


def attribute_number(dataset: Any, name: str) -> float | None:
    """Return a number from the header; None if it is missing, and with a warning if it is not a number."""
    values = numbers(dataset, name)
    return values[0] if values else None


def numbers(dataset: Any, name: str, group: str = "") -> list[float]:
    """Return the numbers of an element; empty if it is missing, and with a warning if one is not a number."""
    try:
        value = lookup(dataset, name, group)
        values = [float(part) for part in np.atleast_1d(() if value is None or value == "" else value)]
        if all(math.isfinite(part) for part in values):
            return values
    except (ValueError, TypeError, OverflowError):
        pass
    warnings.warn(f"{name} is not a number and is left out", stacklevel=2)
    return []


def cine_times(dataset: Any, count: int) -> tuple[NDArray[np.float64] | None, float | None, tuple[str, ...]]:
    """Return times and rate of the frames (PS3.3, C.7.6.5).

    FrameTime is used where FrameIncrementPointer points to it, else FrameTimeVector, the times in the functional
    groups of the frames, FrameTime, CineRate, ActualFrameDuration, RecommendedDisplayFrameRate, and last the step
    of a FrameTimeVector of wrong length, if its steps are even. A FrameTimeVector that no machine reaches in
    milliseconds is read in seconds.

    Args:
        dataset: The file.
        count: Number of frames.

    Returns:
        times: (count,) seconds from the first frame, or None.
        fps: Frames per second, or None.
        notes: Notes on the source of the times.
    """
    notes: list[str] = []
    step, steps = attribute_number(dataset, "FrameTime"), numbers(dataset, "FrameTimeVector")
    if 0 < len(steps) == count - 1 and steps[0] > 0:  # some leave out the zero of the first frame
        steps = [0.0, *steps]
    constant = step is not None and step > 0 and dataset.get("FrameIncrementPointer") == _FRAME_TIME
    if len(steps) > 1 and not constant:
        times = (np.cumsum(steps) - steps[0]) / 1000
        if len(steps) != count:
            notes.append(f"FrameTimeVector has {len(steps)} steps for {count} frames and is not used")
        elif (np.diff(times) <= 0).any():
            notes.append("FrameTimeVector does not increase and is not used")
        else:
            if RATES[1] < (rate := mean_frame_rate(times) or 0) <= 1000 * _TOO_FAST:
                notes.append(f"FrameTimeVector is taken as seconds: in milliseconds it states {rate:.4g} frames/s")
                times = 1000 * times
            if (fps := known_rate(mean_frame_rate(times))) is not None:
                return times, fps, (*notes, *variable_rate(times))
    moments, how = frame_times(dataset, count)
    if moments is not None and (fps := known_rate(mean_frame_rate(moments))) is not None:
        return moments, fps, (*notes, *how, *variable_rate(moments))
    notes += how
    rates = _stated_rates(dataset)
    if step is not None and step > 0:
        rate, cine = 1000 / step, rates.get("CineRate")
        if rate > _TOO_FAST and any(abs(step * other - 1) <= _UNLIKE for other in rates.values()):
            rate = 1 / step
            notes.append(f"FrameTime is {step:.4g}, which is in seconds according to the stated frame rate")
        if (fps := known_rate(rate)) is not None:
            if cine and abs(rate / cine - 1) > _UNLIKE:
                notes.append(
                    f"FrameTime states {rate:.4g} frames per second, CineRate {cine:.4g}: FrameTime is used"
                )
            return times_at(fps, count), fps, tuple(notes)
    for name, rate in rates.items():
        if (fps := known_rate(rate)) is not None:
            return times_at(fps, count), fps, (*notes, f"times by {name}")
    even = steps[1:] or steps
    if even and min(even) > 0 and not variable_rate(np.cumsum(even)):
        fps = known_rate(1000 / float(np.median(even)))
        return times_at(fps, count), fps, (*notes, "times by the even steps of FrameTimeVector")
    return None, None, tuple(notes)


def _stated_rates(dataset: Any) -> dict[str, float]:
    """Return frames per second by the name of their element, the most reliable one first."""
    cine, display = (attribute_number(dataset, name) for name in ("CineRate", "RecommendedDisplayFrameRate"))
    duration = attribute_number(dataset, "ActualFrameDuration")  # in ms, of the acquisition of one frame
    acquired = 1000 / duration if duration is not None and duration > 0 else None
    found = {"CineRate": cine, "ActualFrameDuration": acquired, "RecommendedDisplayFrameRate": display}
    return {name: rate for name, rate in found.items() if rate is not None and rate > 0}


def screen_regions(dataset: Any, shape: Sequence[int]) -> tuple[Region, ...]:
    """Return the regions with their own scale (PS3.3, C.8.5.5), without those outside the frame.

    Args:
        dataset: The file.
        shape: (H, W) of a frame.
    """
    found = []
    for item in dataset.get("SequenceOfUltrasoundRegions") or ():
        corners = [
            attribute_number(item, f"RegionLocation{name}") for name in ("MinY0", "MinX0", "MaxY1", "MaxX1")
        ]
        if None in corners:
            continue
        top, left, bottom, right = (int(corner or 0) for corner in corners)
        (top, bottom), (left, right) = sorted((top, bottom)), sorted((left, right))  # some exchange the corners
        box = (max(top, 0), max(left, 0), min(bottom + 1, shape[0]), min(right + 1, shape[1]))
        if box[0] < box[2] and box[1] < box[3]:
            kind: Any = _KINDS.get(int(attribute_number(item, "RegionSpatialFormat") or 0), "other")
            content: Any = _CONTENTS.get(int(attribute_number(item, "RegionDataType") or 0), "other")
            spacing = _region_spacing(item) if kind == "2d" else None
            velocity = _velocity(item) if kind == "spectrum" else None
            beyond = min(top, left) < -1 or bottom > shape[0] or right > shape[1]
            stated = (top, left, bottom + 1, right + 1) if beyond else None
            found.append(Region(box, kind, spacing, content, velocity, stated))
    return tuple(found)


def _velocity(item: Any) -> float | None:
    """Return the velocity per row in cm/s."""
    row = abs(attribute_number(item, "PhysicalDeltaY") or 0)
    return row if attribute_number(item, "PhysicalUnitsYDirection") == _CM_PER_SECOND and row > 0 else None


def _region_spacing(item: Any) -> Spacing | None:
    """Return (row, column) in mm of a region that is measured in centimetres."""
    row, column = (abs(attribute_number(item, f"PhysicalDelta{axis}") or 0) * 10 for axis in "YX")
    units = {attribute_number(item, f"PhysicalUnits{axis}Direction") for axis in "XY"}
    return known_spacing(row, column) if units == {_CM} else None


def stated_aspect(dataset: Any) -> float | None:
    """Return the height of a pixel divided by its width (PixelAspectRatio), or None."""
    values = numbers(dataset, "PixelAspectRatio")
    return values[0] / values[1] if len(values) == 2 and min(values) > 0 else None


def spacing_of(parts: Sequence[Region], dataset: Any) -> tuple[Spacing | None, tuple[str, ...]]:
    """Return the pixel size of the whole frame.

    Args:
        parts: The regions of the frame.
        dataset: The file; its PixelSpacing is used if no region has a size.

    Returns:
        spacing: (row, column) in mm, or None if it is unknown or the scales of the regions differ.
        notes: A note if scales differ, or if the size applies to a part of the frame only.
    """
    sized = [part for part in parts if part.spacing is not None]
    if not sized:
        values = numbers(dataset, "PixelSpacing", "PixelMeasuresSequence")
        return (known_spacing(*values) if len(values) == 2 else None), ()
    scales = np.array([part.spacing for part in sized])
    if (np.ptp(scales, axis=0) > _ALIKE * scales.min(axis=0)).any():
        rows = ", ".join(f"{row:.4g}" for row in dict.fromkeys(scales[:, 0].tolist()))
        return None, (f"regions of different scales ({rows} mm per row), no pixel size for the whole frame",)
    largest = max(sized, key=lambda part: part.area)
    notes = []
    stated = numbers(dataset, "PixelSpacing")
    if len(stated) == 2 and not np.allclose(stated, largest.spacing or (), rtol=_ALIKE):
        notes.append(
            f"PixelSpacing states {stated[0]:.4g} mm per row, the region {scales[0, 0]:.4g}: the region is used"
        )
    if not all(part.kind == "2d" for part in parts):
        notes.append("the pixel size applies to the 2d region only, other regions have none")
    return largest.spacing, tuple(notes)


def attributes(dataset: Any) -> dict[str, float | str | tuple[float, ...]]:
    """Return heart rate, times of R waves, contrast, stage, slices of a volume, and a modality but ultrasound."""
    found: dict[str, float | str | tuple[float, ...]] = {}
    rate = attribute_number(dataset, "HeartRate")
    if rate is not None and _BEATS[0] <= rate <= _BEATS[1]:
        found["heart_rate"] = rate
    elif rate:
        warnings.warn(
            f"HeartRate is {rate:.4g}, which is left out: a heart has {_BEATS[0]} to {_BEATS[1]}", stacklevel=2
        )
    waves = numbers(dataset, "RWaveTimeVector")
    if any(later <= earlier for earlier, later in pairwise(waves)):
        warnings.warn("RWaveTimeVector does not increase and is left out", stacklevel=2)
    elif waves:
        found["r_wave_times"] = tuple(time / 1000 for time in waves)
    elif len(by_ecg := r_waves_of_waveform(dataset)):
        found["r_wave_times"] = tuple(by_ecg.tolist())
    if dataset.get("ContrastBolusAgent") or dataset.get("ContrastBolusAgentSequence"):
        found["contrast"] = 1.0
    if is_volume(dataset):
        found["volume"] = 1.0
    if stage := _stage(dataset):
        found["stage"] = stage
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality not in _MAY_BE_ECHO:
        found["modality"] = modality
    return found


def _stage(dataset: Any) -> str:
    """Return the number of the stage of a stress test, or a pseudonym of its name; empty if there is none."""
    if attribute_number(dataset, "NumberOfStages") == 1:
        return ""
    number, name = attribute_number(dataset, "StageNumber"), str(dataset.get("StageName") or "").strip().upper()
    if number is not None and number in range(1, _STAGES + 1):
        return f"{number:.0f}"
    return patient_key(name) if name else ""


def patient(dataset: Any) -> str | None:
    """Make the pseudonym of the patient from the PatientID, else from name and date of birth, else from the study.

    Placeholders such as ``ANONYMOUS``, which all patients of an archive share, are ignored.
    """
    number, name = (
        "" if _NOBODY.fullmatch(text := str(dataset.get(key) or "").strip()) else text for key in _NAMES
    )
    name = " ".join(name.replace("^", " ").upper().split())  # letters and empty components are no difference
    study = str(dataset.get("StudyInstanceUID") or "")
    return patient_key(number, name and f"{name} {dataset.get('PatientBirthDate')}", study) or None


class Person(NamedTuple):
    """Pseudonyms of what a header states about the patient; each is empty if it is unknown.

    Attributes:
        key: That of the patient, see :func:`patient`.
        birth: That of the date of birth.
        name: That of the words of the name, in any order and notation.
    """

    key: str = ""
    birth: str = ""
    name: str = ""


def read_person(path: Path) -> Person:
    """Return the patient of a DICOM file, who is unknown if the header is damaged."""
    pydicom = third_party("pydicom", "dicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading the file reports them
        try:
            tags = [*_NAMES, "PatientBirthDate", "StudyInstanceUID"]
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
            birth = re.sub(r"\D", "", str(dataset.get("PatientBirthDate") or ""))
            name = str(dataset.get("PatientName") or "").partition("=")[0]  # others are in other scripts
            words = () if _NOBODY.fullmatch(name) else sorted(re.findall(r"\w+", name.upper()))
            known = patient_key(birth) if birth > _NO_BIRTH else ""
            return Person(patient(dataset) or "", known, patient_key(" ".join(words)))
        except Exception:  # a damaged file is reported when it is opened
            return Person()


@dataclass(frozen=True)
class DicomReferences:
    """The instance to which DICOM objects made from a file refer.

    Attributes:
        study: Study instance UID.
        series: Series instance UID.
        instance: SOP instance UID.
        sop_class: SOP class UID.
        elements: Mapping from keyword to value of the elements by which an archive files an object; empty for
            pseudonymous references.
        frames: SOP instance UID of each file of a loop that was split into files of one frame; else empty.
    """

    study: str
    series: str
    instance: str
    sop_class: str
    elements: Mapping[str, str] = field(default_factory=dict)
    frames: tuple[str, ...] = ()


def read_references(path: Path, *others: Path, keep: bool) -> DicomReferences | None:
    """Read the identity of a DICOM file.

    Args:
        path: The file, or the first one of a loop that was split into files of one frame.
        others: Further files of such a loop.
        keep: Return the UIDs, patient and study of the file; otherwise pseudonyms of the UIDs, which are the same
            for all files of a study or a series, and nothing else.

    Returns:
        The references; None if the file states no study, series, instance or (valid) class.
    """
    pydicom = third_party("pydicom", "dicom")
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    tags = ["SpecificCharacterSet", *uids, *_STUDY]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading the frames reports them
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=tags)
        study, series, instance, sop_class = (str(header.get(name) or "") for name in uids)
        elements = {name: str(header.get(name) or "") for name in _STUDY if keep}
        more = (pydicom.dcmread(other, force=True, specific_tags=uids[2:3]) for other in others)
        frames = (instance, *(str(header.get("SOPInstanceUID") or "") for header in more))
    if not all((study, series, *frames)) or not third_party("pydicom.uid", "dicom").UID(sop_class).is_valid:
        return None
    if not keep:
        study, series, frames = uid_key(study), uid_key(series), tuple(map(uid_key, frames))
    return DicomReferences(study, series, frames[0], sop_class, elements, frames if others else ())
