"""Measurements of a loop from its outlines: areas, volumes, beats and ejection fraction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from scipy.ndimage import binary_erosion

from alan.analysis.results import FrameResult, LoopResult, Measure
from alan.analysis.timeline import Timeline
from alan.arrays import BoolArray, ByteArray, FloatArray
from alan.cardiac import (
    Beat,
    anteroposterior_diameter_cm,
    area_cm2,
    area_length_volume,
    ejection_fraction,
    linear_dimensions,
    linear_mass_g,
    long_axis_cm,
    mean_wall_thickness_cm,
    myocardial_mass_g,
    shortening_percent,
    simpson_volume,
)
from alan.data.sample import PARASTERNAL
from alan.downstream.whitebox.contour import outlines

#: Fraction of the height of the outline at the base that is left out when its shortening is measured.
_BASE = 0.12
#: Largest share of the outline of an atrium on the border of the sector; with more, too much of it is not shown.
ATRIUM_CUT = 0.25


@dataclass(frozen=True)
class Grid:
    """Geometry of label maps on the grid of the model.

    Attributes:
        pixels: (row, column) size of a pixel of the grid in pixels of the file.
        pixel_mm: (row, column) size of a pixel of the file in mm; None if unknown.
        aspect: Height of a pixel of the file divided by its width; used if the size is unknown.
        inside: (H, W) bool, the sector; None if unknown.
        view: View of the loop, by which is decided what is measured; as an apical one if it is empty.
    """

    pixels: tuple[float, float]
    pixel_mm: tuple[float, float] | None
    aspect: float = 1.0
    inside: BoolArray | None = None
    view: str = ""

    @classmethod
    def of(cls, result: LoopResult, labels: ByteArray) -> Self:
        """Return the geometry of the label maps (T, H, W) of an analyzed loop."""
        pixels = (result.box[2] / labels.shape[1], result.box[3] / labels.shape[2])
        return cls(pixels, result.pixel_mm, result.pixel_aspect, view=result.view.view if result.view else "")

    @property
    def spacing(self) -> tuple[float, float]:
        """(row, column) size of a pixel of the grid in mm; in columns of the file if the size is unknown."""
        mm = self.pixel_mm or (self.aspect, 1.0)
        return self.pixels[0] * mm[0], self.pixels[1] * mm[1]


@dataclass(frozen=True)
class Curves:
    """Measurements of the left ventricle per frame; volumes are in arbitrary units without a pixel size.

    Attributes:
        volume: (T,) by the single-plane method of disks; NaN in a parasternal view.
        area: (T,) area.
        length: (T,) length of the long axis; NaN in a parasternal view.
        outline: (T,) length of the endocardial outline without its base; NaN in a parasternal view.
        internal: (T,) internal diameter in cm in PLAX; NaN in other views and without a pixel size.
    """

    volume: FloatArray
    area: FloatArray
    length: FloatArray
    outline: FloatArray
    internal: FloatArray


class Size(NamedTuple):
    """Sizes in one frame, NaN where they are not measured.

    Attributes:
        volume: Volume of the left ventricle, in the unit of :class:`Curves` like the other sizes.
        area: Area of the left ventricle.
        outline: Length of its outline without the base.
        mass: Mass of its myocardium in g.
        atrium: Volume of the left atrium by the area-length formula; NaN also if the sector cuts it off.
        internal: Internal diameter of the left ventricle in cm; this and the others below are parasternal.
        septum: Thickness of the septum in cm.
        posterior: Thickness of the posterior wall in cm.
        atrial_diameter: Anteroposterior diameter of the left atrium in cm.
        wall: Mean thickness of the ring of a short-axis view in cm.
    """

    volume: float = math.nan
    area: float = math.nan
    outline: float = math.nan
    mass: float = math.nan
    atrium: float = math.nan
    internal: float = math.nan
    septum: float = math.nan
    posterior: float = math.nan
    atrial_diameter: float = math.nan
    wall: float = math.nan


@dataclass(frozen=True)
class BeatMeasures:
    """Numbers of one beat, named as in :class:`alan.analysis.BeatResult`; NaN where they cannot be measured."""

    edv_ml: float
    esv_ml: float
    stroke_volume_ml: float
    ef_percent: float
    area_change_percent: float
    shortening_percent: float
    heart_rate_bpm: float = math.nan
    la_volume_ml: float = math.nan
    lv_mass_g: float = math.nan
    lvidd_cm: float = math.nan
    lvids_cm: float = math.nan
    fractional_shortening_percent: float = math.nan
    ivsd_cm: float = math.nan
    lvpwd_cm: float = math.nan
    lv_mass_linear_g: float = math.nan
    la_diameter_cm: float = math.nan
    wall_thickness_cm: float = math.nan

    @classmethod
    def between(cls, ed: Size, es: Size, heart_rate_bpm: float = math.nan) -> Self:
        """Measure a beat from its sizes at end-diastole and end-systole."""
        return cls(
            ed.volume,
            es.volume,
            ed.volume - es.volume,
            ejection_fraction(ed.volume, es.volume),
            shortening_percent(ed.area, es.area),
            shortening_percent(ed.outline, es.outline),
            heart_rate_bpm,
            es.atrium,
            ed.mass,
            ed.internal,
            es.internal,
            shortening_percent(ed.internal, es.internal),
            ed.septum,
            ed.posterior,
            linear_mass_g(ed.septum, ed.internal, ed.posterior),
            es.atrial_diameter,
            ed.wall,
        )


#: Measures of a beat in each parasternal view, besides the heart rate; the first one is measured in every outline.
PARASTERNAL_MEASURES = {
    "PLAX": (
        *("lvidd_cm", "lvids_cm", "fractional_shortening_percent", "ivsd_cm", "lvpwd_cm"),
        *("lv_mass_linear_g", "la_diameter_cm"),
    ),
    "PSAX": ("area_change_percent", "wall_thickness_cm"),
}
#: Measures of a beat that need the size of a pixel: those in PLAX too, whose place is a distance in cm.
SIZED = (
    *("edv_ml", "esv_ml", "stroke_volume_ml", "la_volume_ml", "lv_mass_g"),
    *PARASTERNAL_MEASURES["PLAX"],
    "wall_thickness_cm",
)


def measure_curves(cavity: BoolArray, grid: Grid) -> Curves:
    """Measure the left ventricle in each frame.

    Args:
        cavity: (T, H, W) bool.
        grid: Geometry of the masks.

    Returns:
        Volumes in ml, areas in cm2 and lengths in cm; NaN for an empty mask.
    """
    spacing, unknown = grid.spacing, np.full(len(cavity), math.nan)
    area = area_cm2(cavity, spacing)
    area[area == 0] = math.nan
    if grid.view in PARASTERNAL:
        internal = unknown
        if grid.view == "PLAX" and grid.pixel_mm is not None:
            internal = np.array(
                [linear_dimensions(mask, None, spacing, grid.inside).internal_cm for mask in cavity]
            )
        return Curves(unknown, area, unknown, unknown, internal)
    rows = [
        (simpson_volume(mask, spacing), long_axis_cm(mask, spacing), outline_length_cm(mask, spacing))
        for mask in cavity
    ]
    volume, length, outline = np.asarray(rows, np.float64).reshape(-1, 3).T
    return Curves(volume, area, length, outline, unknown)


def outline_length_cm(mask: BoolArray, spacing: tuple[float, float]) -> float:
    """Compute the length of the outline of the left ventricle around the apex in an apical view.

    The base is the lower end of the mask; the lowest 12% of the height of the mask are left out.

    Args:
        mask: (H, W) bool.
        spacing: (row, column) size of a pixel in mm.

    Returns:
        The length in cm; NaN for an empty mask.
    """
    found = outlines(mask) if mask.any() else []
    if not found:
        return math.nan
    points = max(found, key=len)
    rows = points[:, 0]
    above = rows <= rows.max() - _BASE * np.ptp(rows)
    steps = np.diff(points, axis=0, append=points[:1]) * np.asarray(spacing) / 10.0
    counted = above & np.roll(above, -1)
    return float(np.hypot(steps[:, 0], steps[:, 1])[counted].sum())


def share_on_border(mask: BoolArray, inside: BoolArray | None) -> float:
    """Compute the share of the outline of a mask that lies within two pixels of the border of the sector.

    Args:
        mask: (H, W) bool.
        inside: (H, W) bool, the sector, whose border may be that of the picture; None if unknown.

    Returns:
        The share; 0 for an empty mask or an unknown sector.
    """
    if inside is None or not mask.any():
        return 0.0
    outline = mask & ~binary_erosion(mask)
    return float((~binary_erosion(inside, iterations=2))[outline].mean())


def measure_size(masks: Mapping[str, BoolArray], grid: Grid) -> Size:
    """Measure one frame.

    Args:
        masks: Mapping from structure to its mask (H, W) bool, with the left ventricle; the mass needs its
            myocardium.
        grid: Geometry of the masks.
    """
    if grid.view in PARASTERNAL:
        return _parasternal_size(masks, grid)
    spacing, cavity = grid.spacing, masks["lv"]
    curves = measure_curves(cavity[None], grid)
    volume, mass, atrium = float(curves.volume[0]), math.nan, math.nan
    if "myo" in masks:
        mass = myocardial_mass_g(simpson_volume(cavity | masks["myo"], spacing), volume)
    if "la" in masks and share_on_border(masks["la"], grid.inside) <= ATRIUM_CUT:
        atrium = area_length_volume(masks["la"], spacing)
    return Size(volume, float(curves.area[0]), float(curves.outline[0]), mass, atrium)


def _parasternal_size(masks: Mapping[str, BoolArray], grid: Grid) -> Size:
    """Measure one frame of a parasternal view; the dimensions in PLAX need the size of a pixel."""
    spacing, cavity, wall = grid.spacing, masks["lv"], masks.get("myo")
    if grid.view == "PSAX":
        area = float(area_cm2(cavity, spacing)) or math.nan
        seen = wall is not None and wall.any()
        outer = float(area_cm2(cavity | wall, spacing)) if wall is not None and seen else math.nan
        return Size(area=area, wall=mean_wall_thickness_cm(outer, area))
    if grid.pixel_mm is None:
        return Size()
    diameter = math.nan
    if "la" in masks and share_on_border(masks["la"], grid.inside) <= ATRIUM_CUT:
        diameter = anteroposterior_diameter_cm(masks["la"], cavity, spacing)
    internal, septum, posterior = linear_dimensions(cavity, wall, spacing, grid.inside)
    return Size(internal=internal, septum=septum, posterior=posterior, atrial_diameter=diameter)


def measure_beat(
    beat: Beat, masks: Mapping[str, BoolArray], grid: Grid, heart_rate_bpm: float = math.nan
) -> BeatMeasures:
    """Measure one beat from the masks (T, H, W) of its loop; the heart rate is that of the beat."""
    ed, es = (
        measure_size({name: mask[frame] for name, mask in masks.items()}, grid) for frame in (beat.ed, beat.es)
    )
    return BeatMeasures.between(ed, es, heart_rate_bpm)


def select_beats(beats: Sequence[Beat]) -> list[Beat]:
    """Select the beats for the summary of a loop: regular complete ones, else complete ones, else all."""
    complete = [beat for beat in beats if beat.complete]
    regular = [beat for beat in complete if beat.regular]
    return regular or complete or list(beats)


def median(values: Sequence[float]) -> float:
    """Compute the median of the known values; NaN without any."""
    known = [value for value in values if math.isfinite(value)]
    return float(np.median(known)) if known else math.nan


def frame_results(
    timeline: Timeline,
    structures: Sequence[str],
    curves: Curves | None,
    grid: Grid,
    times: FloatArray | None,
) -> tuple[FrameResult, ...]:
    """Collect one result per frame.

    Args:
        timeline: Outlines of the loop.
        structures: Names in the order of the labels.
        curves: Measurements of the left ventricle; None in a view without it.
        grid: Geometry of the labels.
        times: (T,) times in s; None if unknown.
    """
    pixels = grid.pixels[0] * grid.pixels[1]
    known = grid.pixel_mm is not None
    mm2 = grid.spacing[0] * grid.spacing[1]
    out = []
    for t, label in enumerate(timeline.labels):
        counts = np.bincount(label.ravel(), minlength=len(structures) + 1)[1:]
        out.append(
            FrameResult(
                frame=t,
                time_s=None if times is None else float(times[t]),
                area_px={name: float(n * pixels) for name, n in zip(structures, counts, strict=True)},
                area_cm2={
                    name: float(n * mm2 / 100.0) for name, n in zip(structures, counts, strict=True) if known
                },
                length_cm=_known(curves.length[t]) if curves is not None and known else None,
                volume_ml=_known(curves.volume[t]) if curves is not None and known else None,
                phase=float(timeline.phase[t]),
                repaired=bool(timeline.repaired[t]),
                lvid_cm=_known(curves.internal[t]) if curves is not None else None,
            )
        )
    return tuple(out)


def summarise_beats(numbers: Sequence[BeatMeasures], *, sized: bool) -> dict[str, Measure]:
    """Compute medians over beats, by name; volumes only where the pixel size is known. Empty without beats.

    The stroke volume is the difference of the median volumes.
    """
    if not numbers:
        return {}
    found = {name: median([getattr(n, name) for n in numbers]) for name in vars(numbers[0])}
    found["stroke_volume_ml"] = found["edv_ml"] - found["esv_ml"]
    return {name: Measure(value) for name, value in found.items() if sized or name not in SIZED}


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
