"""Acquisition of a simulated clip: sector geometry, machine settings and acoustic window, drawn once per clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Interval

from alan.bounds import NonNegativeFloat, PositiveFloat, bounded
from alan.data.simulator.anatomy import PatientAnatomy
from alan.errors import ParameterError

#: Samples per beam and beams per sector: the polar grid on which echoes are formed.
N_SAMPLES, N_BEAMS = 192, 96


_Strength = Annotated[float, Interval(ge=0, lt=math.inf)]


@bounded
@dataclass(frozen=True)
class Physics:
    """Strength of each physical effect: 1 as tuned on real frames, 0 to disable it; other values scale it.

    Attributes:
        speckle: Interference of scatterers; 0 gives smooth echogenicity.
        specular: Coherent echoes at steps of the echogenicity along the beam and at the pericardium.
        anisotropy: Fading of walls that are parallel to the beam.
        attenuation: Depth-dependent loss, its imperfect compensation, and the fall-off at the edges of the sector.
        dropout: Patchy loss of gain.
        shadows: Beams shadowed by ribs and lung.
        haze: Stationary haze and near-field clutter.
        reverberation: Weak repetition of the image at greater depth.
        side_lobes: Lateral smear of bright echoes.
        noise: Electronic noise, which rises with depth.
        ragged: Irregularity of borders.
        fading: Regional differences in wall brightness (septum, lateral wall, apex, right heart).
        smoothing: Blur of the compressed image, as caused by compounding and speckle reduction.
    """

    speckle: _Strength = 1.0
    specular: _Strength = 1.0
    anisotropy: _Strength = 1.0
    attenuation: _Strength = 1.0
    dropout: _Strength = 1.0
    shadows: _Strength = 1.0
    haze: _Strength = 1.0
    reverberation: _Strength = 1.0
    side_lobes: _Strength = 1.0
    noise: _Strength = 1.0
    ragged: _Strength = 1.0
    fading: _Strength = 1.0
    smoothing: _Strength = 1.0


@dataclass(frozen=True)
class Shadow:
    """A shadow: position and width across the sector (-1 to 1), onset as a fraction of the depth, loss in dB."""

    position: float
    width: float
    onset: float
    loss: float


@bounded
@dataclass(frozen=True)
class Acquisition:
    """Acquisition settings of one clip.

    Attributes:
        apical: Whether the lung lies beside the heart (apical views) instead of behind it.
        depth: Imaging depth in cm.
        half_angle: Half opening angle of the sector in radians.
        start: Distance of the first sample from the probe in cm.
        margin_depth: Height of the image divided by the depth.
        margin_width: Width of the image divided by the width of the sector.
        ragged: Irregularity of borders in cm.
        lung: Fraction of the echo lost in the lung.
        lung_onset: Depth at which the lung begins, as a fraction.
        deep_tissue: Additional brightness of the tissue behind the heart.
        deep_onset: Depth at which that tissue begins, as a fraction.
        deep_slope: Slope of that tissue across the sector, as a fraction of the depth.
        blood: Echo amplitude of blood.
        anisotropy: Echo that remains in walls parallel to the beam.
        leaflet: Echo amplitude of valve leaflets.
        pericardium: Echo amplitude of the pericardium.
        specular: Strength of coherent echoes at steps of the echogenicity.
        coherent: Fraction of coherent scatterers; a larger one weakens the speckle, as compounding does.
        axial_sigma: Width of the point spread along the beam, in samples.
        lateral_sigma: Width of the point spread across beams at the focus, in beams.
        focus: Depth of the focus, as a fraction.
        side_lobes: Fraction of the envelope that is smeared across beams.
        reverberation: Fraction of the envelope that is repeated at greater depth.
        reverberation_shift: Shift of that repetition in samples.
        near_field: Amplitude of near-field clutter.
        near_reach: Decay length of near-field clutter in cm.
        near_loss: Loss in dB at the probe, where the sonographer turns the gain down.
        haze: Amplitude of stationary haze.
        slope: Gain in dB from the probe to the full depth.
        bulge: Gain in dB at half the depth.
        deep_loss: Loss in dB at the full depth, quadratic in depth.
        window_loss: Loss in dB at the full depth due to a poor acoustic window.
        edge_loss: Loss in dB at the edges of the sector.
        edge_power: Exponent of the rise of that loss towards the edges.
        dropout: Loss in dB per unit of a smooth random field.
        shadows: Shadows behind ribs and lung.
        noise_floor: Level of the electronic noise in dB at the probe.
        noise_rise: Rise of that level in dB to the full depth.
        beam_ripple: Standard deviation in dB of the gain from beam to beam.
        smoothing: Additional blur of the compressed image, in samples and in beams.
        dynamic_range: Range between black and white in dB.
        exposure: Grey value of the median echo (0 black, 1 white), as set by the sonographer's gain.
        gamma: Exponent of the grey curve.
    """

    apical: bool
    depth: PositiveFloat
    half_angle: Annotated[float, Interval(gt=0, lt=math.pi / 2)]
    start: NonNegativeFloat
    margin_depth: float
    margin_width: float
    ragged: float
    lung: float
    lung_onset: float
    deep_tissue: float
    deep_onset: float
    deep_slope: float
    blood: float
    anisotropy: float
    leaflet: float
    pericardium: float
    specular: float
    coherent: float
    axial_sigma: PositiveFloat
    lateral_sigma: PositiveFloat
    focus: float
    side_lobes: float
    reverberation: float
    reverberation_shift: int
    near_field: float
    near_reach: PositiveFloat
    near_loss: float
    haze: float
    slope: float
    bulge: float
    deep_loss: float
    window_loss: float
    edge_loss: float
    edge_power: float
    dropout: float
    shadows: tuple[Shadow, ...]
    noise_floor: float
    noise_rise: float
    beam_ripple: float
    smoothing: float
    dynamic_range: PositiveFloat
    exposure: Annotated[float, Interval(gt=0, lt=1)]
    gamma: PositiveFloat

    def __post_init__(self) -> None:
        if self.start >= self.depth:
            raise ParameterError(f"start is {self.start}: give less than the depth, {self.depth} cm")

    @classmethod
    def sample(
        cls, patient: PatientAnatomy, needed_depth: float, apical: bool, rng: np.random.Generator
    ) -> Acquisition:
        """Draw the settings of a clip.

        Args:
            patient: The patient, whose habitus determines the acoustic window.
            needed_depth: Depth in cm that shows the whole heart (see ``Scene.needed_depth``).
            apical: Whether the view is apical.
            rng: Random number generator; the number of draws does not depend on their values.
        """
        u = rng.uniform
        widest = 0.18 if apical else 0.4  # ribs and lung lie beside a parasternal probe
        shadows = tuple(
            Shadow(float(rng.choice([-1, 1]) * u(0.45, 1.0)), u(0.06, widest), u(0.0, 0.6), u(6, 20))
            for _ in range(2)
        )
        return cls(
            apical=apical,
            depth=needed_depth * (0.72 + 0.55 * u() ** 0.7 if apical else u(0.85, 1.2)),
            half_angle=math.radians(u(31, 43 if apical else 48)),
            start=u(0.0, 0.4),
            margin_depth=u(1.0, 1.01),
            margin_width=u(1.0, 1.02),
            ragged=u(0.04, 0.13),
            lung=u(0.2, 0.8) if apical else u(0.0, 0.6),
            lung_onset=u(0.15, 0.4) if apical else u(0.75, 0.95),
            deep_tissue=4.0 * u() ** 2 if apical else u(0.0, 0.3),
            deep_onset=u(0.72, 1.02) if apical else 0.78,
            deep_slope=u(-0.12, 0.12) if apical else 0.0,
            blood=u(0.01, 0.12),
            anisotropy=u(0.3, 0.75),
            leaflet=u(0.1, 0.7),
            pericardium=u(0.2, 1.7),
            specular=u(0.3, 1.8),
            coherent=u(0.2, 0.8),
            axial_sigma=u(0.55, 1.1),
            lateral_sigma=u(0.9, 1.9),
            focus=u(0.45, 0.7),
            side_lobes=u(0.05, 0.22),
            reverberation=u(0.0, 0.10),
            reverberation_shift=int(rng.integers(12, 40)),
            near_field=u(0.0, 0.35),
            near_reach=u(0.7, 2.2),
            near_loss=u(0, 14),
            haze=0.18 * u() ** 1.5,
            slope=rng.normal(0, 3),
            bulge=rng.normal(0, 3),
            deep_loss=u(0, 6),
            window_loss=10 * patient.habitus * u(0, 1),
            edge_loss=u(2, 9),
            edge_power=u(2, 4),
            dropout=u(2, 12) * patient.habitus,
            shadows=shadows[: int(rng.integers(0, 3))],
            noise_floor=-u(23, 34),
            noise_rise=u(2, 12),
            beam_ripple=u(0.0, 1.2),
            smoothing=u(0.0, 0.35),
            dynamic_range=u(31, 50),
            exposure=u(0.16, 0.5),
            gamma=u(1.0, 2.1),
        )
