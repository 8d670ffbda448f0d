from .evidence import ParcelEvidence
from .exports import export_loop
from .results import BeatResult, Flag, FrameResult, LoopResult, Measure, PatientResult, ViewEvidence
from .tables import read_loops, write_tables

__all__ = [
    "BeatResult",
    "Flag",
    "FrameResult",
    "LoopResult",
    "Measure",
    "ParcelEvidence",
    "PatientResult",
    "ViewEvidence",
    "export_loop",
    "read_loops",
    "write_tables",
]
