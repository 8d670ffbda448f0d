"""Where the heart lies in an apical picture, and which of its walls show: drawn once a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alan.data.simulator.anatomy import PatientAnatomy


@dataclass(frozen=True)
class ApicalPose:
    """Lengths in cm, the probe stands at (0, 0).

    Attributes:
        apex_x: the apex of the left ventricle's cavity beside the middle beam, to the right.
        apex_z: its depth.
        rotation: turn of the long axis in radians; negative brings the base to the right of the apex.
        atrium_offset: the left atrium beside the ventricle's axis, to the right.
        leaflet: length of the leaflets over the usual.
        septum_echo: factor on the septum's echo.
        lateral_fade: share of echo lost in the lateral wall.
        apical_fade: share of echo lost at the apex.
        right_fade: share of echo lost in the right heart's walls (A4C).
    """

    apex_x: float
    apex_z: float
    rotation: float
    atrium_offset: float
    leaflet: float
    septum_echo: float
    lateral_fade: float
    apical_fade: float
    right_fade: float

    @classmethod
    def sample(cls, patient: PatientAnatomy, four_chamber: bool, rng: np.random.Generator) -> ApicalPose:
        """Draw a pose.

        Args:
            patient: the middle of its left ventricle is placed, so that a longer one reaches both ways.
            four_chamber: A4C, where the axis leans to the right; A2C otherwise.
            rng: source of randomness.
        """
        apex_z = float(np.clip(rng.normal(3.0, 0.75), 1.4, 5.0))
        rotation = math.radians(rng.normal(-11 if four_chamber else 0, 9))
        return cls(
            apex_x=rng.normal(0.2, 0.6) + 0.5 * math.sin(rotation) * patient.length,
            apex_z=apex_z,
            rotation=rotation,
            atrium_offset=rng.normal(0, 0.2),
            leaflet=rng.uniform(0.9, 1.2),
            septum_echo=rng.uniform(1.0, 2.0),
            lateral_fade=rng.uniform(0, 0.8),
            apical_fade=rng.uniform(0, 0.7),
            right_fade=rng.uniform(0, 0.9),
        )
