"""The backbone types that are known by their word in files and by names of networks."""

from __future__ import annotations

from alan.backbone.base import BackboneSpec
from alan.backbone.conv import ConvSpec
from alan.backbone.timm_vit import TimmSpec
from alan.backbone.vit import VitSpec

#: One line per type. Names are looked up, and weights without a specification are recognised, in this order.
_TYPES: tuple[type[BackboneSpec], ...] = (
    VitSpec,
    ConvSpec,
    TimmSpec,
)
#: Word in files to type.
BACKBONES: dict[str, type[BackboneSpec]] = {spec.kind: spec for spec in _TYPES}
