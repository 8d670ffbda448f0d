"""Pose of the heart in an apical view and visibility of its walls, drawn once per clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alan.data.simulator.anatomy import PatientAnatomy


@dataclass(frozen=True)
class ApicalPose:
    """Pose of an apical view; lengths are in cm, the probe is at (0, 0).

    Attributes:
        apex_x: Position of the apex of the left ventricular cavity to the right of the central beam.
        apex_z: Depth of that apex.
        rotation: Rotation of the long axis in radians; a negative angle moves the base to the right of the apex.
        atrium_offset: Offset of the left atrium from the axis of the ventricle, to the right.
        atrium_size: Factor on the width and the length of the left atrium in this view.
        leaflet: Length of the leaflets relative to the usual length.
        tenting: Distance in cm from the mitral plane into the ventricle at which the closed leaflets meet.
        late_closure: Opening of the mitral valve at end-diastole, 0 (closed) to 1.
        septum_echo: Factor on the echo of the septum (A4C) or the inferior wall (A2C).
        lateral_fade: Fraction of the echo lost in the lateral wall.
        apical_fade: Fraction of the echo lost at the apex.
        apical_ramp: Fraction of the echo lost in the innermost layer of the apex, none of it in the outermost one.
        right_fade: Fraction of the echo lost in the walls of the right heart (A4C).
        outer_fade: Fraction of the echo lost in the outer layer of the septum (A4C) or the anterior wall (A2C), a
            quarter of it in that of the opposite wall.
        atrium_veil: Echo amplitude of blood in the left atrium at end-diastole, when tissue beside the thin image
            plane is close.
        apex_veil: Echo amplitude of blood at the apex at end-systole, when trabeculae fill it.
        border_veil: Echo amplitude of blood at the border of the cavity at end-systole, less at the base.
        right_veil: Echo amplitude of blood in the right heart (A4C).
        halo: Echo of the tissue left of the heart at end-systole, over that of the walls, at the border of the
            right heart (A4C) or of the inferior wall (A2C); half of it at end-diastole.
        rim_fade: Fraction of the echo lost at the inner border of basal walls, less at mid level, none in their
            depth.
        deep_gain: Relative gain of the echo in the depth of walls below the apex.
        margin: Factor on the distances by which borders in the picture lie outside those that annotators draw; 0
            draws the picture as the labels are.
    """

    apex_x: float
    apex_z: float
    rotation: float
    atrium_offset: float
    atrium_size: float
    leaflet: float
    tenting: float
    late_closure: float
    septum_echo: float
    lateral_fade: float
    apical_fade: float
    apical_ramp: float
    right_fade: float
    outer_fade: float
    atrium_veil: float
    apex_veil: float
    border_veil: float
    right_veil: float
    halo: float
    rim_fade: float
    deep_gain: float
    margin: float

    @classmethod
    def sample(cls, patient: PatientAnatomy, four_chamber: bool, rng: np.random.Generator) -> ApicalPose:
        """Draw a pose.

        Args:
            patient: The patient; the centre of the left ventricle is placed, so that a longer one extends both
                ways.
            four_chamber: Whether the view is A4C, where the axis leans to the right, or A2C.
            rng: Random number generator.
        """
        apex_z = float(np.clip(rng.normal(3.3 if four_chamber else 2.95, 0.7), 2.0, 5.0))
        rotation = math.radians(rng.normal(-11 if four_chamber else -9, 9))
        (apart,) = rng.spawn(1)  # these draws do not change those that follow
        return cls(
            apex_x=rng.normal(0.2, 0.5) + 0.5 * math.sin(rotation) * patient.length,
            apex_z=apex_z,
            rotation=rotation,
            atrium_offset=rng.normal(-0.2, 0.2) if four_chamber else rng.normal(0.2, 0.35),
            atrium_size=float(np.clip(rng.normal(1.02 if four_chamber else 0.96, 0.1), 0.7, 1.3)),
            leaflet=rng.uniform(0.9, 1.2),
            tenting=rng.uniform(-0.1, 0.3),
            late_closure=0.4 * rng.uniform() ** 2,
            septum_echo=rng.uniform(1.0, 1.7) if four_chamber else rng.uniform(1.3, 2.3),
            lateral_fade=rng.uniform(0, 0.7),
            apical_fade=rng.uniform(0.0, 0.5),
            apical_ramp=rng.uniform(0.4, 0.9),
            right_fade=rng.uniform(0, 0.9),
            outer_fade=rng.uniform(0, 0.7) if four_chamber else rng.uniform(0, 0.3),
            atrium_veil=(0.34 if four_chamber else 0.17) * rng.uniform() ** 2.0,
            apex_veil=0.1 * rng.uniform() ** 1.5,
            border_veil=(0.12 if four_chamber else 0.2) * rng.uniform(),
            right_veil=0.15 * apart.uniform() ** 2.0,
            halo=apart.uniform(0, 0.3 if four_chamber else 3.0),
            rim_fade=rng.uniform(0.4, 0.9),
            deep_gain=rng.uniform(0.0, 0.5) if four_chamber else rng.uniform(0.3, 1.5),
            margin=1.0,
        )
