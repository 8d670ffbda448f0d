from .assemble import assemble_model
from .calibration import calibrate_model
from .evidence import ParcelEvidence
from .exports import export_loop
from .kinds import NotALoopError
from .loop import Loop, open_loops
from .loop_analysis import LoopAnalysis, LoopSettings, analyze_loop
from .manifest import Manifest
from .model import AnalysisModel
from .model_export import export_model
from .quality import FLAGS
from .reference import read_reference, write_agreement
from .results import BeatResult, Flag, FrameResult, LoopResult, Measure, PatientResult, ViewEvidence
from .run import Analysis, analyze_files
from .sources import Source, find_sources
from .tables import read_loops, read_patients, write_tables
from .timeline import TimeSettings
from .uncertainty import calibrate_spread
from .views import ViewBank, ViewResult
from .worker import AnalysisSettings

__all__ = [
    "FLAGS",
    "Analysis",
    "AnalysisModel",
    "AnalysisSettings",
    "BeatResult",
    "Flag",
    "FrameResult",
    "Loop",
    "LoopAnalysis",
    "LoopResult",
    "LoopSettings",
    "Manifest",
    "Measure",
    "NotALoopError",
    "ParcelEvidence",
    "PatientResult",
    "Source",
    "TimeSettings",
    "ViewBank",
    "ViewEvidence",
    "ViewResult",
    "analyze_files",
    "analyze_loop",
    "assemble_model",
    "calibrate_model",
    "calibrate_spread",
    "export_loop",
    "export_model",
    "find_sources",
    "open_loops",
    "read_loops",
    "read_patients",
    "read_reference",
    "write_agreement",
    "write_tables",
]
