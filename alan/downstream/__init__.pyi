from .members import load_network
from .neighbors import WeightedKNNClassifier
from .readouts.decoder import DecoderReadout
from .readouts.linear import LinearReadout
from .readouts.soft import ParcelMember
from .whitebox.fitting import FittedWhiteBox, LabelledMaps, count_prior, fit_white_box
from .whitebox.prior import ParcelPrior
from .whitebox.segmenter import ParcelSegmenter
from .whitebox.selection import ParcelSelector
from .whitebox.several import WhiteBoxes, load_white_boxes
from .whitebox.steps import PostProcessing

__all__ = [
    "DecoderReadout",
    "FittedWhiteBox",
    "LabelledMaps",
    "LinearReadout",
    "ParcelMember",
    "ParcelPrior",
    "ParcelSegmenter",
    "ParcelSelector",
    "PostProcessing",
    "WeightedKNNClassifier",
    "WhiteBoxes",
    "count_prior",
    "fit_white_box",
    "load_network",
    "load_white_boxes",
]
