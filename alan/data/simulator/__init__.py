"""Simulated echocardiograms: a beating heart of known volumes, and archives of it in the official layouts."""

from alan.data.simulator.acquisition import Acquisition, Physics
from alan.data.simulator.anatomy import PatientAnatomy
from alan.data.simulator.archive import simulate_archive
from alan.data.simulator.pose import ApicalPose
from alan.data.simulator.sequence import SimulatedSequence, simulate_sequence

__all__ = [
    "Acquisition",
    "ApicalPose",
    "PatientAnatomy",
    "Physics",
    "SimulatedSequence",
    "simulate_archive",
    "simulate_sequence",
]
