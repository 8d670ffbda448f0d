from .members import load_network
from .neighbors import WeightedKNNClassifier
from .probes.decoder import DecoderProbe
from .probes.linear import LinearProbe
from .run import run_segmentation
from .soft_parcels import ParcelMember, gaussian_temperature, save_parcel_member
from .whitebox.fitting import FittedWhiteBox, LabelledMaps, count_prior, fit_white_box
from .whitebox.opinion import ExpertOpinion
from .whitebox.prior import ParcelPrior
from .whitebox.run import run_naming
from .whitebox.sampling import credible_interval, sample_areas
from .whitebox.segmenter import ParcelSegmenter
from .whitebox.selection import ParcelSelector
from .whitebox.several import WhiteBoxes, load_white_boxes
from .whitebox.steps import PostProcessing

__all__ = [
    "DecoderProbe",
    "ExpertOpinion",
    "FittedWhiteBox",
    "LabelledMaps",
    "LinearProbe",
    "ParcelMember",
    "ParcelPrior",
    "ParcelSegmenter",
    "ParcelSelector",
    "PostProcessing",
    "WeightedKNNClassifier",
    "WhiteBoxes",
    "count_prior",
    "credible_interval",
    "fit_white_box",
    "gaussian_temperature",
    "load_network",
    "load_white_boxes",
    "run_naming",
    "run_segmentation",
    "sample_areas",
    "save_parcel_member",
]
