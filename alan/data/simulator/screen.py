"""Screens of ultrasound machines around a simulated sector: text, ECG, depth ticks, bars and second panels.

The position of the sector on the screen is known, so that its detection can be measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from alan.arrays import BoolArray, ByteArray, FloatArray
from alan.data.simulator.anatomy import PatientAnatomy
from alan.data.simulator.sequence import MAX_SIDE, MIN_SIDE, SimulatedSequence, simulate_sequence

#: (height, width) of screens that are common in exported loops.
SHAPES = ((480, 640), (600, 800), (768, 1024), (422, 636), (434, 636), (240, 320), (708, 1016))
_WORDS = (
    "DOE^JANE  01/02/1955",
    "ID 0123456",
    "Adult Echo",
    "TIS 0.8  MI 1.4",
    "X5-1",
    "52 Hz",
    "16.0 cm",
    "2D",
    "Gen",
    "Gn 58",
    "C 50",
    "P Low",
    "HPen",
    "General Hospital",
    "12/11/2024 10:42:17",
    "*** bpm",
    "JPEG",
    "HR 71",
    "DR 60",
    "FR 48 Hz",
    "P R",
)

#: Share of the ECGs that stand still while a line marks the time; width of the gap before a sweep, as a fraction
#: of the trace.
_STILL, _GAP = 0.3, 0.05


@dataclass(frozen=True)
class Screen:
    """A loop as a machine exports it.

    Attributes:
        frames: (T, H, W) uint8.
        sectors: (H, W) bool per panel, from left to right; True inside the sector.
        clips: The simulated clip of each panel, with its pixel size, frame rate and volumes.
        r_waves_s: (N,) times of the R waves of the first clip in s that the ECG on the screen shows while the loop
            runs; None without an ECG.
    """

    frames: ByteArray
    sectors: tuple[BoolArray, ...]
    clips: tuple[SimulatedSequence, ...]
    r_waves_s: FloatArray | None = None


def simulate_screen(
    seed: int,
    *,
    n_frames: int = 8,
    panels: int = 1,
    view: str = "A4C",
    patient: PatientAnatomy | None = None,
    beats: float = 1.0,
    half_angles: tuple[float, float] = (7.5, 50.0),
) -> Screen:
    """Simulate a loop on the screen of a machine.

    The shape of the screen, the geometry of the sector (opening angle from 15 to 100 degrees; pointed, curved or
    flat top) and everything around it are drawn from the seed.

    Args:
        seed: Seed of the patient, the clip and the screen, 0 or more.
        n_frames: Number of frames, at least 1.
        panels: Number of panels side by side, 1 or 2.
        view: View of the heart.
        patient: Anatomy of the patient; None draws one for each panel.
        beats: Number of heart beats.
        half_angles: Smallest and largest half of the opening angle of the sector, in degrees.

    Returns:
        The screen and its sectors.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 77]))
    height, width = SHAPES[int(rng.integers(len(SHAPES)))]
    background = int(rng.choice([0, 0, 0, 4, 12]))
    frames = np.full((n_frames, height, width), background, np.uint8)
    sectors, clips = [], []
    panel_width = width // panels
    for panel in range(panels):
        geometry = _Geometry.draw(rng, (height, panel_width), half_angles)
        number = seed * 10 + panel
        clip = simulate_sequence(
            view,
            number if patient is None else patient,
            n_frames=n_frames,
            beats=beats,
            size=geometry.box,
            seed=number,
            acquisition=geometry.acquisition,
        )
        clips.append(clip)
        loop, inside = geometry.place(clip.frames, rng)
        where = slice(panel * panel_width, (panel + 1) * panel_width)
        frames[:, :, where] = np.where(inside, loop, frames[:, :, where])
        sector = np.zeros((height, width), bool)
        sector[:, where] = inside
        sectors.append(sector)
    waves = _decorate(frames, np.any(sectors, 0), clips[0], rng)
    if rng.random() < 0.5:  # lossy export
        noise = rng.integers(-2, 3, frames.shape)
        lossy = np.clip(frames.astype(np.int16) + noise * (frames > background), 0, 255).astype(np.uint8)
        frames = np.where(np.any(sectors, 0), lossy, frames)
    return Screen(frames, tuple(sectors), tuple(clips), waves)


@dataclass(frozen=True)
class _Geometry:
    """Geometry of a sector in a panel of a screen.

    Attributes:
        shape: (H, W) of the panel.
        half_angle: Half of the opening angle in radians.
        start: Depth at which the sector begins, as a fraction of the whole depth.
        flat: Whether the sector begins with a straight line instead of an arc.
        box: (height, width) in pixels of the sector from its apex.
        acquisition: Fields of the simulated acquisition.
    """

    shape: tuple[int, int]
    half_angle: float
    start: float
    flat: bool
    box: tuple[int, int]
    acquisition: Mapping[str, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, shape: tuple[int, int], half_angles: tuple[float, float]) -> Self:
        """Draw a geometry whose sector fits into a panel."""
        half_angle = math.radians(rng.uniform(*half_angles))
        kind = ("pointed", "curved", "flat")[int(rng.integers(3))]
        start = 0.0 if kind == "pointed" else float(rng.uniform(0.05, 0.3))
        room_height, room_width = shape[0] * rng.uniform(0.72, 0.96), shape[1] * rng.uniform(0.75, 0.98)
        top = start * math.cos(half_angle)
        depth = int(min(room_height / (1 - top), room_width / (2 * math.sin(half_angle))))
        width = max(MIN_SIDE, round(2 * depth * math.sin(half_angle)))
        acquisition = {
            "half_angle": half_angle,
            "margin_depth": 1.0,
            "margin_width": 1.0,
            "start": 0.0,
            "edge_loss": float(rng.uniform(2, 6)),
        }
        box = (min(max(depth, MIN_SIDE), MAX_SIDE), min(width, MAX_SIDE))
        return cls(shape, half_angle, start, kind == "flat", box, acquisition)

    def place(self, picture: ByteArray, rng: np.random.Generator) -> tuple[ByteArray, BoolArray]:
        """Cut the sector out of a clip and put it at a random place of the panel: frames and the inside."""
        rows, columns = self.box
        z = (np.arange(rows)[:, None] + 0.5) / rows
        x = ((np.arange(columns) + 0.5) / columns - 0.5)[None] * 2 * math.sin(self.half_angle)
        radius, angle = np.hypot(x, z), np.arctan2(x, z)
        inside = (radius <= 1.0) & (np.abs(angle) <= self.half_angle)
        inside &= z >= self.start * math.cos(self.half_angle) if self.flat else radius >= self.start
        first = int(np.flatnonzero(inside.any(1))[0])
        picture, inside = picture[:, first:], inside[first:]
        out, mask = np.zeros((len(picture), *self.shape), np.uint8), np.zeros(self.shape, bool)
        free = (self.shape[0] - inside.shape[0], self.shape[1] - inside.shape[1])
        row = int(rng.uniform(0.1, 0.9) * max(free[0], 0))
        column = int(rng.uniform(0.3, 0.7) * max(free[1], 0))
        part = inside[: self.shape[0] - row, : self.shape[1] - column]
        where = slice(row, row + part.shape[0]), slice(column, column + part.shape[1])
        mask[where] = part
        out[:, where[0], where[1]] = picture[:, : part.shape[0], : part.shape[1]]
        return out, mask


def _decorate(
    frames: ByteArray, sector: BoolArray, clip: SimulatedSequence, rng: np.random.Generator
) -> FloatArray | None:
    """Draw text, ECG, ticks and bars in place, mostly outside the sector; return the R waves of the ECG."""
    height, width = frames.shape[1:]
    still = Image.fromarray(np.zeros((height, width), np.uint8))
    draw = ImageDraw.Draw(still)
    size = max(9, height // 40)
    font = ImageFont.load_default(size)
    grey = int(rng.integers(150, 256))
    for _ in range(int(rng.integers(6, 16))):
        words = _WORDS[int(rng.integers(len(_WORDS)))]
        place = (
            _corner(height, width, rng) if rng.random() < 0.85 else (rng.uniform(0, width), rng.uniform(0, height))
        )
        draw.text(place, words, fill=grey, font=font)
    bars = np.asarray(still).copy()
    if rng.random() < 0.7:  # grey scale
        x = int(rng.choice([0.02, 0.95]) * width)
        ramp = np.linspace(255, 0, height // 3)[:, None]
        bars[height // 8 : height // 8 + len(ramp), x : x + max(4, width // 60)] = ramp.astype(np.uint8)
    if rng.random() < 0.7:  # depth ticks beside the sector
        x = min(width - 6, int(np.flatnonzero(sector.any(0))[-1] + 0.02 * width))
        for tick in np.linspace(0.05, 0.95, int(rng.integers(8, 20))):
            bars[int(tick * height) : int(tick * height) + 2, x : x + int(rng.integers(3, 8))] = grey
    if rng.random() < 0.5:  # focus mark
        y, x = int(rng.uniform(0.3, 0.8) * height), int(np.flatnonzero(sector.any(0))[-1] + 0.05 * width)
        bars[y : y + 6, x : x + 6] = 200
    np.maximum(frames, bars, out=frames)
    return draw_ecg(frames, clip.phase, clip.fps, rng) if rng.random() < 0.7 else None


def _corner(height: int, width: int, rng: np.random.Generator) -> tuple[float, float]:
    """Draw a place for text near the left, right, upper or lower border, as (x, y)."""
    near = rng.uniform(0.01, 0.12)
    if rng.random() < 0.5:
        return (near if rng.random() < 0.6 else 0.82) * width, rng.uniform(0.02, 0.95) * height
    return rng.uniform(0.02, 0.8) * width, (near / 2 if rng.random() < 0.6 else 0.95) * height


def draw_ecg(frames: ByteArray, phase: FloatArray, fps: float, rng: np.random.Generator) -> FloatArray:
    """Draw the ECG of a heart along the lower border, in place.

    Either a sweep begins with the loop and overwrites the trace of the sweep before, behind a gap, or the trace
    of the whole loop stands still and a line marks the time of the frame.

    Args:
        frames: (T, H, W) uint8.
        phase: (T,) fraction of the beat since end-diastole, 0 to 1.
        fps: Frames per second.
        rng: Random number generator of the place, the speed and the kind.

    Returns:
        (N,) times in s of the R waves, which lie at end-diastole.
    """
    n_frames, height, width = frames.shape
    seconds, place, base = rng.uniform(2, 5), rng.uniform(), height * rng.uniform(0.88, 0.96)
    first, columns = int(0.05 * width), np.arange(int(0.9 * width))
    period, start, n = _beat(phase, fps)
    still = place < _STILL
    seconds = n_frames / fps if still else seconds
    for number in range(n_frames):
        time = number / fps
        front = len(columns) * (time / seconds if still else (time / seconds + place) % 1.0)
        if still:
            times = columns / len(columns) * seconds
            shown = np.ones(len(columns), bool)
        else:
            behind = (front - columns) % len(columns)
            times = time - behind / len(columns) * seconds
            shown = (behind < (1 - _GAP) * len(columns)) & (times >= 0)
        rows = np.clip(base - 0.07 * height * _voltage((times - start) / period), 0, height - 2).astype(int)
        _trace(frames[number], rows, first, shown)
        if still:
            mark = first + int(front)
            frames[number, int(base - 0.09 * height) : int(base + 0.03 * height), mark : mark + 2] = 200
    waves = start + period * np.arange(n)
    return np.asarray(waves[waves < n_frames / fps])


def _beat(phase: FloatArray, fps: float) -> tuple[float, float, int]:
    """Return the duration of a beat in s, the time of its first end-diastole, and a number of beats."""
    steps = np.diff(phase) % 1.0
    period = 1 / (fps * float(np.median(steps))) if len(steps) else 1.0
    return period, float(-phase[0] % 1.0) * period, 2 + int(len(phase) / (fps * period))


def _voltage(beat: FloatArray) -> FloatArray:
    """Compute the ECG at times in beats: P, Q, R, S and T waves, R at end-diastole and T before end-systole."""
    bumps = (
        (0.12, -0.17, 0.03),
        (-0.12, -0.03, 0.01),
        (1.0, 0.0, 0.012),
        (-0.25, 0.03, 0.012),
        (0.22, 0.26, 0.045),
    )
    off = (beat + 0.5) % 1.0 - 0.5
    return np.asarray(sum(size * np.exp(-(((off - at) / wide) ** 2)) for size, at, wide in bumps))


def _trace(frame: ByteArray, rows: NDArray[np.int64], first: int, shown: BoolArray) -> None:
    """Draw a line through the rows of consecutive columns, in place."""
    for column in np.flatnonzero(shown):
        before = rows[column - 1] if column and shown[column - 1] else rows[column]
        low, high = sorted((int(before), int(rows[column])))
        frame[low : high + 2, first + column] = 230
