"""Apical views: A4C with the right heart on the left of the image, A2C without it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from alan.data.simulator.anatomy import PatientAnatomy
from alan.data.simulator.cycle import Cycle
from alan.data.simulator.geometry import FAR, ellipse_distance, profile, segment_distance
from alan.data.simulator.pose import ApicalPose
from alan.data.simulator.scene import FIBROUS, LA, LV, MUSCLE, MYO, PAPILLARY, RA, RV, Scene, TissuePoints

#: Thickness of the right ventricular free wall and of atrial walls in cm.
_RV_WALL, _ATRIAL_WALL = 0.5, 0.3
#: Thickness of the anterior and the inferior wall (A2C) over that of the walls in A4C, as annotators draw it; the
#: apex is as thick in both.
_INFERIOR_WALL = 1.25
#: Share of trabeculae and papillary muscle that is drawn as wall at end-systole.
_COMPACTED = 0.9
#: Relative gain of the echo in the depth of walls at end-systole.
_SYSTOLIC_ECHO = 0.3
#: Distances in cm over which walls brighten from their inner border, and the veil fades into the cavity.
_RIM, _VEIL = 0.35, 0.4
#: Lateral bend (cm) that keeps the septum (A4C) or the inferior wall (A2C) straight and lets the opposite wall
#: bulge.
_STRAIGHT_SEPTUM = 0.55
#: Fraction of this bend that is gone at end-systole, when the opposite wall has moved in (A4C, A2C).
_MOVED_IN, _MOVED_IN_A2C = 0.8, 0.5
#: Half width of the left atrium in A2C over that in A4C.
_NARROW_ATRIUM = 0.93
#: How much thinner the pericardium and the leaflets look at end-diastole than at end-systole.
_THIN_PERICARDIUM, _THIN_LEAFLETS = 0.35, 0.6
#: Distance in cm by which the leaflets meet farther inside the ventricle at end-diastole, when they are slack.
_SLACK = 0.25
#: Half the relative difference between the inferior and the anterior wall (A2C), as annotators draw it.
_INFERIOR_THICKER = 0.05
#: Distance in cm over which the halo left of the heart fades.
_HALO = 1.8
#: Fraction of the fading of the lateral wall that is absent at the base.
_BRIGHT_BASE = 0.5
#: Distances in cm, at end-diastole and at end-systole, by which borders in the picture lie outside those that
#: annotators draw: the apex of the cavity and of the wall, the inner and the outer border of the lateral (A4C) or
#: anterior wall (A2C). The upper border of the left atrium and the end of the wall lie nearer to the apex.
_APEX, _WALL_APEX = (0.15, 0.9), (0.15, 0.45)
_INNER, _OUTER = (0.0, 0.45), (0.03, 0.25)
_PLANE, _WALL_END = (0.2, 0.0), (0.45, 0.0)
#: The same for the side of the septum in the right ventricle, which lies inside.
_SEPTUM = (0.1, 0.25)
#: The same for half the width and the roof of the left atrium in A2C, at all times.
_ATRIUM_SIDE, _ATRIUM_ROOF = 0.35, 0.2


class ApicalScene(Scene):
    """The heart seen from the apex; u runs from the apex to the mitral plane, v to the right (lateral wall)."""

    def __init__(self, patient: PatientAnatomy, cycle: Cycle, pose: ApicalPose, four_chamber: bool) -> None:
        self.four_chamber, self.pose = four_chamber, pose
        flattening = patient.flattening if four_chamber else 1 / patient.flattening
        super().__init__(patient, cycle, patient.radius * flattening)
        self.cap = patient.apex_wall * self.wall
        if not four_chamber:
            self.wall = _INFERIOR_WALL * self.wall
        moved_in = _MOVED_IN if four_chamber else _MOVED_IN_A2C
        self.bend = patient.bend + _STRAIGHT_SEPTUM * (1 - moved_in * self.contraction)
        self.asymmetry = patient.wall_asymmetry + (0.0 if four_chamber else _INFERIOR_THICKER)

    @override
    def needed_depth(self) -> float:
        return self.pose.apex_z + self.patient.length + self.pose.atrium_size * self.patient.atrium_length

    @override
    def long_axis(self) -> Tensor:
        sin, cos = math.sin(self.pose.rotation), math.cos(self.pose.rotation)
        z = self.pose.apex_z + 0.25 * self.contraction
        apex = torch.cat([torch.full_like(z, self.pose.apex_x), z], 1)
        base = torch.cat([self.pose.apex_x - sin * self.length, z + cos * self.length], 1)
        return torch.stack([apex, base], 1)

    @override
    def paint(self, x: Tensor, z: Tensor, lines: bool = True) -> TissuePoints:
        p, R, L = self.patient, self.radius, self.length
        margin = self.pose.margin if lines else 0.0  # labels are as annotators draw them

        def beyond(distance: tuple[float, float]) -> Tensor:
            return margin * (distance[0] + (distance[1] - distance[0]) * self.contraction)

        sin, cos = math.sin(self.pose.rotation), math.cos(self.pose.rotation)
        dx, dz = x - self.pose.apex_x, z - (self.pose.apex_z + 0.25 * self.contraction)
        u = cos * dz - sin * dx
        straight = cos * dx + sin * dz
        v = straight - self.bend * torch.sin(math.pi * (u / L).clamp(0, 1))
        across = v.abs()

        raised = beyond(_APEX)
        inner = R * profile((u + raised) / (L + raised), self.widest, self.taper)
        inner = inner * (1 + beyond(_INNER) / R * (v > 0))
        base = R * (1 - self.taper)
        plane = L + p.base_tilt * torch.clamp(v, -3.0, 3.0)
        wall = self.wall * (1 - self.asymmetry * torch.sign(v))
        cap = self.cap + beyond(_WALL_APEX)
        outer = (R + wall) * profile((u + cap) / (L + cap), self.widest, 0.6 * self.taper)
        outer = outer * (1 + beyond(_OUTER) / (R + wall) * (v > 0))
        outer = torch.maximum(outer, inner + 0.4 * wall) * (u + cap > 0)
        cavity = (across < inner) & (u < plane)
        muscle = (across < outer) & (u < plane + p.wall_end - beyond(_WALL_END))

        wider = 0.0 if self.four_chamber else margin
        roof = p.length + self.pose.atrium_size * p.atrium_length  # the roof of the atria does not move
        roof = roof + wider * _ATRIUM_ROOF
        half = 0.5 * (roof - L)
        size = self.pose.atrium_size * (1.0 if self.four_chamber else _NARROW_ATRIUM)
        width = size * p.atrium_width * (1 + 0.14 * self.contraction) + wider * _ATRIUM_SIDE
        lean = v + (p.atrium_tilt if self.four_chamber else 0.0) * (u - L)
        atrium = ellipse_distance(u, lean, (L + 0.92 * half, self.pose.atrium_offset), (half, width))
        neck = torch.maximum(lean.abs() - 0.92 * base, u - L - 0.7 * half)
        atrium = torch.maximum(torch.minimum(atrium, neck), plane - beyond(_PLANE) - u)

        groove = ellipse_distance(u, across, (L + 0.15, base + 0.25), (0.45 + 0 * L, 0.5 + 0 * L)) < 0
        labels = torch.zeros(u.shape, dtype=torch.uint8)
        septum = outer - beyond(_SEPTUM)
        right = self._right_heart(u, v, lean, septum, labels) if self.four_chamber else None
        labels.masked_fill_(atrium < _ATRIAL_WALL, FIBROUS).masked_fill_(groove, FIBROUS).masked_fill_(muscle, MYO)
        if right is not None:
            labels.masked_fill_(right[0], RV).masked_fill_(right[1], RA)
        labels.masked_fill_(atrium < 0, LA).masked_fill_(cavity, LV)
        if not lines:
            return TissuePoints(labels)
        loose = 1 - _COMPACTED * self.contraction
        rough = p.trabeculae * loose * (0.5 + 0.5 * torch.sin(5.0 * u + 2.0 * torch.sign(v)))
        papillary = ellipse_distance(u, v, (0.6 * L, 0.7 * R), (1.0 + 0 * L, p.papillary * loose + 1e-3))
        lining = (across > inner - rough) & (u < 0.8 * L)
        labels.masked_fill_(cavity & (lining | (papillary < 0)), PAPILLARY)
        free = right[2] if right is not None else None
        boost = self._boost(u + raised, v, inner, outer)
        veil = torch.where(
            atrium < 0,
            self.pose.atrium_veil * (1 - self.contraction),
            self.pose.apex_veil * (0.3 + 0.7 * self.contraction) * torch.exp(-(6 * (u + raised) / L).square())
            + self.pose.border_veil * (0.15 + 0.85 * self.contraction) * self._border(u, across, inner),
        )
        if right is not None:
            veil = torch.where(v < -septum, self.pose.right_veil, veil)
        border = outer if free is None else free + _RV_WALL
        leaflets, pericardium = self._leaflets(u, v, base), self._pericardium(u, v, outer, free)
        return TissuePoints(labels, leaflets, pericardium, boost, veil, self._halo(u, -v - border))

    def _halo(self, u: Tensor, beyond: Tensor) -> Tensor:
        """Compute the halo at distances beyond the left border of the heart."""
        strength = self.pose.halo * (0.5 + 0.5 * self.contraction)
        near = (beyond > 0) & (u < 1.1 * self.length)
        return torch.where(near, strength * torch.exp(-beyond.clamp(min=0) / _HALO), 0.0)

    def _border(self, u: Tensor, across: Tensor, inner: Tensor) -> Tensor:
        """Compute the weight (0 to 1) of the veil at the border of the cavity, which is 0 at the base."""
        s = u / self.length
        level = ((0.85 - s) / 0.35).clamp(0, 1) * (0.4 + 2 * s).clamp(0.4, 1)
        return level * torch.exp(-(inner - across).clamp(min=0) / _VEIL)

    def _boost(self, u: Tensor, v: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
        """Compute the factor on the echo of walls, which brighten from their inner border outwards.

        The septum is bright; the lateral wall, the apex, the outer layer and the right heart may fade.
        """
        pose, s = self.pose, u / self.length
        apical, basal = torch.exp(-(4 * s).square()), ((s - 0.3) / 0.5).clamp(0, 1)
        layer = torch.maximum((v.abs() - inner) / (outer - inner).clamp(min=1e-3), -u / self.cap).clamp(0, 1)
        rim = torch.exp(-torch.maximum(v.abs() - inner, -u).clamp(min=0) / _RIM) * (1 - apical)
        side = (v < 0) if self.four_chamber else (v > 0)

        lateral = (0.5 + 0.5 * v / self.radius).clamp(0, 1)
        fade = pose.lateral_fade * (1 - _BRIGHT_BASE * basal)
        wall = pose.septum_echo + (1 - fade - pose.septum_echo) * lateral
        wall = wall * (1 - pose.apical_fade * apical) * (1 - pose.apical_ramp * apical * (1 - layer))
        wall = wall * (1 - pose.rim_fade * (0.4 + 0.6 * basal) * rim)
        wall = wall * (1 + pose.deep_gain * (1 - apical) * (1 - rim))
        wall = wall * (1 - pose.outer_fade * (layer * (0.5 + 0.5 * side)).square())
        wall = wall * (1 + _SYSTOLIC_ECHO * self.contraction * (1 - rim))
        return torch.where(v < -outer, 1 - pose.right_fade, wall) if self.four_chamber else wall

    def _right_heart(
        self, u: Tensor, v: Tensor, lean: Tensor, septum: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Paint the walls of the right heart; return both cavities and the distance of the free wall."""
        p, L = self.patient, self.length
        s = u / L
        width = p.right_ventricle * (1 - 0.22 * self.contraction) * ((s - 0.18) / 0.82).clamp(min=0) ** 0.6
        free = septum + width
        ventricle = (v < -septum) & (v > -free) & (s > 0.18) & (s < 1.03)
        wall = (v < -septum) & (v > -free - _RV_WALL) & (s > 0.10) & (s < 1.05)
        half = 0.46 * (p.length + p.atrium_length - L)
        radius = p.right_atrium * (1 + 0.08 * self.contraction)
        edge = self.radius * (1 - self.taper) + 0.3
        atrium = ellipse_distance(u, lean, (L + 0.95 * half, -(edge + 0.25 + radius)), (half, radius))
        atrium = torch.maximum(atrium, torch.maximum(L + 0.02 - u, lean + edge))
        hinge = ellipse_distance(u, v, (L + 0.1, -(edge + 0.3 + 1.9 * radius)), (0.45 + 0 * L, 0.45 + 0 * L))
        labels.masked_fill_(atrium < _ATRIAL_WALL, FIBROUS).masked_fill_(wall, MUSCLE).masked_fill_(
            hinge < 0, FIBROUS
        )
        return ventricle, atrium < 0, free

    def _leaflets(self, u: Tensor, v: Tensor, base: Tensor) -> Tensor:
        """Compute the distance to the nearest leaflet of the mitral and, in A4C, the tricuspid valve."""
        L, slack = self.length, 1 - self.contraction
        opening = torch.maximum(self.mitral, self.pose.late_closure * slack**4)
        tent = self.pose.tenting + _SLACK * slack
        distance = torch.full_like(u, FAR)
        for sign, reach, swing in ((-1.0, 2.0, 1.0), (1.0, 1.4, 0.9)):
            hinge = sign * 0.97 * base
            hinge_u = L + self.patient.base_tilt * hinge
            tip_u = hinge_u - tent - reach * self.pose.leaflet * 0.85 * opening
            tip_v = hinge - sign * base * swing * (1 - 0.72 * opening)
            distance = torch.minimum(distance, segment_distance(u, v, (hinge_u + 0.05, hinge), (tip_u, tip_v)))
        if self.four_chamber:
            width = self.patient.right_atrium
            septal = -(base + 0.35)
            for hinge, sign in ((septal, -1.0), (septal - 1.6 * width, 1.0)):
                tip = (L - 1.3 * (0.35 + 0.65 * opening), hinge + sign * 0.75 * width * (1 - 0.75 * opening))
                distance = torch.minimum(distance, segment_distance(u, v, (L, hinge), tip))
        return distance * (1 + _THIN_LEAFLETS * slack)

    def _pericardium(self, u: Tensor, v: Tensor, outer: Tensor, free: Tensor | None) -> Tensor:
        """Compute the distance to the pericardium along the lateral wall and, in A4C, the right free wall."""
        thin = 1 + _THIN_PERICARDIUM * (1 - self.contraction)
        near = (u > 0.1 * self.length) & (u < 1.05 * self.length)
        if free is None:
            return torch.where(near, thin * (v.abs() - outer - 0.05).abs() + 0.1 * (v > 0), FAR)
        lateral = thin * (v - outer).abs()
        right = (v + free + _RV_WALL).abs() + 0.03 + 0.25 * self.pose.right_fade
        distance = torch.where(v > 0, lateral, right)
        return torch.where(near, distance, FAR)
