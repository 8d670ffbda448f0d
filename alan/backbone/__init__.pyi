from .checkpoint import export_backbone
from .conv import ConvSpec
from .dino.loss import DINOLoss, PatchLoss
from .dino.module import DINOModule
from .load import load_backbone, random_backbone
from .locked import Backbone, ConvBackbone, Features, VitBackbone
from .simulation.heads import TargetWeights
from .simulation.joint import JointModule
from .simulation.module import SimulationModule
from .vit import VitSpec

__all__ = [
    "Backbone",
    "ConvBackbone",
    "ConvSpec",
    "DINOLoss",
    "DINOModule",
    "Features",
    "JointModule",
    "PatchLoss",
    "SimulationModule",
    "TargetWeights",
    "VitBackbone",
    "VitSpec",
    "export_backbone",
    "load_backbone",
    "random_backbone",
]
