"""How a clip is taken: the sector, the machine's settings and the window, all drawn once a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from alan.data.simulator.anatomy import PatientAnatomy
from alan.errors import ParameterError

#: Samples along a beam and beams in the sector: the polar grid in which echoes are formed.
N_SAMPLES, N_BEAMS = 192, 96


@dataclass(frozen=True)
class Physics:
    """Strength of each effect: 1 as tuned on real frames, 0 off, between or above at will.

    Attributes:
        speckle: interference of scatterers (0 leaves smooth echogenicity).
        specular: coherent echoes where the echogenicity steps along the beam, and the pericardium.
        anisotropy: fading of walls that run parallel to the beam.
        attenuation: depth-dependent loss and its imperfect compensation, fall-off to the sector's sides.
        dropout: patchy loss of gain.
        shadows: beams darkened behind ribs and lung.
        haze: stationary haze and near-field clutter.
        reverberation: a weak echo of the picture further down.
        side_lobes: lateral smear of bright echoes.
        noise: electronic noise, which rises with depth.
        ragged: ragged borders.
        fading: walls brighter or fainter by region: septum, lateral wall, apex, right heart.
        smoothing: blur of the compressed picture, as of compounding and speckle reduction.
    """

    speckle: float = 1.0
    specular: float = 1.0
    anisotropy: float = 1.0
    attenuation: float = 1.0
    dropout: float = 1.0
    shadows: float = 1.0
    haze: float = 1.0
    reverberation: float = 1.0
    side_lobes: float = 1.0
    noise: float = 1.0
    ragged: float = 1.0
    fading: float = 1.0
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not (math.isfinite(value) and value >= 0):
                raise ParameterError(f"physics {item.name} is {value}, it must be 0 (off) or positive")


@dataclass(frozen=True)
class Shadow:
    """One dark band: position and width across the sector (-1 to 1), onset as a share of depth, loss in dB."""

    position: float
    width: float
    onset: float
    loss: float


@dataclass(frozen=True)
class Acquisition:
    """Settings of one clip.

    Attributes:
        apical: lung lies beside the heart (apical views), not behind it.
        depth: reach of the beams in cm.
        half_angle: half opening of the sector in radians.
        start: distance of the first sample in cm.
        margin_depth: height of the picture over the depth.
        margin_width: width of the picture over the sector's width.
        ragged: raggedness of borders in cm.
        lung: share of echo lost in lung.
        lung_onset: depth, as a share, from which on lung lies.
        deep_tissue: brightening of the tissue behind the heart.
        deep_onset: depth, as a share, from which on it lies.
        deep_slope: its slope across the sector, as a share of depth.
        blood: echo amplitude of blood.
        anisotropy: echo left in walls parallel to the beam.
        leaflet: echo amplitude of valve leaflets.
        pericardium: echo amplitude of the pericardium.
        specular: strength of coherent echoes at steps.
        coherent: share of scatterers that interfere in step; more makes speckle fainter, as compounding does.
        axial_sigma: point spread along the beam, in samples.
        lateral_sigma: point spread across beams at the focus, in beams.
        focus: depth of the focus, as a share.
        side_lobes: share of the envelope smeared across beams.
        reverberation: share of the envelope repeated deeper.
        reverberation_shift: how much deeper, in samples.
        near_field: amplitude of clutter at the probe.
        near_reach: distance in cm over which it dies away.
        haze: amplitude of stationary haze.
        slope: gain in dB from the probe to the full depth.
        bulge: gain in dB at half the depth.
        deep_loss: loss in dB at the full depth, rising with its square.
        window_loss: loss in dB at the full depth from a poor window.
        edge_loss: loss in dB at the sector's sides.
        edge_power: how steeply it rises towards them.
        dropout: loss in dB a unit of a smooth random field.
        shadows: dark bands.
        noise_floor: electronic noise in dB at the probe.
        noise_rise: its rise in dB to the full depth.
        beam_ripple: standard deviation in dB of the gain from beam to beam.
        smoothing: blur of the compressed picture beyond the least, in samples and as many beams.
        dynamic_range: dB between black and white.
        exposure: grey of the median echo, 0 black to 1 white: the gain that the sonographer sets.
        gamma: exponent of the grey curve.
    """

    apical: bool
    depth: float
    half_angle: float
    start: float
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
    axial_sigma: float
    lateral_sigma: float
    focus: float
    side_lobes: float
    reverberation: float
    reverberation_shift: int
    near_field: float
    near_reach: float
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
    dynamic_range: float
    exposure: float
    gamma: float

    def __post_init__(self) -> None:
        for name in ("depth", "axial_sigma", "lateral_sigma", "near_reach", "dynamic_range", "gamma"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"acquisition {name} is {getattr(self, name)}, it must be positive")
        if not 0 < self.half_angle < math.pi / 2:
            raise ParameterError(f"acquisition half_angle is {self.half_angle}, it must lie between 0 and pi/2")
        if not 0 <= self.start < self.depth:
            raise ParameterError(f"acquisition start is {self.start}, it must lie between 0 and the depth")
        if not 0 < self.exposure < 1:
            raise ParameterError(f"acquisition exposure is {self.exposure}, it must lie between 0 and 1")

    @classmethod
    def sample(
        cls, patient: PatientAnatomy, needed_depth: float, apical: bool, rng: np.random.Generator
    ) -> Acquisition:
        """Draw the settings of a clip.

        Args:
            patient: its habitus makes the window poorer.
            needed_depth: depth in cm that shows the whole heart (see ``Scene.needed_depth``).
            apical: whether the view is apical.
            rng: source of randomness; the number of draws does not depend on their values.
        """
        u = rng.uniform
        shadows = tuple(
            Shadow(float(rng.choice([-1, 1]) * u(0.45, 1.0)), u(0.06, 0.18), u(0.0, 0.6), u(6, 20))
            for _ in range(2)
        )
        return cls(
            apical=apical,
            depth=needed_depth * u(0.85, 1.2),
            half_angle=math.radians(u(31, 43)),
            start=u(0.0, 0.4),
            margin_depth=u(1.0, 1.03),
            margin_width=u(1.0, 1.06),
            ragged=u(0.04, 0.13),
            lung=u(0.2, 0.8) if apical else u(0.0, 0.6),
            lung_onset=u(0.15, 0.4) if apical else u(0.75, 0.95),
            deep_tissue=4.0 * u() ** 2 if apical else u(0.0, 0.3),
            deep_onset=u(0.72, 1.02) if apical else 0.78,
            deep_slope=u(-0.12, 0.12) if apical else 0.0,
            blood=u(0.02, 0.14),
            anisotropy=u(0.3, 0.75),
            leaflet=u(0.3, 0.9),
            pericardium=u(0.2, 1.7),
            specular=u(0.3, 1.8),
            coherent=u(0.1, 0.6),
            axial_sigma=u(0.6, 1.2),
            lateral_sigma=u(1.0, 2.2),
            focus=u(0.45, 0.7),
            side_lobes=u(0.05, 0.22),
            reverberation=u(0.0, 0.10),
            reverberation_shift=int(rng.integers(12, 40)),
            near_field=u(0.2, 1.1),
            near_reach=u(0.8, 1.8),
            haze=0.22 * u() ** 1.5,
            slope=rng.normal(0, 3),
            bulge=rng.normal(0, 3),
            deep_loss=u(0, 6),
            window_loss=10 * patient.habitus * u(0, 1),
            edge_loss=u(2, 9),
            edge_power=u(2, 4),
            dropout=u(3, 10) * float(u() < 0.8),
            shadows=shadows[: int(rng.integers(0, 3))],
            noise_floor=-u(26, 36),
            noise_rise=u(2, 12),
            beam_ripple=u(0.0, 1.2),
            smoothing=u(0.0, 0.7),
            dynamic_range=u(30, 52),
            exposure=u(0.16, 0.5),
            gamma=u(1.0, 2.1),
        )
