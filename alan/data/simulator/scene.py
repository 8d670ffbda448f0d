"""What every view shares: tissue codes, the painted result, and sizes that follow the cycle."""

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
#: Codes of what is drawn but is no structure: right ventricular muscle, fibrous tissue, papillary muscle.
MUSCLE, FIBROUS, PAPILLARY = 20, 21, 22


@dataclass
class Painted:
    """The anatomy at P points in T frames.

    Attributes:
        labels: (T, P) uint8, values of ``STRUCTURES`` and the codes of this module.
        leaflet: (T, P) distance in cm to the nearest valve leaflet, or None where lines were not asked for.
        pericardium: (T, P) distance in cm to the pericardium, or None likewise.
        boost: (T, P) factor on the echo amplitude of muscle, or None for 1.
    """

    labels: Tensor
    leaflet: Tensor | None = None
    pericardium: Tensor | None = None
    boost: Tensor | None = None

    @functools.cached_property
    def blood(self) -> Tensor:
        """(T, P) bool, the cavities (without papillary muscle)."""
        return torch.isin(self.labels, torch.tensor((LV, LA, RV, RA, AO), dtype=torch.uint8))

    def label_map(self) -> Tensor:
        """(T, P) uint8 with structures only: papillary muscle counts as cavity, other codes as background."""
        labels = torch.where(self.labels == PAPILLARY, LV, self.labels)
        return torch.where(labels >= MUSCLE, 0, labels).to(torch.uint8)


class Scene(abc.ABC):
    """Implicit anatomy of one view of one patient over a cycle.

    Coordinates are in cm, x to the right and z away from the probe, which stands at (0, 0). Subclasses draw the
    position of the heart in the picture from ``rng``.

    Attributes:
        patient: the anatomy.
        contraction: (T, 1) float32, 0 end-diastole to 1 end-systole.
        mitral: (T, 1) float32, opening of the mitral valve.
        radius: (T, 1) largest half width of the left ventricle in this view.
        length: (T, 1) length of the left ventricle.
        wall: (T, 1) thickness of the myocardium, which grows as the ventricle contracts.
    """

    def __init__(self, patient: PatientAnatomy, cycle: Cycle, half_width: float) -> None:
        def column(values: NDArray[np.float64]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32)[:, None]

        a = patient.shortening
        self.patient = patient
        self.contraction, self.mitral = column(cycle.contraction), column(cycle.mitral)
        self.radius = half_width * (1 - a * self.contraction)
        self.length = patient.length * (1 - LONGITUDINAL_SHARE * a * self.contraction)
        self.wall = patient.wall * (1 + patient.thickening * a * self.contraction)

    @abc.abstractmethod
    def needed_depth(self) -> float:
        """Depth in cm at which the whole heart is in the picture."""

    @abc.abstractmethod
    def paint(self, x: Tensor, z: Tensor, lines: bool = True) -> Painted:
        """Anatomy at given points.

        Args:
            x: (1, P) lateral position in cm.
            z: (1, P) depth in cm.
            lines: whether leaflets, pericardium and boost are wanted beside the labels.
        """

    def long_axis(self) -> Tensor | None:
        """(T, 2, 2) float32: (x, z) in cm of the apex and the middle of the base; None if not in the picture."""
        return None
