"""The beating cycle: how far the ventricle has contracted and how wide the mitral valve stands, frame by frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alan.errors import ParameterError

#: Contraction left during diastasis, before the atrial kick.
_DIASTASIS = 0.12
#: Shares of diastole at which rapid filling and diastasis end.
_FILLED, _KICK = 0.45, 0.70
#: A smaller spread of the contraction is none.
_SAME = 1e-6


@dataclass(frozen=True)
class Cycle:
    """One value a frame.

    Attributes:
        phase: (T,) float64 in [0, 1), 0 is end-diastole.
        contraction: (T,) float64, 0 end-diastole to 1 end-systole.
        mitral: (T,) float64, opening of the mitral valve, 0 closed to 1 open.
        fps: frames a second.
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
    def beating(cls, n_frames: int, beats: float, rng: np.random.Generator) -> Cycle:
        """Evenly spaced frames over some beats, from a random phase on.

        With two frames or more the contraction is stretched to reach 0 and 1 exactly, so that the ED and ES frames
        have the patient's end-diastolic and end-systolic volumes.

        Args:
            n_frames: number of frames, at least 1.
            beats: length in heart beats, at least 1 (ED and ES must both be seen).
            rng: source of randomness.

        Raises:
            ParameterError: too few frames or beats, or frames that all show one moment of the beat.
        """
        if n_frames < 1:
            raise ParameterError(f"n_frames is {n_frames}, at least 1 frame is needed")
        if not beats >= 1:
            raise ParameterError(f"beats is {beats}, it must be at least 1 so that ED and ES are both seen")
        systole, period = rng.uniform(0.32, 0.42), 60 / rng.uniform(55, 95)
        phase = (np.arange(n_frames) / n_frames * beats + rng.uniform()) % 1.0
        contraction, mitral = _course(phase, systole)
        if n_frames > 1:
            low, high = contraction.min(), contraction.max()
            if high - low < _SAME:
                raise ParameterError(
                    f"{n_frames} frames over {beats} beats all show one moment of the beat: take more frames, or "
                    "fewer beats"
                )
            contraction = (contraction - low) / (high - low)
        return cls(phase, contraction, mitral, n_frames / (beats * period))

    @classmethod
    def systole(cls, n_frames: int, rng: np.random.Generator) -> Cycle:
        """Evenly spaced frames from end-diastole (first) to end-systole (last), as CAMUS half sequences.

        Args:
            n_frames: number of frames, at least 2.
            rng: source of randomness.

        Raises:
            ParameterError: too few frames.
        """
        if n_frames < 2:
            raise ParameterError(f"n_frames is {n_frames}, from ED to ES at least 2 frames are needed")
        systole, period = rng.uniform(0.32, 0.42), 60 / rng.uniform(55, 95)
        phase = np.linspace(0, systole * (1 - 1e-9), n_frames)
        contraction, mitral = _course(phase, systole)
        contraction = (contraction - contraction[0]) / (contraction[-1] - contraction[0])
        return cls(phase, contraction, mitral, (n_frames - 1) / (systole * period))


def _course(phase: NDArray[np.float64], systole: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Contraction and mitral opening at each phase; systole is the share of the beat until end-systole."""
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
