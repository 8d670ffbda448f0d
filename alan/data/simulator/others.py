"""Pictures that show no standard view of the heart, as negative examples for the recognition of views."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from alan.arrays import ByteArray, FloatArray
from alan.bounds import PositiveInt, Seed, bounded


@bounded
def other_frames(n_frames: PositiveInt, size: PositiveInt = 112, seed: Seed = 0) -> ByteArray:
    """Draw pictures that show no view of the heart, of each kind in turn.

    The kinds are noise, textures of natural pictures, plain gradients, speckle in a fan without an organ, organs
    of other shape in a fan (vessels, cysts, a kidney), spectral Doppler, M-mode, pages of text, and shapes.

    Args:
        n_frames: Number of frames.
        size: Side of the frames in pixels.
        seed: Seed; frame i depends on the seed and i alone.

    Returns:
        (n_frames, size, size) uint8.
    """
    frames = np.zeros((n_frames, size, size), np.uint8)
    for i in range(n_frames):
        rng = np.random.default_rng([seed, i])
        picture = _KINDS[i % len(_KINDS)](rng, size)
        frames[i] = np.clip(255 * picture * rng.uniform(0.5, 1.1), 0, 255)
    return frames


def _noise(rng: np.random.Generator, size: int) -> FloatArray:
    return np.clip(rng.uniform(0.2, 0.6) + rng.uniform(0.05, 0.3) * rng.standard_normal((size, size)), 0, 1)


def _texture(rng: np.random.Generator, size: int, power: float | None = None) -> FloatArray:
    """Draw noise whose amplitude falls with the frequency, as in natural pictures, scaled to 0..1."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.standard_normal((size, size)))
    picture = np.fft.ifft2(spectrum / frequency ** (power or rng.uniform(0.8, 2.0))).real
    scaled: FloatArray = (picture - picture.min()) / max(float(np.ptp(picture)), 1e-9)
    return scaled


def _gradient(rng: np.random.Generator, size: int) -> FloatArray:
    y, x = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    ramp: FloatArray = np.clip(0.5 + 0.6 * (np.cos(angle) * x + np.sin(angle) * y), 0, 1) * rng.uniform(0.3, 1)
    return ramp


def _grid(size: int) -> tuple[FloatArray, FloatArray]:
    """Return rows and columns from -1 to 1."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    return y, x


def _speckle(rng: np.random.Generator, echo: FloatArray) -> FloatArray:
    """Multiply an echo by correlated Rayleigh noise and compress it, as a scanner does."""
    parts = [ndimage.gaussian_filter(rng.standard_normal(echo.shape), (0.8, 1.4)) for _ in range(2)]
    amplitude = echo * np.hypot(*parts)
    relative = np.clip(amplitude / max(float(np.percentile(amplitude, 99)), 1e-9), 0, 1)
    return np.asarray(relative ** rng.uniform(0.4, 0.8), np.float64)


def _fan(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    y, x = _grid(size)
    dy = y + 1 + rng.uniform(-0.1, 0.5)
    radius, angle = np.hypot(x, dy), np.abs(np.arctan2(x, dy))
    wide, near = np.radians(rng.uniform(25, 48)), rng.uniform(0, 0.5)
    return np.asarray((angle < wide) & (radius > near) & (radius < rng.uniform(1.7, 2.4)), np.bool_)


def _tissue(rng: np.random.Generator, size: int) -> FloatArray:
    return _speckle(rng, 0.3 + 0.5 * _texture(rng, size, 1.6)) * _fan(rng, size)


def _organ(rng: np.random.Generator, size: int) -> FloatArray:
    """Draw ellipses, dark (vessels and cysts) or bright-rimmed (a kidney), in tissue."""
    y, x = _grid(size)
    echo = 0.4 + 0.4 * _texture(rng, size, 1.6)
    for _ in range(int(rng.integers(1, 7))):
        cy, cx, a, b = *rng.uniform(-0.6, 0.7, 2), *rng.uniform(0.04, 0.45, 2)
        t = rng.uniform(0, np.pi)
        u, v = np.cos(t) * (x - cx) + np.sin(t) * (y - cy), -np.sin(t) * (x - cx) + np.cos(t) * (y - cy)
        inside = np.hypot(u / a, v / b)
        echo = np.where(inside < 1, rng.uniform(0.02, 1.2), np.where(inside < 1.12, rng.uniform(0.3, 1.4), echo))
    return _speckle(rng, echo) * (_fan(rng, size) if rng.uniform() < 0.8 else 1)


def _doppler(rng: np.random.Generator, size: int) -> FloatArray:
    """Draw spectral Doppler: repeated envelopes from a baseline."""
    t, v = np.arange(size) / size, np.linspace(-1, 1, size)[:, None]
    baseline = rng.uniform(-0.5, 0.5)
    beat = (t * rng.uniform(1.5, 6) + rng.uniform()) % 1
    envelope = rng.uniform(0.3, 0.9) * np.exp(-(((beat - 0.35) / rng.uniform(0.08, 0.2)) ** 2))
    height = (v - baseline) * rng.choice([-1, 1])
    spectrum = ((height > 0) & (height < envelope)) * rng.rayleigh(0.5, (size, size))
    picture = np.clip(spectrum + 0.08 * rng.rayleigh(0.5, (size, size)) + (np.abs(v - baseline) < 1 / size), 0, 1)
    return np.asarray(picture, np.float64)


def _m_mode(rng: np.random.Generator, size: int) -> FloatArray:
    """Draw an M-mode: bands that move with time."""
    t, depth = np.arange(size) / size, np.linspace(0, 1, size)[:, None]
    motion = 0.06 * np.sin(2 * np.pi * (t * rng.uniform(1.5, 6) + rng.uniform()))
    echo = np.full((size, size), 0.1)
    for centre in rng.uniform(0.1, 0.95, int(rng.integers(3, 8))):
        band = np.abs(depth - centre - rng.uniform(-1.2, 1.2) * motion) < rng.uniform(0.01, 0.06)
        echo = np.where(band, rng.uniform(0.4, 1), echo)
    return _speckle(rng, echo)


def _text(rng: np.random.Generator, size: int) -> FloatArray:
    """Draw lines of characters on a plain ground."""
    page = Image.new("L", (size, size), int(rng.integers(0, 60)))
    draw = ImageDraw.Draw(page)
    for row in range(int(rng.integers(0, 10)), size, int(rng.integers(11, 20))):
        word = "".join(chr(int(c)) for c in rng.integers(48, 91, int(rng.integers(3, 20))))
        draw.text((int(rng.integers(0, size // 3)), row), word, fill=int(rng.integers(120, 256)))
    picture = np.asarray(page, np.float64) / 255
    return picture if rng.uniform() < 0.5 else 1 - picture


def _shapes(rng: np.random.Generator, size: int) -> FloatArray:
    """Draw rectangles and discs of plain grey, slightly blurred."""
    picture = np.full((size, size), rng.uniform())
    y, x = _grid(size)
    for _ in range(int(rng.integers(1, 9))):
        cy, cx, a, b = *rng.uniform(-0.9, 0.9, 2), *rng.uniform(0.1, 0.6, 2)
        u, v = np.abs(x - cx) / a, np.abs(y - cy) / b
        picture[(np.maximum(u, v) if rng.uniform() < 0.5 else np.hypot(u, v)) < 1] = rng.uniform()
    return ndimage.gaussian_filter(picture, rng.uniform(0, 1.5))


_KINDS: tuple[Callable[[np.random.Generator, int], FloatArray], ...] = (
    _noise,
    _organ,
    _texture,
    _doppler,
    _tissue,
    _m_mode,
    _gradient,
    _text,
    _organ,
    _shapes,
)
