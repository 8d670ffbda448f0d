from .guided import GuidedFilter
from .heads import HEADS, KMeansHead, RaptorHead, SmooSegHead, TokenHead
from .kmeans import KMeansParcels, fit_kmeans
from .losses import LossWeights, correspondence_loss, raptor_loss
from .maps import logits_to_maps
from .model import ParcelModel, load_parcels, save_parcels
from .quality import parcel_quality
from .raptor import RaptorModule
from .run import run_parcels
from .smooseg import SmooSegModule
from .training import HeadModule

__all__ = [
    "HEADS",
    "GuidedFilter",
    "HeadModule",
    "KMeansHead",
    "KMeansParcels",
    "LossWeights",
    "ParcelModel",
    "RaptorHead",
    "RaptorModule",
    "SmooSegHead",
    "SmooSegModule",
    "TokenHead",
    "correspondence_loss",
    "fit_kmeans",
    "load_parcels",
    "logits_to_maps",
    "parcel_quality",
    "raptor_loss",
    "run_parcels",
    "save_parcels",
]
