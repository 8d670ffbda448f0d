"""Functional groups of enhanced DICOM objects (PS3.3, C.7.6.16): values of all frames and of each frame."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: SOP class of Enhanced US Volume Storage.
_US_VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"
#: Groups that give the position of a frame in space, with the element that differs between slices of a volume.
_PLACES = (
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("PlanePositionVolumeSequence", "ImagePositionVolume"),
)


def group_values(dataset: Any, group: str, name: str) -> list[Any]:
    """Return an element of a functional group.

    Args:
        dataset: The file.
        group: Keyword of the functional group.
        name: Keyword of an element in it.

    Returns:
        One value if all frames share it, else one per frame, None where it is missing; empty if no frame has it.
    """
    for shared in dataset.get("SharedFunctionalGroupsSequence") or ():
        for part in shared.get(group) or ():
            if part.get(name) is not None:
                return [part.get(name)]
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    values = [next((part.get(name) for part in frame.get(group) or ()), None) for frame in frames]
    return values if any(value is not None for value in values) else []


def differs(dataset: Any, group: str, name: str) -> bool:
    """Return whether an element of a functional group differs from frame to frame."""
    return len({str(value) for value in group_values(dataset, group, name)}) > 1


def is_volume(dataset: Any) -> bool:
    """Return whether the frames are slices of a volume, by the class of the object or their positions."""
    return dataset.get("SOPClassUID") == _US_VOLUME or any(differs(dataset, *place) for place in _PLACES)


def frame_times(dataset: Any, count: int) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Return the times of frames from their functional groups.

    Args:
        dataset: The file.
        count: Number of frames.

    Returns:
        times: (count,) seconds from the first frame, or None.
        notes: Their source, or the reason why they are not used.
    """
    notes = []
    for group, name, seconds in _TIMES:
        values = group_values(dataset, group, name)
        if count < 2 or len(values) < 2:
            continue
        try:
            times = np.array([seconds(value) for value in values])
        except (TypeError, ValueError, OverflowError):
            times = np.full(len(values), math.nan)
        if len(times) != count:
            notes.append(f"{name} is given for {len(times)} of {count} frames only and is not used")
        elif not (np.diff(times) > 0).all():  # false for NaN too
            notes.append(f"{name} does not increase and is not used")
        else:
            return times - times[0], (*notes, f"times by {name}")
    return None, tuple(notes)


def moment(value: Any) -> float:
    """Convert a date and time (VR DT, without its offset from UTC) to seconds."""
    text = str(value).strip().partition("+")[0].partition("-")[0]
    whole, _, part = text.partition(".")
    moment = datetime.datetime.strptime(whole, "%Y%m%d%H%M%S").replace(tzinfo=datetime.UTC)
    return moment.timestamp() + float(f"0.{part or 0}")


def _milliseconds(value: Any) -> float:
    return float(value) / 1000


#: Group and element of a time of each frame, and its conversion to seconds.
_TIMES: tuple[tuple[str, str, Callable[[Any], float]], ...] = (
    ("TemporalPositionSequence", "TemporalPositionTimeOffset", float),
    ("FrameContentSequence", "FrameAcquisitionDateTime", moment),
    ("FrameContentSequence", "FrameReferenceDateTime", moment),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", _milliseconds),
)
