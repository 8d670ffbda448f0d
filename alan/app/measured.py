"""Measurements of an analyzed loop that follow frames of end-diastole and end-systole moved by hand."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from alan.analysis.exports import median_beat
from alan.analysis.measures import SIZED, BeatMeasures, Grid, measure_beat, select_beats, summarise_beats
from alan.analysis.results import LoopResult, Measure
from alan.analysis.tables import SOURCES
from alan.arrays import BoolArray, ByteArray
from alan.cardiac.beats import Beat
from alan.errors import DataError, ParameterError

#: Measures between two frames, in words; those of other views are unknown.
_WORDS = {
    "edv_ml": "EDV {:z.0f} ml",
    "esv_ml": "ESV {:z.0f} ml",
    "ef_percent": "EF {:z.0f}%",
    "lvidd_cm": "LVIDd {:z.1f} cm",
    "lvids_cm": "LVIDs {:z.1f} cm",
    "fractional_shortening_percent": "fractional shortening {:z.0f}%",
    "ivsd_cm": "IVSd {:z.1f} cm",
    "lvpwd_cm": "LVPWd {:z.1f} cm",
    "area_change_percent": "fractional area change {:z.0f}%",
    "wall_thickness_cm": "wall thickness {:z.1f} cm",
}
#: Measures that are negative if the frames are exchanged; the first one that is known counts.
_CHANGES = ("ef_percent", "fractional_shortening_percent", "area_change_percent")


def first_frames(result: LoopResult) -> tuple[int, int]:
    """Choose the initial frames of end-diastole and end-systole: of the median beat, else of the extreme areas."""
    beat = median_beat(result)
    if beat is not None:
        return beat.ed, beat.es
    areas = lv_areas(result)
    return areas.index(max(areas)), areas.index(min(areas))


def lv_areas(result: LoopResult) -> list[float]:
    """List the area of the left ventricle in each frame: cm2, or pixels of the file without a pixel size.

    Raises:
        DataError: The loop was left out, or has no left ventricle.
    """
    if not result.frames or "lv" not in result.frames[0].area_px:
        raise DataError(f"nothing was measured: {result.reason or 'the view shows no left ventricle'}")
    return [frame.area_cm2.get("lv", frame.area_px["lv"]) for frame in result.frames]


def measure_between(result: LoopResult, labels: ByteArray, ed: int, es: int) -> BeatMeasures:
    """Measure between two frames; sizes are NaN if the size of a pixel is unknown.

    Args:
        result: An analyzed loop.
        labels: (T, size, size) uint8 label maps of its frames.
        ed: Frame of end-diastole.
        es: Frame of end-systole.

    Raises:
        ParameterError: A frame does not exist.
    """
    for name, frame in (("ed", ed), ("es", es)):
        if not 0 <= frame < len(labels):
            raise ParameterError(f"{name} is {frame}: give a frame from 0 to {len(labels) - 1}")
    pair = labels[[ed, es]]
    masks = {name: pair == value for value, name in enumerate(result.structures, 1)}
    return measure_pair(masks, Grid.of(result, labels))


def measure_pair(masks: Mapping[str, BoolArray], grid: Grid) -> BeatMeasures:
    """Measure between end-diastole and end-systole; sizes are NaN if the size of a pixel is unknown.

    Args:
        masks: Mapping from structure to its masks (2, H, W) at end-diastole and end-systole.
        grid: Geometry of the masks.
    """
    found = measure_beat(Beat(0, 1, None, regular=True), masks, grid)
    return found if grid.pixel_mm else replace(found, **dict.fromkeys(SIZED, math.nan))


def with_spacing(result: LoopResult, labels: ByteArray, spacing: float | None) -> LoopResult:
    """Return a loop with another pixel width and the resulting areas, volumes and diameters, without intervals.

    Args:
        result: An analyzed loop.
        labels: (T, size, size) uint8 label maps of its frames.
        spacing: The width in mm; None or 0 returns the loop unchanged.
    """
    if not spacing:
        return result
    mm = (spacing * result.pixel_aspect, spacing)
    cm2 = math.prod(mm) / 100
    frames = tuple(
        replace(frame, area_cm2={name: area * cm2 for name, area in frame.area_px.items()})
        for frame in result.frames
    )
    unknown: dict[str, Any] = dict.fromkeys(SIZED, Measure())
    sized = replace(result, pixel_mm=mm, frames=frames, **unknown)
    counted = select_beats([Beat(beat.ed, beat.es, beat.end, regular=beat.regular) for beat in result.beats])
    moved = [measure_between(sized, labels, beat.ed, beat.es) for beat in counted]
    values = summarise_beats(moved, sized=True)
    left_out = ("la_volume_ml", "lv_mass_g")
    known: dict[str, Any] = {name: value for name, value in values.items() if name in set(SIZED) - {*left_out}}
    return replace(sized, **known)


def pictures_of(video: Path, frames: Sequence[int]) -> list[ByteArray | None]:
    """Decode single frames of a video.

    Args:
        video: The video.
        frames: Numbers of the frames.

    Returns:
        (H, W, 3) uint8 for each number; None if the video does not have it.
    """
    found: dict[int, ByteArray] = {}
    if video.is_file():
        with av.open(str(video)) as file:
            for n, frame in enumerate(itertools.islice(file.decode(video=0), max(frames) + 1)):
                if n in frames:
                    found[n] = frame.to_ndarray(format="rgb24").astype(np.uint8)
    return [found.get(n) for n in frames]


def describe_change(beat: BeatMeasures) -> str:
    """Describe the measurements in words, without the unknown ones; frames in the wrong order are named."""
    change = next((value for name in _CHANGES if not math.isnan(value := getattr(beat, name))), 0.0)
    swapped = "; the ventricle is smaller at end-diastole than at end-systole: exchange the frames"
    return describe_measures(beat) + (swapped if change < 0 else "")


def describe_measures(beat: BeatMeasures) -> str:
    """List the known measurements in words."""
    return ", ".join(
        words.format(value) for name, words in _WORDS.items() if not math.isnan(value := getattr(beat, name))
    )


def pack(folder: Path, target: Path) -> Path:
    """Pack the results of an analysis into a zip file; files that only a resumed run needs are removed.

    Args:
        folder: Folder of the results.
        target: Path of the file, which ends in ``.zip``.
    """
    shutil.rmtree(folder / SOURCES, ignore_errors=True)
    return Path(shutil.make_archive(str(target.with_suffix("")), "zip", folder))
