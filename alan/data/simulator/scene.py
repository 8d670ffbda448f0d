"""Base of all views: tissue codes, painted anatomy, and sizes that follow the cycle."""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alan.data.simulator.anatomy import LONGITUDINAL_SHARE, PatientAnatomy
from alan.data.simulator.cycle import Cycle
from alan.data.structures import label_value

LV, MYO, LA = label_value("lv"), label_value("myo"), label_value("la")
RV, RA, AO = label_value("rv"), label_value("ra"), label_value("ao")
#: Codes of painted tissue that is not a structure: right ventricular, fibrous and papillary muscle tissue.
MUSCLE, FIBROUS, PAPILLARY = 20, 21, 22


@dataclass
class TissuePoints:
    """Anatomy at P points in T frames.

    Attributes:
        labels: (T, P) uint8, values of ``STRUCTURES`` and the codes of this module.
        leaflet: (T, P) distance in cm to the nearest valve leaflet, or None if lines were not requested.
        pericardium: (T, P) distance in cm to the pericardium, or None if lines were not requested.
        boost: (T, P) factor on the echo amplitude of muscle, or None for 1.
        veil: (T, P) echo amplitude added to that of blood, or None for 0.
        halo: (T, P) echo of the tissue around the heart, over that of the walls, added to its own; None for 0.
    """

    labels: Tensor
    leaflet: Tensor | None = None
    pericardium: Tensor | None = None
    boost: Tensor | None = None
    veil: Tensor | None = None
    halo: Tensor | None = None

    @functools.cached_property
    def blood(self) -> Tensor:
        """(T, P) bool, cavities without papillary muscle."""
        return torch.isin(self.labels, torch.tensor((LV, LA, RV, RA, AO), dtype=torch.uint8))

    def label_map(self) -> Tensor:
        """Return (T, P) uint8 of structures: papillary muscle becomes cavity, other codes become background."""
        labels = torch.where(self.labels == PAPILLARY, LV, self.labels)
        return torch.where(labels >= MUSCLE, 0, labels).to(torch.uint8)


class Scene(abc.ABC):
    """Implicit anatomy of one view of one patient over a cycle.

    Coordinates are in cm, x to the right and z away from the probe at (0, 0). Subclasses draw the position of the
    heart in the image from ``rng``.

    Attributes:
        patient: Anatomy of the patient.
        contraction: (T, 1) float32, from 0 at end-diastole to 1 at end-systole.
        mitral: (T, 1) float32, opening of the mitral valve.
        radius: (T, 1) largest half width of the left ventricle in this view.
        widest: (T, 1) position of its widest cross-section along the long axis.
        taper: (T, 1) relative narrowing at its base.
        length: (T, 1) length of the left ventricle.
        wall: (T, 1) thickness of the myocardium, which increases as the ventricle contracts.
    """

    def __init__(self, patient: PatientAnatomy, cycle: Cycle, half_width: float) -> None:
        def column(values: NDArray[np.float64]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32)[:, None]

        a = patient.shortening
        self.patient = patient
        self.contraction, self.mitral = column(cycle.contraction), column(cycle.mitral)
        self.radius = half_width * (1 - a * self.contraction)
        self.widest = patient.widest_at(self.contraction)
        self.taper = patient.taper_at(self.contraction)
        self.length = patient.length * (1 - LONGITUDINAL_SHARE * a * self.contraction)
        self.wall = patient.wall * (1 + patient.thickening * a * self.contraction)

    @abc.abstractmethod
    def needed_depth(self) -> float:
        """Return the depth in cm that shows the whole heart."""

    @abc.abstractmethod
    def paint(self, x: Tensor, z: Tensor, lines: bool = True) -> TissuePoints:
        """Paint the anatomy at given points.

        Args:
            x: (1, P) lateral position in cm.
            z: (1, P) depth in cm.
            lines: Whether to paint the picture, with leaflets, pericardium, boost, veil and halo, instead of the
                labels, whose borders may lie elsewhere.
        """

    def long_axis(self) -> Tensor | None:
        """Return (T, 2, 2) float32, (x, z) in cm of the apex and the centre of the base; None if not in view."""
        return None
