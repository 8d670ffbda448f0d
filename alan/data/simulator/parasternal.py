"""Parasternal views: the long axis (PLAX) and the short axis at the papillary muscles (PSAX)."""

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


class LongAxisScene(Scene):
    """PLAX; u runs to the right from the apex (outside the image) to the base, v away from the probe."""

    def __init__(self, patient: PatientAnatomy, cycle: Cycle, rng: np.random.Generator) -> None:
        super().__init__(patient, cycle, patient.radius)
        self.rotation = math.radians(-rng.normal(82, 10))
        self.base_x, self.base_z = rng.normal(1.0, 0.8), rng.normal(7.2, 0.8)
        self.atrium_offset = rng.normal(0, 0.25)
        self.leaflet = rng.uniform(0.9, 1.2)
        self.descending = rng.uniform(0.9, 1.3)

    @override
    def needed_depth(self) -> float:
        return 12.6

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
        root = -0.48 * R - 0.0875 * (u - L)  # middle of the aortic root
        aorta = torch.maximum((v - root).abs() - p.aorta * (1 + 0.03 * c), L - 0.1 - u)
        ceiling = -(p.radius + p.wall + 0.78 * p.right_ventricle - 0.25 * c)
        floor = torch.where(u < L, -outer.clamp(min=0.8), root - p.aorta - 0.25)
        right = (v < floor) & (v > ceiling) & (u > 0.25 * L)
        right_wall = (v > ceiling - 0.5) & (v < 0) & (u > 0.2 * L)
        below = R + p.wall + 1.1 + self.descending
        size = self.descending + 0 * L
        descending = ellipse_distance(u, v, (L + 0.4, below), (size, size))

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
        p = self.patient
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
            gap = sign * p.aorta * (0.08 + 0.7 * ejecting)
            cusp = segment_distance(u, v - root, (L + 0.3, sign * p.aorta + 0 * L), (L + 1.1, gap))
            distance = torch.minimum(distance, cusp)
        return distance


class ShortAxisScene(Scene):
    """PSAX at papillary level; u runs away from the probe, v to the right, with the centre at (0, 0)."""

    def __init__(self, patient: PatientAnatomy, cycle: Cycle, rng: np.random.Generator) -> None:
        super().__init__(patient, cycle, patient.radius * rng.uniform(0.85, 1.08))
        self.middle_x, self.middle_z = rng.normal(0.3, 0.9), rng.normal(6.6, 0.8)
        self.eccentricity = rng.uniform(0.9, 1.08)
        self.twist = rng.normal(0, 0.4)
        self.right_angle = rng.normal(math.radians(205), 0.35)

    @override
    def needed_depth(self) -> float:
        return 11.8

    @override
    def paint(self, x: Tensor, z: Tensor, lines: bool = True) -> TissuePoints:
        p, R, c = self.patient, self.radius, self.contraction
        u, v = z - self.middle_z, x - self.middle_x
        radius = torch.hypot(u * self.eccentricity, v / self.eccentricity)
        angle = torch.atan2(u, v)
        wobble = 1 + 0.06 * torch.cos(2 * angle + self.twist) + 0.04 * torch.cos(3 * angle + 2 * self.twist)
        inner = radius - R * wobble
        outer = inner - self.wall * (1 + 0.12 * torch.cos(angle - self.twist))
        right = torch.hypot(v - 2.3 * math.cos(self.right_angle), u - 2.0 * math.sin(self.right_angle))
        right = right - (p.right_ventricle + 1.2) * (1 - 0.12 * c)

        labels = torch.zeros(inner.shape, dtype=torch.uint8)
        labels.masked_fill_(right < 0.45, MUSCLE).masked_fill_((right < 0) & (outer > 0), RV)
        labels.masked_fill_(outer < 0, MYO).masked_fill_(inner < 0, LV)
        for degrees, size in ((38, 0.55), (140, 0.6)):
            a = math.radians(degrees) + self.twist
            papillary = torch.hypot(v - 0.72 * math.cos(a) * R, u - 0.72 * math.sin(a) * R) - size * (1 + 0.15 * c)
            labels.masked_fill_((papillary < 0) & (inner < 0), PAPILLARY)
        if not lines:
            return TissuePoints(labels)
        far = torch.full_like(inner, FAR)
        return TissuePoints(labels, far, torch.where(angle > -0.3, (outer - 0.05).abs(), far))
