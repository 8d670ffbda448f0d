from .ensemble import run_ensemble
from .intervals import bootstrap_interval
from .label_efficiency.protocol import LabelEfficiencyProtocol
from .metrics import average_surface_distance, dice, hausdorff95, iou
from .run import run_evaluation
from .segmentation import SegmentationProtocol
from .views import ViewProtocol

__all__ = [
    "LabelEfficiencyProtocol",
    "SegmentationProtocol",
    "ViewProtocol",
    "average_surface_distance",
    "bootstrap_interval",
    "dice",
    "hausdorff95",
    "iou",
    "run_ensemble",
    "run_evaluation",
]
