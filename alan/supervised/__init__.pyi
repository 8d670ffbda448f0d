from .ensemble import EnsembleSegmenter
from .losses import WeightedLosses
from .module import SegmentationModule
from .networks import UNet, build_network
from .segmenter import Segmenter, load_segmenter, save_segmenter
from .settings import NetworkSpec, TrainingSettings
from .training import train

__all__ = [
    "EnsembleSegmenter",
    "NetworkSpec",
    "SegmentationModule",
    "Segmenter",
    "TrainingSettings",
    "UNet",
    "WeightedLosses",
    "build_network",
    "load_segmenter",
    "save_segmenter",
    "train",
]
