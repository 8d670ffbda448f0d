"""Vision transformers of timm by name, with their own options: LayerScale, registers, rotary positions."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from alan.backbone.base import check_multiple
from alan.backbone.kinds import Normalisation
from alan.backbone.normalise import normalise
from alan.backbone.vit import TransformerSpec
from alan.bounds import NonNegativeInt, bounded
from alan.errors import CheckpointError, ParameterError, nearest


@bounded
@dataclass(frozen=True)
class TimmSpec(TransformerSpec):
    """A vision transformer of timm by its name, such as ``vit_small_patch14_dinov2.lvd142m``.

    Networks of timm's classes ``VisionTransformer`` and ``Eva`` are taken: DINO, DINOv2, DINOv3, DeiT III, CLIP,
    SigLIP, EVA and the rotary ones among others.

    Attributes:
        name: timm's name of the network; the tag after the dot names its published weights.
        image_size: Side of the training images in pixels, a multiple of the patch size; 0: that of the name.
        in_chans: Channels of the input, 1 or 3 (grey values repeated).
        normalisation: Normalisation of grey values, see :func:`alan.backbone.normalise.normalise`; ``imagenet``
            takes the mean and the standard deviation that timm states for the name.
        options: Keyword arguments of timm's network, such as ``{depth: 6, reg_tokens: 4, init_values: 1.0e-5}``,
            in place of those of the name.

    Raises:
        ParameterError: The name is unknown or no vision transformer, or timm refuses the options.
    """

    kind: ClassVar[str] = "timm"

    name: str
    image_size: NonNegativeInt = 0
    in_chans: Literal[1, 3] = 3
    normalisation: Normalisation = "imagenet"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import timm

        if not timm.is_model(self.name):
            raise ParameterError(f"unknown network {self.name!r}: {nearest(self.name, timm.list_models('vit_*'))}")
        if not self.image_size:
            object.__setattr__(self, "image_size", self._published_config().input_size[-1])
        check_multiple(self.image_size, self.patch_size)

    def _published_config(self) -> Any:
        """Return timm's configuration of the published weights: image size, mean and standard deviation."""
        import timm

        return timm.get_pretrained_cfg(self.name)

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return _shape(self.name, json.dumps(self.options, sort_keys=True))[0]

    @property
    def dim(self) -> int:
        """Width of a token."""
        return _shape(self.name, json.dumps(self.options, sort_keys=True))[1]

    def identity(self) -> dict[str, Any]:
        """Return the settings that the fingerprint of a locked network covers besides its weights."""
        facts = self._published_config()
        return {
            "kind": self.kind,
            "network": self.name.partition(".")[0],
            "options": dict(self.options),
            "normalisation": self.normalisation,
            "mean": list(facts.mean),
            "std": list(facts.std),
        }

    def normalise(self, images: Tensor, sector: Tensor | None = None) -> Tensor:
        """Normalise grey images; ``imagenet`` by the mean and the standard deviation that timm states."""
        facts = self._published_config()
        return normalise(images, self.normalisation, self.in_chans, sector, mean=facts.mean, std=facts.std)

    def build(self, drop_path: float = 0.0) -> nn.Module:
        """Build timm's network without a classifier; any image size that is a multiple of the patch is accepted.

        Args:
            drop_path: Probability of stochastic depth in the last block, rising linearly from 0 in the first.
        """
        return _create(
            self.name,
            {**self.options, "img_size": self.image_size, "in_chans": self.in_chans, "drop_path_rate": drop_path},
        )

    def pretrained(self, name: str) -> nn.Module:
        """Download the network with its published weights from the hub.

        Raises:
            CheckpointError: The hub cannot be reached, or has no weights of the name.
        """
        options = {**self.options, "img_size": self.image_size, "in_chans": self.in_chans}
        try:
            return _create(name, options, pretrained=True)
        except Exception as error:  # errors of the hub client have no common base class
            raise CheckpointError(
                f"{name}: the hub gave no weights ({type(error).__name__}): check the network, or download the "
                "file once and give it as weights"
            ) from error

    @classmethod
    def from_weights(cls, tensors: Mapping[str, Tensor], origin: str, known: Mapping[str, Any]) -> TimmSpec | None:
        """Accept a file as weights of a name; the image size is derived from a square grid of positions."""
        if "name" not in known:
            return None
        spec = cls(**known)
        positions = tensors.get("pos_embed")
        if known.get("image_size") or positions is None or positions.ndim != 3:
            return spec
        network = spec.build()
        prefix = 0 if getattr(network, "no_embed_class", False) else int(getattr(network, "num_prefix_tokens", 1))
        for extra in (prefix, 1):  # the original DINOv2 files have a position for the CLS token alone
            side = math.isqrt(max(0, positions.shape[1] - extra))
            if side and side**2 + extra == positions.shape[1]:
                return cls(**{**known, "image_size": side * spec.patch_size})
        return spec

    @classmethod
    def parse_name(cls, name: str) -> dict[str, Any] | None:
        """Return the fields of a name of timm, with or without a tag."""
        import timm

        return {"name": name} if timm.is_model(name) else None

    @classmethod
    def names(cls) -> list[str]:
        """List some well-known names."""
        return [
            "vit_small_patch8_224.dino",
            "vit_small_patch14_dinov2.lvd142m",
            "vit_small_patch16_dinov3.lvd1689m",
        ]

    def convert(self, tensors: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
        """Rename and resize the tensors of a file as timm does for its own weights."""
        found: Mapping[str, Tensor] = sys.modules[type(network).__module__].checkpoint_filter_fn(
            dict(tensors), network
        )
        return found


def _create(name: str, options: Mapping[str, Any], pretrained: bool = False) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model(
        name, pretrained=pretrained, num_classes=0, dynamic_img_size=True, **options
    )
    return network


@cache
def _shape(name: str, options: str) -> tuple[int, int]:
    """Return patch size and width of a network, built on the ``meta`` device.

    Raises:
        ParameterError: It is not a vision transformer with square patches of the image, or the options are wrong.
    """
    import timm
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    family = timm.model_entrypoint(name).__module__
    if family not in (VisionTransformer.__module__, Eva.__module__):
        raise ParameterError(
            f"{name}: another architecture ({family}): choose a vision transformer of timm, such as vit_..."
        )
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network: Any = _create(name, json.loads(options))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ParameterError(f"{name}: timm refuses the options {options}: {error}") from error
    return network.patch_embed.patch_size[0], int(network.embed_dim)
