from .ensemble import run_ensemble
from .intervals import bootstrap_interval
from .label_efficiency.methods import AtlasMethod, NetworkMethod, RuleMethod, SegmenterMethod
from .label_efficiency.probes import DecoderMethod, LinearMethod, SoftLinearMethod
from .label_efficiency.protocol import LabelEfficiencyProtocol
from .metrics import dice, distances, iou
from .protocols import SegmentationProtocol, ViewProtocol
from .run import run_evaluation

__all__ = [
    "AtlasMethod",
    "DecoderMethod",
    "LabelEfficiencyProtocol",
    "LinearMethod",
    "NetworkMethod",
    "RuleMethod",
    "SegmentationProtocol",
    "SegmenterMethod",
    "SoftLinearMethod",
    "ViewProtocol",
    "bootstrap_interval",
    "dice",
    "distances",
    "iou",
    "run_ensemble",
    "run_evaluation",
]
