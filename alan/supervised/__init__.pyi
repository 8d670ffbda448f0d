from .ensemble import EnsembleSegmenter
from .losses import WeightedLosses
from .module import SegmentationModule
from .networks import NetworkSpec
from .segmenter import Segmenter, load_segmenter, save_segmenter
from .training import TrainingSettings, train
from .unet import UNet

__all__ = [
    "EnsembleSegmenter",
    "NetworkSpec",
    "SegmentationModule",
    "Segmenter",
    "TrainingSettings",
    "UNet",
    "WeightedLosses",
    "load_segmenter",
    "save_segmenter",
    "train",
]
