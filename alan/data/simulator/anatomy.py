"""Anatomy of a simulated patient: sizes shared by all views, with known volumes and ejection fraction."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

import numpy as np
import torch
from annotated_types import Interval

from alan.bounds import PositiveFloat, bounded
from alan.data.simulator.geometry import profile
from alan.errors import ParameterError

_Contraction = TypeVar("_Contraction", float, torch.Tensor)

#: Longitudinal shortening as a fraction of the radial shortening.
LONGITUDINAL_SHARE = 0.5
#: Share of the narrowing at the base that is lost at end-systole.
STIFF_ANNULUS = 0.6


@bounded
@dataclass(frozen=True)
class PatientAnatomy:
    """Anatomy of one patient; lengths are in cm at end-diastole, echo amplitudes on a linear scale.

    Attributes:
        ef: Ejection fraction as a fraction, 0.05 to 0.85.
        length: Length of the left ventricle from the apex to the mitral plane.
        radius: Largest half width of the left ventricle (geometric mean of A4C and A2C).
        flattening: Half width in A4C divided by ``radius``; A2C uses the inverse, so that the volume is preserved.
        wall: Thickness of the myocardium.
        apex_wall: Thickness of the myocardium at the apex divided by ``wall``.
        wall_asymmetry: Half the relative difference between septum and lateral wall (-0.5 to 0.5).
        thickening: Relative thickening at end-systole divided by the radial shortening.
        widest: Position of the widest cross-section along the long axis (0 apex, 1 base).
        apical_squeeze: Shift of ``widest`` towards the base at end-systole: the apical half narrows more than the
            basal half.
        taper: Relative narrowing at the base; at end-systole less, because the mitral annulus shortens least.
        bend: Lateral bend of the long axis.
        atrium_width: Half width of the left atrium.
        atrium_length: Length of the left atrium.
        atrium_tilt: Tangent of the tilt of the left atrium towards the septum, relative to the left ventricle.
        base_tilt: Tangent of the slope of the mitral plane; positive if the lateral end is deeper.
        wall_end: Distance by which the myocardium extends beyond the mitral plane.
        trabeculae: Depth of the trabeculae, which echo like muscle and are labelled as cavity.
        papillary: Half width of the papillary muscle in apical views, 0 for none; it is labelled as cavity.
        right_ventricle: Width of the right ventricle at the base.
        right_atrium: Half width of the right atrium.
        aorta: Radius of the aortic root.
        wall_echo: Echo amplitude of the myocardium.
        outer_echo: Echo amplitude of the tissue around the heart.
        habitus: Quality of the acoustic window, from 0 (good) to 1 (poor).
    """

    ef: Annotated[float, Interval(ge=0.05, le=0.85)]
    length: PositiveFloat
    radius: PositiveFloat
    flattening: PositiveFloat
    wall: PositiveFloat
    apex_wall: float
    wall_asymmetry: float
    thickening: float
    widest: float
    apical_squeeze: float
    taper: float
    bend: float
    atrium_width: PositiveFloat
    atrium_length: PositiveFloat
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
        if not 0 < self.widest <= self.widest + self.apical_squeeze < 1:
            raise ParameterError(
                f"widest is {self.widest} and apical_squeeze {self.apical_squeeze}: give positive numbers "
                "whose sum is below 1"
            )
        if self._remains > 1:
            raise ParameterError(
                f"apical_squeeze is {self.apical_squeeze}: alone it ejects more than ef, {self.ef}; give less"
            )

    @classmethod
    def sample(cls, seed: int | Sequence[int]) -> PatientAnatomy:
        """Draw a patient; patients with a low ejection fraction have a dilated ventricle.

        Args:
            seed: A non-negative integer or a sequence of them (entropy of a ``numpy.random.SeedSequence``).

        Returns:
            The patient, which depends on the seed alone.
        """
        rng = np.random.default_rng(np.random.SeedSequence(seed))

        def normal(mean: float, sd: float, low: float, high: float) -> float:
            return float(np.clip(rng.normal(mean, sd), low, high))

        ef = normal(0.5, 0.15, 0.15, 0.78)
        dilation = min(max((0.55 - ef) / 0.35, 0.0), 1.0)
        return cls(
            ef=ef,
            length=normal(7.6, 0.75, 5.8, 9.6) + 0.8 * dilation,
            radius=normal(2.15, 0.28, 1.5, 3.1) + 0.6 * dilation,
            flattening=float(rng.uniform(0.92, 1.08)),
            wall=normal(1.22, 0.24, 0.7, 2.0),
            apex_wall=float(rng.uniform(0.65, 1.1)),
            wall_asymmetry=normal(0, 0.12, -0.3, 0.3),
            thickening=float(rng.uniform(0.3, 1.0)),
            widest=float(rng.uniform(0.52, 0.74)),
            apical_squeeze=float(rng.uniform(0.0, 0.2)),
            taper=float(rng.uniform(0.05, 0.35)),
            bend=normal(0, 0.25, -0.6, 0.6),
            atrium_width=normal(2.05, 0.4, 1.2, 3.3),
            atrium_length=normal(4.4, 1.05, 2.0, 7.2),
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
        """Radial shortening at end-systole that gives the ejection fraction."""
        low, high = 0.0, 0.9
        remains = self._remains
        for _ in range(50):
            middle = 0.5 * (low + high)
            if (1 - middle) ** 2 * (1 - LONGITUDINAL_SHARE * middle) > remains:
                low = middle
            else:
                high = middle
        return low

    def volume_ml(self, contraction: float) -> float:
        """Compute the volume of the left ventricular cavity in ml.

        The cavity is a stack of ellipses along the long axis with the half widths of A4C and A2C as semi-axes, for
        which the biplane method of disks is exact.

        Args:
            contraction: Contraction, 0 at end-diastole and 1 at end-systole.
        """
        a = self.shortening * contraction
        area = math.pi * (self.radius * (1 - a)) ** 2
        return area * self.length * (1 - LONGITUDINAL_SHARE * a) * self._section(contraction)

    def widest_at(self, contraction: _Contraction) -> _Contraction:
        """Return the position of the widest cross-section at a contraction, 0 at ED and 1 at ES."""
        return self.widest + self.apical_squeeze * contraction

    def taper_at(self, contraction: _Contraction) -> _Contraction:
        """Return the relative narrowing at the base at a contraction, 0 at ED and 1 at ES."""
        return self.taper * (1 - STIFF_ANNULUS * contraction)

    @property
    def _remains(self) -> float:
        """Volume at end-systole over that at end-diastole, without the part of the apical squeeze."""
        return (1 - self.ef) * self._section(0.0) / self._section(1.0)

    def _section(self, contraction: float) -> float:
        """Compute the mean area of a cross-section relative to the widest one."""
        return _mean_square_profile(self.widest_at(contraction), self.taper_at(contraction))


@functools.lru_cache(maxsize=1024)
def _mean_square_profile(widest: float, taper: float) -> float:
    """Integrate the squared profile over the long axis (midpoint rule, 4000 disks)."""
    s = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    return float(profile(s, widest, taper).square().mean())
