"""Measurements of an analyzed loop that follow frames of end-diastole and end-systole moved by hand."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import av
import numpy as np

from alan.analysis.exports import median_beat
from alan.analysis.measures import Grid, measure_curves, median, select_beats
from alan.analysis.results import LoopResult, Measure
from alan.analysis.tables import SOURCES
from alan.arrays import BoolArray, ByteArray, FloatArray
from alan.cardiac.beats import Beat
from alan.cardiac.volumes import ejection_fraction, shortening_percent
from alan.errors import DataError, ParameterError


@dataclass(frozen=True)
class MovedBeat:
    """Measurements between two frames.

    Attributes:
        edv_ml: Volume at end-diastole; NaN if the size of a pixel is unknown.
        esv_ml: Volume at end-systole.
        ef_percent: Ejection fraction by the method of disks; NaN if an outline is empty.
        area_change_percent: Fractional change of the area of the left ventricle.
    """

    edv_ml: float
    esv_ml: float
    ef_percent: float
    area_change_percent: float


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


def measure_between(result: LoopResult, labels: ByteArray, ed: int, es: int) -> MovedBeat:
    """Measure between two frames.

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
    cavity = labels[[ed, es]] == result.structures.index("lv") + 1
    (edv, esv), (larger, smaller) = _volumes_and_areas(cavity, Grid.of(result, labels))
    ef, change = ejection_fraction(edv, esv), shortening_percent(larger, smaller)
    return MovedBeat(edv, esv, ef, change) if result.pixel_mm else MovedBeat(math.nan, math.nan, ef, change)


def with_spacing(result: LoopResult, labels: ByteArray, spacing: float | None) -> LoopResult:
    """Return a loop with another pixel width and the resulting areas and volumes, without intervals.

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
    sized = replace(result, pixel_mm=mm, frames=frames, la_volume_ml=Measure(), lv_mass_g=Measure())
    counted = select_beats([Beat(beat.ed, beat.es, beat.end, regular=beat.regular) for beat in result.beats])
    moved = [measure_between(sized, labels, beat.ed, beat.es) for beat in counted]
    if not moved:
        return sized
    edv, esv = median([beat.edv_ml for beat in moved]), median([beat.esv_ml for beat in moved])
    return replace(sized, edv_ml=Measure(edv), esv_ml=Measure(esv), stroke_volume_ml=Measure(edv - esv))


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


def sentence(beat: MovedBeat) -> str:
    """Describe the measurements in words, without the unknown ones."""
    words = {
        "EDV {:z.0f} ml": beat.edv_ml,
        "ESV {:z.0f} ml": beat.esv_ml,
        "EF {:z.0f}%": beat.ef_percent,
        "fractional area change {:z.0f}%": beat.area_change_percent,
    }
    text = ", ".join(text.format(value) for text, value in words.items() if not math.isnan(value))
    swapped = "; the ventricle is smaller at end-diastole than at end-systole: exchange the frames"
    return text + swapped if beat.ef_percent < 0 else text


def pack(folder: Path, target: Path) -> Path:
    """Pack the results of an analysis into a zip file; files that only a resumed run needs are removed.

    Args:
        folder: Folder of the results.
        target: Path of the file, which ends in ``.zip``.
    """
    shutil.rmtree(folder / SOURCES, ignore_errors=True)
    return Path(shutil.make_archive(str(target.with_suffix("")), "zip", folder))


def _volumes_and_areas(cavity: BoolArray, grid: Grid) -> tuple[FloatArray, FloatArray]:
    curves = measure_curves(cavity, grid)
    return curves.volume, curves.area
