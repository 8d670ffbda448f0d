from .results import BeatResult, Flag, FrameResult, LoopResult, Measure, PatientResult, ViewEvidence

__all__ = ["BeatResult", "Flag", "FrameResult", "LoopResult", "Measure", "PatientResult", "ViewEvidence"]
