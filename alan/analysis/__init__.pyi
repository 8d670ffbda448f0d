from .evidence import ParcelEvidence
from .exports import export_loop
from .kinds import NotALoopError
from .loop import Loop, open_loops
from .reference import read_reference, write_agreement
from .results import BeatResult, Flag, FrameResult, LoopResult, Measure, PatientResult, ViewEvidence
from .sources import Source, find_sources
from .tables import read_loops, read_patients, write_tables

__all__ = [
    "BeatResult",
    "Flag",
    "FrameResult",
    "Loop",
    "LoopResult",
    "Measure",
    "NotALoopError",
    "ParcelEvidence",
    "PatientResult",
    "Source",
    "ViewEvidence",
    "export_loop",
    "find_sources",
    "open_loops",
    "read_loops",
    "read_patients",
    "read_reference",
    "write_agreement",
    "write_tables",
]
