"""Loading a locked backbone from a file, by the name of a network, or untrained."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from alan.backbone.base import Backbone, BackboneSpec, check_fields
from alan.backbone.checkpoint import network_from_weights, read_weights
from alan.backbone.registry import BACKBONES
from alan.errors import CheckpointError, ParameterError, nearest
from alan.shipped import shipped, shipped_or_path

_RANDOM = "random:"
_SUFFIXES = {".safetensors", ".ckpt", ".pth", ".pt", ".tar"}


def load_backbone(
    path_or_name: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    input_size: int | None = None,
    stride: int | None = None,
    **settings: Any,
) -> Backbone:
    """Load a locked backbone.

    Options may also follow the name after a question mark, where only text can be given: ``FILE.pth?heads=12``,
    ``vit_small_patch14_dinov2.lvd142m?weights=FILE.safetensors``, ``random:vit_small/4?seed=1``.

    Args:
        path_or_name: One of

            - a file: ``.safetensors`` of :func:`alan.backbone.export_backbone`, Lightning ``.ckpt`` of ``alan
              fit``, or ``.pth`` of the original DINO (plain state dict or full training checkpoint);
            - the name of shipped weights, a file in ``checkpoints`` without its suffix;
            - timm's name of a vision transformer, such as ``vit_small_patch14_dinov2.lvd142m``: its published
              weights are fetched from the hub, unless ``weights`` gives them;
            - ``random:`` and the name of a network (``random:vit_small/4``, ``random:conv_small``, ``random:`` and
              a name of timm): untrained, for the baseline; ``seed`` chooses the weights.
        weights: File with the weights of a named network, where no hub can be reached.
        input_size: Side in pixels to which frames are resized; None uses the training size.
        stride: Distance between two tokens in pixels; None uses the default of the network. For a vision
            transformer it is a divisor of the patch size, which is its default; half of it doubles the density.
            For a convolutional network it is a divisor of the input size.
        **settings: Fields of the specification that replace those of the file or that need not be guessed, such as
            ``heads`` of a plain state dict, ``normalisation``, or ``feature_levels`` of a convolutional network
            (see :class:`alan.backbone.ConvSpec`); None leaves a field unchanged. Also ``prefix``, with which the
            names of the tensors begin in a checkpoint with several networks.

    Raises:
        CheckpointError: The weights are missing, truncated, unsafe, of another architecture, or on a hub that
            cannot be reached.
        ParameterError: An input size, a stride or a setting that does not fit the network.

    Examples:
        >>> backbone = load_backbone("random:vit_tiny/16", image_size=64)
        >>> backbone.dim, backbone.grid
        (192, 4)
    """
    name, options = split_source(path_or_name)
    if weights is not None:
        options["weights"] = os.fspath(weights)
    options |= {key: value for key, value in settings.items() if value is not None}
    network, spec = _load(name, options)
    return spec.lock(network, input_size, stride)


def random_backbone(
    spec: BackboneSpec, seed: int = 0, *, input_size: int | None = None, stride: int | None = None
) -> Backbone:
    """Lock an untrained network, the baseline of every experiment.

    Args:
        spec: Specification of the network.
        seed: Seed of the weights; the same seed gives the same weights.
        input_size: Side in pixels to which frames are resized; None uses the training size.
        stride: Distance between two tokens in pixels; None uses the default of the type.
    """
    return spec.lock(spec.build_seeded(seed), input_size, stride)


def random_like(backbone: Backbone, seed: int = 0) -> Backbone:
    """Lock an untrained network of the same specification, input size and stride, on the same device."""
    other = random_backbone(backbone.spec, seed, input_size=backbone.input_size, stride=backbone.stride)
    return other.to(backbone.device)


def split_source(source: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """Split ``NAME?key=value&key=value`` into the name and its options, values read as YAML.

    An existing path is the name as a whole, whatever characters it contains.

    Raises:
        ParameterError: An option without a value.
    """
    text = os.fspath(source)
    name, mark, query = text.partition("?")
    if not mark or Path(text).exists():
        return text, {}
    options = {}
    for part in query.split("&"):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ParameterError(
                f"{text!r}: {part!r} is not an option: give NAME?key=value, such as {name}?seed=0"
            )
        options[key] = yaml.safe_load(value)
    return name, options


def _load(name: str, options: dict[str, Any]) -> tuple[nn.Module, BackboneSpec]:
    if name.startswith(_RANDOM):
        return _build_untrained(name.removeprefix(_RANDOM), options)
    prefix, file = options.pop("prefix", None), options.pop("weights", None)
    path = shipped_or_path(name)
    if path.exists() or path.suffix in _SUFFIXES:
        if file is not None:
            raise ParameterError(f"{name}: is a file itself: give weights with the name of a network only")
        return network_from_weights(read_weights(path, prefix), str(path), options)
    cls, known = _find_type(name, [*shipped(), "random:vit_small/4"])
    if file is not None:
        return network_from_weights(read_weights(file, prefix), str(file), {**known, **options}, cls)
    check_fields(cls, options, name)
    spec = cls(**{**known, **options})
    return spec.pretrained(name), spec


def _build_untrained(name: str, options: dict[str, Any]) -> tuple[nn.Module, BackboneSpec]:
    cls, known = _find_type(name, [])
    check_fields(cls, options, _RANDOM + name, "seed")
    seed = options.pop("seed", 0)
    if not isinstance(seed, int) or seed < 0:
        raise ParameterError(f"seed is {seed!r}: give a whole number of at least 0")
    spec = cls(**{**known, **options})
    return spec.build_seeded(seed), spec


def _find_type(name: str, others: list[str]) -> tuple[type[BackboneSpec], dict[str, Any]]:
    """Find the type that accepts a name, and the fields of that name."""
    for cls in BACKBONES.values():
        known = cls.parse_name(name)
        if known is not None:
            return cls, known
    names = [other for cls in BACKBONES.values() for other in cls.names()]
    raise CheckpointError(f"{name}: no such file and no known name: {nearest(name, [*others, *names])}")
