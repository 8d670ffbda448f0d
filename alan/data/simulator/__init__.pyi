from .acquisition import Acquisition, Physics
from .anatomy import PatientAnatomy
from .archive import simulate_archive
from .pose import ApicalPose
from .screen import Screen, simulate_screen
from .sequence import SimulatedSequence, simulate_sequence

__all__ = [
    "Acquisition",
    "ApicalPose",
    "PatientAnatomy",
    "Physics",
    "Screen",
    "SimulatedSequence",
    "simulate_archive",
    "simulate_screen",
    "simulate_sequence",
]
