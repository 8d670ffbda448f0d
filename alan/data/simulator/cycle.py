"""Cardiac cycle: contraction of the ventricle and opening of the mitral valve in each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from alan.bounds import PositiveInt, bounded
from alan.errors import ParameterError

#: Contraction that remains during diastasis, before atrial systole.
_DIASTASIS = 0.12
#: Fractions of diastole at which rapid filling and diastasis end.
_FILLED, _KICK = 0.45, 0.70
#: Ranges of the contraction below this count as constant.
_SAME = 1e-6


@dataclass(frozen=True)
class Cycle:
    """Cardiac cycle, with one value per frame.

    Attributes:
        phase: (T,) float64 in [0, 1); 0 is end-diastole.
        contraction: (T,) float64, from 0 at end-diastole to 1 at end-systole.
        mitral: (T,) float64, opening of the mitral valve from 0 (closed) to 1 (open).
        fps: Frames per second.
    """

    phase: NDArray[np.float64]
    contraction: NDArray[np.float64]
    mitral: NDArray[np.float64]
    fps: float

    @property
    def ed(self) -> int:
        """Index of the least contracted frame."""
        return int(np.argmin(self.contraction))

    @property
    def es(self) -> int:
        """Index of the most contracted frame."""
        return int(np.argmax(self.contraction))

    @classmethod
    @bounded
    def beating(cls, n_frames: PositiveInt, beats: Annotated[float, Ge(1)], rng: np.random.Generator) -> Cycle:
        """Draw evenly spaced frames over several beats, from a random phase on.

        With two or more frames the contraction is rescaled to reach exactly 0 and 1, so that the ED and ES frames
        have the end-diastolic and end-systolic volumes of the patient.

        Args:
            n_frames: Number of frames, at least 1.
            beats: Length in heart beats, at least 1, so that both ED and ES are shown.
            rng: Random number generator.

        Raises:
            ParameterError: There are too few frames or beats, or all frames show the same phase.
        """
        systole, period = rng.uniform(0.32, 0.42), 60 / rng.uniform(55, 95)
        phase = (np.arange(n_frames) / n_frames * beats + rng.uniform()) % 1.0
        contraction, mitral = _course(phase, systole)
        if n_frames > 1:
            low, high = contraction.min(), contraction.max()
            if high - low < _SAME:
                raise ParameterError(
                    f"n_frames is {n_frames} over {beats} beats, so that all frames show the same phase: "
                    "give more frames or fewer beats"
                )
            contraction = (contraction - low) / (high - low)
        return cls(phase, contraction, mitral, n_frames / (beats * period))

    @classmethod
    @bounded
    def systole(cls, n_frames: Annotated[int, Ge(2)], rng: np.random.Generator) -> Cycle:
        """Draw evenly spaced frames from end-diastole (first) to end-systole (last), as in CAMUS half sequences.

        Args:
            n_frames: Number of frames, at least 2.
            rng: Random number generator.

        Raises:
            ParameterError: There are too few frames.
        """
        systole, period = rng.uniform(0.32, 0.42), 60 / rng.uniform(55, 95)
        phase = np.linspace(0, systole * (1 - 1e-9), n_frames)
        contraction, mitral = _course(phase, systole)
        contraction = (contraction - contraction[0]) / (contraction[-1] - contraction[0])
        return cls(phase, contraction, mitral, (n_frames - 1) / (systole * period))


def _course(phase: NDArray[np.float64], systole: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute contraction and mitral opening at each phase; ``systole`` is the fraction of the beat until ES."""
    q = (phase - systole) / (1 - systole)
    contraction = np.select(
        [phase < systole, q < _FILLED, q < _KICK],
        [
            0.5 - 0.5 * np.cos(np.pi * phase / systole),
            _DIASTASIS + (1 - _DIASTASIS) * (0.5 + 0.5 * np.cos(np.pi * q / _FILLED)),
            np.full_like(phase, _DIASTASIS),
        ],
        _DIASTASIS * (0.5 + 0.5 * np.cos(np.pi * (q - _KICK) / (1 - _KICK))),
    )
    early, late = np.exp(-(((q - 0.22) / 0.13) ** 2)), 0.6 * np.exp(-(((q - 0.85) / 0.08) ** 2))
    mitral = np.where(phase < systole, 0.0, np.maximum(np.maximum(early, late), 0.15))
    return contraction, mitral
