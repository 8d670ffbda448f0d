"""Curves of an analysis for its pages, drawn as SVG inside the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from alan.analysis.results import LoopResult
from alan.data.structures import structure_name
from alan.report.words import number
from alan.words import plural

#: Size of the curve in units of its own, its margins (left, right, top, bottom), and the number of ticks.
_SIZE, _MARGINS, _TICKS = (640, 250), (56, 14, 26, 44), 4


@dataclass(frozen=True)
class Curve:
    """Curve of a loop over time, in units of the drawing.

    Attributes:
        title: Heading.
        x_name: Name of the horizontal axis.
        caption: Text below the curve.
        alternative: Description of what it shows.
        y_ticks: Place and text of each tick of the vertical axis; likewise ``x_ticks``.
        lines: Points of each unbroken part of the curve.
        marks: Place and phase of each end-diastole and end-systole.
        beats: Places at which the marks are connected with the axis.
        repaired: Places of frames whose outline was interpolated.
    """

    title: str
    x_name: str
    caption: str
    alternative: str
    y_ticks: Sequence[tuple[float, str]]
    x_ticks: Sequence[tuple[float, str]]
    lines: Sequence[str]
    marks: Sequence[tuple[float, float, str]]
    beats: Sequence[float]
    repaired: Sequence[tuple[float, float]]
    width: int = _SIZE[0]
    height: int = _SIZE[1]
    left: int = _MARGINS[0]
    right: int = _SIZE[0] - _MARGINS[1]
    top: int = _MARGINS[2]
    bottom: int = _SIZE[1] - _MARGINS[3]


def loop_curve(result: LoopResult) -> Curve | None:
    """Draw the volume of the left ventricle over time, or the area of the first structure where it is unknown.

    Args:
        result: The loop.

    Returns:
        The curve; None with fewer than two measured frames.
    """
    title, values = _values(result)
    known = np.isfinite(values)
    if known.sum() < 2:
        return None
    times = np.array([math.nan if frame.time_s is None else frame.time_s for frame in result.frames])
    timed = bool(np.isfinite(times).all())
    x = times if timed else np.arange(len(values), dtype=float)
    y_ticks = _nice(0.0, float(values[known].max()))
    low, high = y_ticks[0], max(y_ticks[-1], 1e-9)
    curve = _Scale((float(x[0]), float(x[-1])), Curve.left, Curve.right)
    up = _Scale((low, high), Curve.bottom, Curve.top)
    xs, ys = curve(x), up(values)
    marks = [
        (float(xs[n]), float(ys[n]), phase)
        for n, phase in sorted({(b.ed, "ED") for b in result.beats} | {(b.es, "ES") for b in result.beats})
        if known[n]
    ]
    repaired = [(float(xs[n]), float(ys[n])) for n, f in enumerate(result.frames) if f.repaired and known[n]]
    caption = "Circles: end-diastole (ED). Squares: end-systole (ES)." if marks else "No beat was found."
    if repaired:
        caption += (
            f" Red rings: {plural(len(repaired), 'frame')} whose outline jumped and was interpolated from the "
            "neighbouring frames."
        )
    spread = f"from {number(float(values[known].min()), 0)} to {number(float(values[known].max()), 0)}"
    return Curve(
        title=title,
        x_name="time (s)" if timed else "frame",
        caption=caption,
        alternative=f"{title} over {plural(len(values), 'frame')}, {spread}; {plural(len(result.beats), 'beat')}.",
        y_ticks=[(float(up(np.array(tick))), f"{tick:g}") for tick in y_ticks],
        x_ticks=[
            (float(curve(np.array(tick))), f"{tick:g}")
            for tick in _nice(float(x[0]), float(x[-1]), whole=not timed)
            if x[0] <= tick <= x[-1]
        ],
        lines=[" ".join(f"{xs[n]:.1f},{ys[n]:.1f}" for n in part) for part in _parts(known)],
        marks=marks,
        beats=[place for place, _, _ in marks],
        repaired=repaired,
    )


def _values(result: LoopResult) -> tuple[str, NDArray[np.float64]]:
    """Return the name and the values of the curve."""
    volumes = np.array([math.nan if f.volume_ml is None else f.volume_ml for f in result.frames], float)
    if np.isfinite(volumes).any():
        return "Volume of the left ventricle (ml)", volumes
    name = result.structures[0] if result.structures else "lv"
    what = f"Area of the {structure_name(name)}"
    areas = np.array([f.area_cm2.get(name, math.nan) for f in result.frames], float)
    if np.isfinite(areas).any():
        return f"{what} (cm²)", areas
    return f"{what} (pixels)", np.array([f.area_px.get(name, math.nan) for f in result.frames], float)


class _Scale:
    """Maps values linearly onto places of the drawing."""

    def __init__(self, values: tuple[float, float], first: float, last: float) -> None:
        self._start, self._first = values[0], first
        self._factor = (last - first) / max(values[1] - values[0], 1e-9)

    def __call__(self, value: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.round(self._first + (value - self._start) * self._factor, 1)


def _nice(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Choose round ticks; ``whole`` ones are integers, such as numbers of frames."""
    locator = MaxNLocator(_TICKS, steps=[1, 2, 2.5, 5, 10], integer=whole, min_n_ticks=1 if whole else 2)
    return [float(tick) for tick in locator.tick_values(low, max(high, low + 1e-9))]


def _parts(known: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    """Find the runs of neighbouring known values."""
    places = np.flatnonzero(known)
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
