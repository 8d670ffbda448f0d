"""Registry of the backbone types, by their names in files."""

from __future__ import annotations

from alan.backbone.base import BackboneSpec
from alan.backbone.conv import ConvSpec
from alan.backbone.timm_vit import TimmSpec
from alan.backbone.vit import VitSpec

#: One line per type, in the order in which names and weights without a specification are recognised.
_TYPES: tuple[type[BackboneSpec], ...] = (
    VitSpec,
    ConvSpec,
    TimmSpec,
)
#: Name in files to type.
BACKBONES: dict[str, type[BackboneSpec]] = {spec.kind: spec for spec in _TYPES}
