from .average import average_backbones
from .base import Backbone, BackboneSpec, Features, Tokens
from .checkpoint import export_backbone
from .conv import ConvBackbone, ConvSpec
from .dino.loss import DINOLoss, PatchLoss
from .dino.module import DINOModule
from .load import load_backbone, random_backbone
from .simulation.heads import TargetWeights
from .simulation.joint import JointModule
from .simulation.module import SimulationModule
from .simulation.objective import SimulationObjective
from .timm_vit import TimmSpec
from .training import TrainingModule
from .vit import VitBackbone, VitSpec

__all__ = [
    "Backbone",
    "BackboneSpec",
    "ConvBackbone",
    "ConvSpec",
    "DINOLoss",
    "DINOModule",
    "Features",
    "JointModule",
    "PatchLoss",
    "SimulationModule",
    "SimulationObjective",
    "TargetWeights",
    "TimmSpec",
    "Tokens",
    "TrainingModule",
    "VitBackbone",
    "VitSpec",
    "average_backbones",
    "export_backbone",
    "load_backbone",
    "random_backbone",
]
