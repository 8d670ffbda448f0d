"""Parasternal views: the long axis (PLAX) and the short axis at three levels (PSAX).

Sizes follow the normal values of Lang et al. 2015 with margins for disease; places and
looks are varied widely, because no labelled real frames of these views were available.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from alan.data.simulator.anatomy import PatientAnatomy
from alan.data.simulator.cycle import Cycle
from alan.data.simulator.geometry import FAR, ellipse_distance, profile, segment_distance
from alan.data.simulator.scene import AO, FIBROUS, LA, LV, MUSCLE, MYO, PAPILLARY, RV, Scene, TissuePoints

_VESSEL_WALL = 0.28
#: Half widths and walls over those of apical views, where annotators draw the cavity smaller and the wall thicker.
_WIDER, _THINNER = (0.95, 1.2), (0.6, 1.0)


class LongAxisScene(Scene):
    """PLAX; u runs to the right from the apex (outside the image) to the base, v away from the probe."""

    def __init__(self, patient: PatientAnatomy, cycle: Cycle, rng: np.random.Generator) -> None:
        super().__init__(patient, cycle, patient.radius * rng.uniform(*_WIDER))
        self.wall = self.wall * rng.uniform(*_THINNER)
        self.rotation = math.radians(-np.clip(rng.normal(74, 12), 45, 100))
        self.base_x, self.base_z = rng.normal(0.9, 0.9), rng.normal(7.4, 0.9)
        self.atrium_offset = rng.normal(0, 0.25)
        self.leaflet = rng.uniform(0.9, 1.2)
        self.descending, self.behind = rng.uniform(0.7, 1.3), rng.normal(0.4, 0.8)
        self.aorta = patient.aorta * rng.uniform(1.0, 1.2)
        self.root_slope = rng.normal(-0.1, 0.1)  # of the aorta against the axis of the ventricle
        self.outflow = patient.right_ventricle * rng.uniform(0.6, 1.0)
        self.outflow_end, self.outflow_slant = rng.uniform(0.0, 0.6), rng.normal(0.3, 0.4)
        self.outflow_length = rng.uniform(2.5, 5.0) if rng.random() < 0.5 else math.inf  # of a round one

    @override
    def needed_depth(self) -> float:
        return 13.0

    @override
    def paint(self, x: Tensor, z: Tensor, lines: bool = True) -> TissuePoints:
        p, R, L, c = self.patient, self.radius, self.length, self.contraction
        sin, cos = math.sin(self.rotation), math.cos(self.rotation)
        dx, dz = x - (self.base_x - 0.35 * c), z - self.base_z
        u = L - sin * dx + cos * dz
        v = -cos * dx - sin * dz
        bent = v - p.bend * torch.sin(math.pi * (u / L).clamp(0, 1))

        inner = R * profile(u / L, self.widest, self.taper)
        cap = 0.55 * self.wall
        outer = (R + self.wall) * profile((u + cap) / (L + cap), self.widest, 0.6 * self.taper)
        outer = torch.maximum(outer, inner + 0.25) * (u + cap > 0)
        cavity = (bent.abs() < inner) & (u < L)
        muscle = (bent.abs() < outer) & (u < L + 0.15)

        grown = 1 + 0.12 * c
        atrium = ellipse_distance(
            u,
            v,
            (L + 0.9 * p.atrium_width * grown, 0.55 * R + 0.35 + self.atrium_offset),
            (1.05 * p.atrium_width * grown, 0.95 * p.atrium_width * grown),
        )
        atrium = torch.maximum(atrium, L - 0.2 - u)
        root = -0.48 * R + self.root_slope * (u - L)  # middle of the aortic root
        aorta = torch.maximum((v - root).abs() - self.aorta * (1 + 0.03 * c), L - 0.1 - u)
        ceiling = -(R[c.argmin()] + self.wall[c.argmin()] + self.outflow - 0.25 * c)
        floor = torch.where(u < L, -outer.clamp(min=0.8), root - self.aorta - 0.25)
        end = self.outflow_end * L + self.outflow_slant * (v - ceiling)  # towards the apex
        tunnel = torch.maximum(ceiling - v, end - u)
        if math.isfinite(self.outflow_length):
            half = 0.5 * self.outflow_length
            axes = (half + 0 * L, 0.5 * self.outflow + 0 * L)
            tunnel = ellipse_distance(u, v, (self.outflow_end * L + half, ceiling + 0.5 * self.outflow), axes)
        right, right_wall = (tunnel < 0) & (v < floor), (tunnel < 0.5) & (v < 0)
        below = R + p.wall + 1.1 + self.descending
        size = self.descending + 0 * L
        descending = ellipse_distance(u, v, (L + self.behind, below), (size, size))

        labels = torch.zeros(u.shape, dtype=torch.uint8)
        labels.masked_fill_(right_wall, MUSCLE)
        labels.masked_fill_((aorta < _VESSEL_WALL) | (atrium < _VESSEL_WALL) | (descending < 0.25), FIBROUS)
        labels.masked_fill_(muscle, MYO).masked_fill_(right, RV).masked_fill_(descending < 0, AO)
        labels.masked_fill_(atrium < 0, LA)
        labels.masked_fill_((aorta < _VESSEL_WALL) & (u > L - 0.1) & (aorta >= 0), FIBROUS)
        labels.masked_fill_(aorta < 0, AO).masked_fill_(cavity, LV)
        if not lines:
            return TissuePoints(labels)
        along = (u > 0.1 * L) & (u < 1.03 * L) & (v > 0)
        pericardium = torch.where(along, (bent - outer - 0.05).abs(), FAR)
        return TissuePoints(labels, self._leaflets(u, v, root), pericardium)

    def _leaflets(self, u: Tensor, v: Tensor, root: Tensor) -> Tensor:
        """Compute the distance to the nearest leaflet of the mitral and the aortic valve."""
        R, L, opening = self.radius, self.length, self.mitral
        joint = 0.35 * R - 0.1
        tip = (
            L - 1.9 * self.leaflet * (0.75 + 0.2 * (1 - opening)),
            joint + 0.55 * R * (1 - opening) - 0.45 * R * opening,
        )
        distance = segment_distance(u, v, (L, joint - 0.15 * R), tip)
        hinge = R * (1 - self.taper)
        tip = (L - 1.2 * self.leaflet, hinge - 0.35 * R * (1 - opening))
        distance = torch.minimum(distance, segment_distance(u, v, (L, hinge), tip))
        ejecting = ((self.contraction > 0.08) & (opening < 0.05)).float()
        for sign in (-1.0, 1.0):
            gap = sign * self.aorta * (0.08 + 0.7 * ejecting)
            cusp = segment_distance(u, v - root, (L + 0.3, sign * self.aorta + 0 * L), (L + 1.1, gap))
            distance = torch.minimum(distance, cusp)
        return distance


class ShortAxisScene(Scene):
    """PSAX at the mitral valve, the papillary muscles or the apex; u runs away from the probe, v to the right.

    The level is drawn; the centre of the ventricle is at (0, 0). At the level of the valve the leaflets form the
    mouth of a fish, at the apex the ventricle is small and the right ventricle mostly absent.
    """

    def __init__(self, patient: PatientAnatomy, cycle: Cycle, rng: np.random.Generator) -> None:
        self.level = ("mitral", "papillary", "apical")[int(rng.integers(3))]
        size = rng.uniform(0.45, 0.75) if self.level == "apical" else rng.uniform(0.85, 1.08)
        super().__init__(patient, cycle, patient.radius * rng.uniform(*_WIDER) * size)
        self.wall = self.wall * rng.uniform(*_THINNER)
        self.middle_x, self.middle_z = rng.normal(0.3, 0.9), rng.normal(6.4, 0.9)
        self.eccentricity = rng.uniform(0.9, 1.08)
        self.twist = rng.normal(0, 0.4)
        self.right_angle = rng.normal(math.radians(205), 0.35)
        self.right_depth = patient.right_ventricle * rng.uniform(0.6, 1.0)
        if self.level == "apical":
            self.right_depth *= rng.uniform(0.2, 0.7)
        self.orifice = rng.uniform(0.35, 0.6)

    @override
    def needed_depth(self) -> float:
        return 11.8

    @override
    def paint(self, x: Tensor, z: Tensor, lines: bool = True) -> TissuePoints:
        R, c = self.radius, self.contraction
        u, v = z - self.middle_z, x - self.middle_x
        radius = torch.hypot(u * self.eccentricity, v / self.eccentricity)
        angle = torch.atan2(u, v)
        wobble = 1 + 0.06 * torch.cos(2 * angle + self.twist) + 0.04 * torch.cos(3 * angle + 2 * self.twist)
        inner = radius - R * wobble
        outer = inner - self.wall * (1 + 0.12 * torch.cos(angle - self.twist))
        # a crescent around the septum: a circle of the size of the left ventricle, moved aside
        aside = self.right_depth * (1 - 0.12 * c)
        right = torch.hypot(v - aside * math.cos(self.right_angle), u - aside * math.sin(self.right_angle))
        right = right - (R[c.argmin()] + self.wall[c.argmin()])

        labels = torch.zeros(inner.shape, dtype=torch.uint8)
        labels.masked_fill_(right < 0.45, MUSCLE).masked_fill_((right < 0) & (outer > 0), RV)
        labels.masked_fill_(outer < 0, MYO).masked_fill_(inner < 0, LV)
        if self.level == "papillary":
            for degrees, size in ((38, 0.55), (140, 0.6)):
                a = math.radians(degrees) + self.twist
                x0, z0 = 0.72 * math.cos(a) * R, 0.72 * math.sin(a) * R
                papillary = torch.hypot(v - x0, u - z0) - size * (1 + 0.15 * c)
                labels.masked_fill_((papillary < 0) & (inner < 0), PAPILLARY)
        if not lines:
            return TissuePoints(labels)
        far = torch.full_like(inner, FAR)
        leaflet = far
        if self.level == "mitral":
            half = (0.06 + self.orifice * self.mitral) * R
            leaflet = ellipse_distance(u, v, (0.1 * R, 0.0), (half, 0.7 * R)).abs()
        return TissuePoints(labels, leaflet, torch.where(angle > -0.3, (outer - 0.05).abs(), far))
