"""Loading a locked backbone by path or by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from alan.backbone.checkpoint import Weights, network, read_weights
from alan.backbone.conv import CONV_PRESETS, ConvSpec, Level, named_conv_spec, seeded_conv
from alan.backbone.locked import Backbone, ConvBackbone, Features, VitBackbone, lock
from alan.backbone.vit import VitSpec, named_spec, seeded_vit
from alan.errors import CheckpointError, ParameterError, nearest
from alan.shipped import shipped, shipped_or_path

__all__ = [
    "Backbone",
    "ConvBackbone",
    "Features",
    "VitBackbone",
    "load_backbone",
    "random_backbone",
    "random_like",
    "seeded_network",
]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)


def load_backbone(
    path_or_name: str | os.PathLike[str],
    *,
    input_size: int | None = None,
    stride: int | None = None,
    feature_levels: Sequence[Level] | None = None,
) -> Backbone:
    """Load a locked backbone.

    Args:
        path_or_name: a file (``.safetensors`` of :func:`alan.backbone.export_backbone`, a Lightning
            ``.ckpt`` of ``alan fit``, or an original DINO ``.pth``), the name of shipped weights (a file in
            ``checkpoints`` without its suffix), a timm name (``vit_small_patch8_224.dino``, fetched from the hub),
            or ``random:vit_small/4?seed=0`` or ``random:conv_small`` for the random baseline.
        input_size: side in pixels to which frames are resized; default: the training size.
        stride: distance of two tokens in pixels. For a ViT a divisor of the patch size; default: the patch size;
            half of it gives twice the density. For a convolutional network a divisor of the input size; default:
            its specification's.
        feature_levels: of a convolutional network, the levels whose maps are the features, see
            :class:`alan.backbone.ConvSpec`; default: its specification's.

    Raises:
        CheckpointError: missing, truncated, unsafe, of another architecture, or a hub that cannot be reached.
        ParameterError: an input size, stride or levels that do not fit the network.
    """
    name = os.fspath(path_or_name)
    if name.startswith("random:"):
        net, spec = _random_by_name(name)
    elif (path := shipped_or_path(name)).exists() or path.suffix in {".safetensors", ".ckpt", ".pth", ".pt"}:
        net, spec = network(read_weights(path), str(path))
    else:
        net, spec = _from_timm(name)
    if feature_levels is not None:
        if not isinstance(spec, ConvSpec):
            raise ParameterError(f"{name}: a vision transformer has no feature_levels: leave them out")
        spec = replace(spec, feature_levels=tuple(feature_levels))
    return lock(net, spec, input_size, stride)


def seeded_network(spec: VitSpec | ConvSpec, seed: int) -> nn.Module:
    """Build an untrained network of either kind from a seed; torch's global generator is left as it was."""
    return seeded_conv(spec, seed) if isinstance(spec, ConvSpec) else seeded_vit(spec, seed)


def random_backbone(
    spec: VitSpec | ConvSpec, seed: int = 0, *, input_size: int | None = None, stride: int | None = None
) -> Backbone:
    """Lock an untrained network, the baseline of every experiment; the same seed gives the same weights."""
    return lock(seeded_network(spec, seed), spec, input_size, stride)


def random_like(backbone: Backbone, seed: int = 0) -> Backbone:
    """Lock an untrained network of the same specification, input size and stride, on the same device."""
    other = random_backbone(backbone.spec, seed, input_size=backbone.input_size, stride=backbone.stride)
    return other.to(backbone.device)


def _random_by_name(name: str) -> tuple[nn.Module, VitSpec | ConvSpec]:
    network_name, _, option = name.removeprefix("random:").partition("?")
    key, _, value = option.partition("=")
    if option and (key != "seed" or not value.isdecimal()):
        raise ParameterError(f"{name!r}: expected the form random:vit_small/4?seed=0")
    spec = named_conv_spec(network_name) if network_name in CONV_PRESETS else named_spec(network_name)
    return seeded_network(spec, int(value or 0)), spec


def _from_timm(name: str) -> tuple[nn.Module, VitSpec | ConvSpec]:
    import timm

    if not timm.is_model(name):
        known = [*shipped(), "vit_small_patch8_224.dino", "random:vit_small/4"]
        raise CheckpointError(f"{name}: no such file and no known name: {nearest(name, known)}")
    if not name.startswith("vit_"):
        raise CheckpointError(
            f"{name}: another architecture: only timm's plain ViTs (vit_...) can be the backbone"
        )
    try:
        model: Any = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub client has no common root of its errors
        raise CheckpointError(
            f"{name}: the hub gave no weights ({type(error).__name__}); check the network, or download the file "
            "once (dino_deitsmall8_pretrain.pth for DINO's ViT-S/8) and give its path"
        ) from error
    if not model.pretrained_cfg or tuple(model.pretrained_cfg.get("mean", ())) != _IMAGENET_MEAN:
        raise CheckpointError(
            f"{name}: was not trained with ImageNet's mean, which is the one known here; use a .dino"
        )
    return network(Weights(model.state_dict()), name, heads=model.blocks[0].attn.num_heads)
