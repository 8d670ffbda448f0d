"""R waves of an electrocardiogram that a machine draws on the screen, as in AVI and MP4 files.

A front moves along the trace at a constant speed: either a sweep, which writes the newest part of the trace, or a
mark on a trace that stands still. The place of the front in each frame gives the time of each column.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from alan.arrays import BoolArray, ByteArray, FloatArray
from alan.data.io.frames import Samples

#: Smallest change in grey values of a pixel that is drawn or erased; smallest value of a pixel of the trace, as a
#: fraction of the typical one; number of frames for which a pixel of a sweep is lit at least.
_CHANGE, _LIT, _LASTING = 60, 0.8, 3
#: Largest height and smallest width of the part of the screen in which a trace is searched, and largest gap
#: between its rows, as fractions of the screen.
_HIGHEST, _WIDEST, _GAP = 0.3, 0.2, 0.02
#: Smallest share of the frames in which the front is found outside the sectors, and of these where its speed puts
#: it; tolerance in columns, and as a fraction of its step.
_FOUND, _STEADY, _NEAR = 0.3, 0.8, (2.0, 0.35)
#: Longest time in s between two R waves of which the trace is not seen.
_UNSEEN_S = 0.03
#: Shortest and longest time in s between two R waves, and largest difference of one from their median, as a
#: fraction.
_SHORTEST_S, _LONGEST_S, _IRREGULAR = 0.33, 1.9, 0.15
#: Smallest height of an R wave in pixels; smallest height of the others, and largest of everything else, as
#: fractions of that of the highest one.
_TALL, _ALIKE, _REST = 6.0, 0.8, 0.5
#: Time in s around an R wave that belongs to it.
_QRS_S = 0.1
#: Time in s before and after the top of an R wave in which all columns are seen.
_FLANK_S = 0.05
#: Smallest share of the rows of an R wave in which it is seen.
_JOINED = 0.8
#: Longest time in s in which an R wave rises above half of its height.
_WIDE_S = 0.12
#: Smallest height of a mark in pixels.
_MARK = 6


@dataclass(frozen=True)
class EcgBand:
    """Rows of a screen in which a trace may be drawn.

    Attributes:
        rows: The rows.
        clear: (h, W) bool, outside the sectors.
        level: Smallest grey value of the trace.
    """

    rows: slice
    clear: BoolArray
    level: float


def find_ecg_band(samples: Samples, sector: BoolArray) -> EcgBand | None:
    """Find the rows in which something is drawn and erased outside the sectors, over a large part of the width.

    Args:
        samples: Some frames of the loop, not thinned.
        sector: (H, W) bool, the sectors with a margin.

    Returns:
        The rows; None if there are none.
    """
    if samples.step > 1 or len(samples.grey) < 3:
        return None
    height, width = sector.shape
    clear = ~ndimage.binary_dilation(sector, iterations=max(3, height // 100))
    drawn = (samples.span >= _CHANGE) & clear
    gap = max(2, round(_GAP * height))
    lines = ndimage.binary_closing(np.pad(drawn.any(1), gap), np.ones(2 * gap + 1, bool))[gap:-gap]
    labels, n = ndimage.label(lines)
    best, most = None, _WIDEST * width
    for (rows,) in ndimage.find_objects(labels) if n else ():
        columns = np.flatnonzero(drawn[rows].any(0))
        if rows.stop - rows.start <= _HIGHEST * height and np.ptp(columns) + 1 >= most:
            best, most = rows, float(np.ptp(columns)) + 1
    if best is None:
        return None
    rows = slice(max(0, best.start - gap), min(height, best.stop + gap))
    values = samples.grey.max(0)[rows][drawn[rows]]  # sample frames do not show all of it
    return EcgBand(rows, clear[rows], _LIT * float(np.median(values[values >= _CHANGE])))


def read_r_waves(frames: Iterable[ByteArray], band: EcgBand, times: FloatArray) -> FloatArray:
    """Read the times of the R waves.

    Args:
        frames: The frames (H, W) uint8 of the loop.
        band: Where the trace is drawn.
        times: (T,) time of each frame in s.

    Returns:
        (N,) times in s, at least two; empty unless the front moves steadily, all of the trace between the R waves
        is seen, and they are regular and stand out.
    """
    drawn = _follow(frames, band)
    if len(drawn.last) != len(times):
        return np.empty(0)
    front = _find_front(drawn.last, times)
    if front is None:
        return np.empty(0)
    trace = _still_trace(drawn, front) if drawn.is_mark else _swept_trace(drawn, front, times, band)
    return _find_peaks(trace[(trace[:, 0] >= times[0]) & (trace[:, 0] <= times[-1])], 1 / front.speed)


@dataclass(frozen=True)
class _Drawn:
    """Pixels that are newly drawn in each frame, and those that are lit in all frames.

    Attributes:
        last: (T,) last column with new pixels outside the sectors; -1 without any.
        is_mark: Whether most of these columns are taller than a trace is thick.
        top: (T, W) first row of the new pixels of each column that stay lit; -1 without any.
        bottom: (T, W) last row.
        steady: (h, W) bool, lit in all frames.
    """

    last: NDArray[np.int64]
    is_mark: bool
    top: NDArray[np.int16]
    bottom: NDArray[np.int16]
    steady: BoolArray


@dataclass(frozen=True)
class _Front:
    """Place of a front over time: ``speed * t + offset`` columns, with an offset for each pass over the screen.

    Attributes:
        speed: Columns per second.
        passes: First frame of each pass, the frame after its last one, and its offset.
    """

    speed: float
    passes: tuple[tuple[int, int, float], ...]


def _follow(frames: Iterable[ByteArray], band: EcgBand) -> _Drawn:
    """Find the new pixels of each frame; a few frames are in memory."""
    last: list[int] = []
    heights: list[int] = []
    ends: list[tuple[NDArray[np.int16], NDArray[np.int16]]] = []
    few: deque[BoolArray] = deque(maxlen=_LASTING + 1)
    before: NDArray[np.int16] | None = None
    steady = np.ones(band.clear.shape, bool)
    for frame in frames:
        now = frame[band.rows].astype(np.int16)
        new = band.clear & (now - (now if before is None else before) >= _CHANGE)
        columns = np.flatnonzero(new.any(0))
        last.append(int(columns[-1]) if len(columns) else -1)
        heights += new[:, columns].sum(0).tolist()
        lit = now >= band.level
        steady &= lit
        few.append(lit)
        if len(few) > _LASTING:
            ends.append(_ends(~few[0] & few[1] & (band.clear | np.all([*few][2:], axis=0))))
        before = now
    for lit, after in pairwise([*few][1:]):  # how long pixels of the last frames stay lit is unknown
        ends.append(_ends(~lit & after & band.clear))
    nothing = _ends(np.zeros(band.clear.shape, bool))
    ends = [*[nothing] * (len(last) - len(ends)), *ends]
    top, bottom = (np.array([pair[which] for pair in ends]) for which in (0, 1))
    return _Drawn(np.array(last), bool(heights) and float(np.median(heights)) >= _MARK, top, bottom, steady)


def _ends(new: BoolArray) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return the first and the last row of the true pixels of each column of (h, W); -1 without any."""
    there = new.any(0)
    last = len(new) - 1 - new[::-1].argmax(0)
    return np.where(there, new.argmax(0), -1).astype(np.int16), np.where(there, last, -1).astype(np.int16)


def _find_front(last: NDArray[np.int64], times: FloatArray) -> _Front | None:
    """Fit the place of the front in all frames; None if it does not move steadily to the right."""
    frames = np.flatnonzero(last >= 0)
    if len(frames) < max(_FOUND * len(last), 5):
        return None
    place, time = last[frames].astype(np.float64), times[frames]
    slopes = np.diff(place) / np.diff(time)
    forward = slopes[slopes > 0]
    if len(forward) < _STEADY * len(slopes):
        return None
    speed = float(np.median(forward))
    step = speed * float(np.median(np.diff(times)))
    near = max(_NEAR[0], _NEAR[1] * step)
    starts = [0, *(int(n) + 1 for n in np.flatnonzero(np.diff(place) < -max(4 * step, 10.0))), len(place)]
    passes, close = [], 0
    for start, stop in pairwise(starts):
        if stop - start < 3:
            continue
        part = slice(start, stop)
        offset = float(np.median(place[part] - speed * time[part]))
        for _ in range(3):  # refine the speed by the frames that agree, in the longest pass
            good = np.abs(place[part] - speed * time[part] - offset) <= near
            if good.sum() >= 3 and stop - start == max(np.diff(starts)):
                speed = float(np.polyfit(time[part][good], place[part][good], 1)[0])
            offset = float(np.median(place[part][good] - speed * time[part][good])) if good.any() else offset
        close += int((np.abs(place[part] - speed * time[part] - offset) <= near).sum())
        passes.append((int(frames[start]), int(frames[stop - 1]) + 1, offset))
    if close < _STEADY * len(frames) or speed <= 0:
        return None
    return _Front(speed, tuple(passes))


def _swept_trace(drawn: _Drawn, front: _Front, times: FloatArray, band: EcgBand) -> FloatArray:
    """Collect the trace that a sweep writes.

    Returns:
        (n, 4) in the order of time: times in s, first and last rows, and whether a column is outside the sectors.
    """
    found: list[FloatArray] = []
    clear: BoolArray = np.asarray(band.clear.all(0))
    for start, stop, offset in front.passes:
        for number in range(max(start, 1), stop):
            columns = np.flatnonzero(drawn.top[number] >= 0)
            when = (columns - offset) / front.speed
            slack = 1.5 / front.speed
            own = (when > times[number - 1] - slack) & (when <= times[number] + slack)
            rows = (drawn.top[number, columns], drawn.bottom[number, columns])
            found.append(np.stack([when, *rows, clear[columns]], 1)[own])
    trace = np.concatenate(found) if found else np.empty((0, 4))
    return np.asarray(trace[trace[:, 0].argsort(kind="stable")], np.float64)


def _still_trace(drawn: _Drawn, front: _Front) -> FloatArray:
    """Collect a trace that stands still under a mark, as :func:`_swept_trace` does."""
    labels, n = ndimage.label(drawn.steady, np.ones((3, 3)))
    if not n:
        return np.empty((0, 4))
    boxes = ndimage.find_objects(labels)
    widest = max(range(n), key=lambda number: boxes[number][1].stop - boxes[number][1].start)  # text is narrower
    top, bottom = _ends(labels == widest + 1)
    columns = np.flatnonzero(top >= 0)
    _, _, offset = max(front.passes, key=lambda part: part[1] - part[0])
    rows = (top[columns], bottom[columns], np.ones(len(columns)))
    return np.stack([(columns - offset) / front.speed, *rows], 1).astype(np.float64)


def _find_peaks(trace: FloatArray, column_s: float) -> FloatArray:
    """Find the R waves of a trace (n, 4) in the order of time; empty if they are irregular or do not stand out.

    Args:
        trace: The trace.
        column_s: Time in s from one column to the next.
    """
    if not len(trace):
        return np.empty(0)
    time, upper, lower, clear = trace.T
    heights = (np.median(upper) - upper, lower - np.median(lower))
    height = max(heights, key=lambda each: each.max(initial=0))
    high = float(height.max(initial=0))
    if high < _TALL:
        return np.empty(0)
    tops = np.flatnonzero(height >= _ALIKE * high)
    groups = np.split(tops, np.flatnonzero(np.diff(time[tops]) > _QRS_S) + 1)
    low = np.flatnonzero(height < 0.5 * high)
    places = []
    for group in groups:
        before, after = low[low < group[0]], low[low > group[-1]]
        if not len(before) or not len(after):
            continue  # cut off by the beginning or the end of the loop
        part = slice(int(before[-1]), int(after[0]) + 1)
        around = time[(time >= time[group[0]] - _FLANK_S) & (time <= time[group[-1]] + _FLANK_S)]
        if len(around) < 2:
            return np.empty(0)
        if around[0] - column_s > time[group[0]] - _FLANK_S or around[-1] + column_s < time[group[-1]] + _FLANK_S:
            continue
        if np.diff(around).max() > 2.2 * column_s:  # text hides a part of it
            return np.empty(0)
        if time[part][-1] - time[part][0] > _WIDE_S or not clear[part].all() or not _is_stroke(upper, lower, part):
            return np.empty(0)
        places.append(int(group[height[group].argmax()]))
    if len(places) < 2:
        return np.empty(0)
    peaks = time[places]
    between = (time >= peaks[0]) & (time <= peaks[-1])
    steps = np.diff(peaks)
    apart = np.abs(time[:, None] - peaks).min(1) > _QRS_S
    if (
        not _SHORTEST_S <= steps.min() <= steps.max() <= _LONGEST_S
        or np.diff(time[between]).max() > _UNSEEN_S
        or np.abs(steps - np.median(steps)).max() > _IRREGULAR * np.median(steps)
        or height[apart & between].max(initial=0) > _REST * high
    ):
        return np.empty(0)
    return np.asarray(peaks)


def _is_stroke(upper: FloatArray, lower: FloatArray, part: slice) -> bool:
    """Return whether a part of a trace connects its highest or lowest row with the rows around it."""
    first, last = int(upper[part].min()), int(lower[part].max())
    rows = np.arange(first, last + 1)[:, None]
    seen = ((rows >= upper[part]) & (rows <= lower[part])).any(1)
    return float(seen.mean()) >= _JOINED
