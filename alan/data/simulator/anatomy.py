"""One patient's heart: sizes shared by all views, volumes and ejection fraction known by construction."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from alan.data.simulator.geometry import profile
from alan.errors import ParameterError

#: Longitudinal shortening as a share of the radial one.
LONGITUDINAL_SHARE = 0.5


@dataclass(frozen=True)
class PatientAnatomy:
    """Sizes in cm at end-diastole, shares between 0 and 1, amplitudes on a linear echo scale.

    Attributes:
        ef: ejection fraction, 0.05 to 0.85.
        length: left ventricular long axis, apex to mitral plane.
        radius: largest half width of the left ventricle (geometric mean of A4C and A2C).
        flattening: half width in A4C over ``radius`` (A2C has its inverse, so that the volume stays).
        wall: thickness of the myocardium.
        apex_wall: its thickness at the apex over ``wall``.
        wall_asymmetry: relative surplus of the septum over the lateral wall, halved (-0.5 to 0.5).
        thickening: relative thickening at end-systole over the radial shortening.
        widest: level of the widest cross-section along the long axis (0 apex, 1 base).
        taper: relative narrowing at the base.
        bend: sideways bend of the long axis.
        atrium_width: half width of the left atrium.
        atrium_length: length of the left atrium.
        atrium_tilt: lean of the left atrium's axis towards the septum, against the left ventricle's, as a tangent.
        base_tilt: slope of the mitral plane, lateral side deeper, as a tangent.
        wall_end: how far the myocardium reaches beyond the mitral plane.
        trabeculae: depth of the trabeculae, which echo like muscle and count as cavity.
        papillary: half width of the papillary muscle in apical views, 0 for none; it counts as cavity.
        right_ventricle: width of the right ventricle at the base.
        right_atrium: half width of the right atrium.
        aorta: radius of the aortic root.
        wall_echo: echo amplitude of the myocardium.
        outer_echo: echo amplitude of what lies around the heart.
        habitus: 0 a good acoustic window, 1 a poor one.
    """

    ef: float
    length: float
    radius: float
    flattening: float
    wall: float
    apex_wall: float
    wall_asymmetry: float
    thickening: float
    widest: float
    taper: float
    bend: float
    atrium_width: float
    atrium_length: float
    atrium_tilt: float
    base_tilt: float
    wall_end: float
    trabeculae: float
    papillary: float
    right_ventricle: float
    right_atrium: float
    aorta: float
    wall_echo: float
    outer_echo: float
    habitus: float

    def __post_init__(self) -> None:
        if not 0.05 <= self.ef <= 0.85:
            raise ParameterError(
                f"ef is {self.ef}, it must lie between 0.05 and 0.85: give it as a share, not percent"
            )
        for name in ("length", "radius", "flattening", "wall", "atrium_width", "atrium_length"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name} is {getattr(self, name)}, it must be positive: give it in cm")

    @classmethod
    def sample(cls, seed: int | Sequence[int]) -> PatientAnatomy:
        """Draw a patient; a low ejection fraction goes with a dilated ventricle.

        Args:
            seed: a non-negative integer or a sequence of them (entropy of a ``numpy.random.SeedSequence``).

        Returns:
            The same patient for the same seed.
        """
        rng = np.random.default_rng(np.random.SeedSequence(seed))

        def normal(mean: float, sd: float, low: float, high: float) -> float:
            return float(np.clip(rng.normal(mean, sd), low, high))

        ef = float(rng.uniform(0.20, 0.75))
        dilation = min(max((0.55 - ef) / 0.35, 0.0), 1.0)
        return cls(
            ef=ef,
            length=normal(7.6, 0.75, 5.8, 9.6) + 0.8 * dilation,
            radius=normal(2.15, 0.28, 1.5, 3.1) + 0.6 * dilation,
            flattening=float(rng.uniform(0.92, 1.08)),
            wall=normal(1.22, 0.24, 0.7, 2.0),
            apex_wall=float(rng.uniform(0.65, 1.15)),
            wall_asymmetry=normal(0, 0.12, -0.3, 0.3),
            thickening=float(rng.uniform(0.3, 1.0)),
            widest=float(rng.uniform(0.52, 0.74)),
            taper=float(rng.uniform(0.1, 0.4)),
            bend=normal(0, 0.25, -0.6, 0.6),
            atrium_width=normal(2.05, 0.4, 1.2, 3.3),
            atrium_length=normal(4.6, 0.9, 2.6, 7.2),
            atrium_tilt=normal(0.2, 0.17, -0.3, 0.7),
            base_tilt=normal(0.12, 0.13, -0.25, 0.5),
            wall_end=float(rng.uniform(0.1, 0.8)),
            trabeculae=float(rng.uniform(0, 0.3)),
            papillary=max(0.0, float(rng.uniform(-0.3, 0.5))),
            right_ventricle=normal(3.1, 0.6, 1.6, 4.8),
            right_atrium=normal(2.1, 0.4, 1.2, 3.4),
            aorta=normal(1.5, 0.15, 1.1, 1.9),
            wall_echo=float(rng.uniform(0.18, 0.6)),
            outer_echo=float(rng.uniform(0.08, 0.5)),
            habitus=float(rng.uniform(0, 1)),
        )

    @property
    def shortening(self) -> float:
        """Radial shortening ``a`` at end-systole: solves (1 - a)^2 (1 - a LONGITUDINAL_SHARE) = 1 - EF."""
        low, high = 0.0, 0.9
        for _ in range(50):
            middle = 0.5 * (low + high)
            if (1 - middle) ** 2 * (1 - LONGITUDINAL_SHARE * middle) > 1 - self.ef:
                low = middle
            else:
                high = middle
        return low

    def volume_ml(self, contraction: float) -> float:
        """Volume of the left ventricular cavity in ml.

        The cavity is a stack of ellipses along the long axis, with the half widths of A4C and A2C as semi-axes
        (the biplane method of disks is exact for it).

        Args:
            contraction: 0 at end-diastole, 1 at end-systole.
        """
        a = self.shortening * contraction
        area = math.pi * (self.radius * (1 - a)) ** 2
        return area * self.length * (1 - LONGITUDINAL_SHARE * a) * _mean_square_profile(self.widest, self.taper)


@functools.lru_cache(maxsize=1024)
def _mean_square_profile(widest: float, taper: float) -> float:
    """Integral of the squared profile over the long axis (midpoint rule, 4000 disks)."""
    s = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    return float(profile(s, widest, taper).square().mean())
