"""The vision transformer: a specification that travels with the weights, and timm's network built from it.

timm is imported where a ViT is built: it takes seconds, and convolutional backbones do without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from alan.backbone.normalise import Normalisation
from alan.errors import ParameterError, nearest

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

Initialisation = Literal["timm", "xavier"]

#: Name to (dim, depth, heads); used as ``vit_small/4``, the number being the patch size.
PRESETS = {
    "vit_demo": (128, 4, 4),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
}


@dataclass(frozen=True)
class VitSpec:
    """All that is needed to build the network and to feed it; the default is the paper's ViT-S/4 at 112 px.

    Attributes:
        image_size: side of the training image in pixels, a multiple of ``patch_size``.
        patch_size: side of a patch in pixels.
        in_chans: 1 or 3 (grey repeated).
        dim: width of a token; a multiple of ``heads``.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: width of the block's MLP over ``dim``.
        normalisation: see :func:`alan.backbone.normalise.normalise`.
        initialisation: ``timm`` (the paper's: truncated normal, 0.02) or ``xavier`` (Xavier linear layers and
            patches, sine-cosine positions x 0.5), without which a narrow network does not learn in minutes.
    """

    image_size: int = 112
    patch_size: int = 4
    in_chans: int = 3
    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    normalisation: Normalisation = "imagenet"
    initialisation: Initialisation = "timm"

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "dim", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.in_chans not in (1, 3):
            raise ParameterError(f"in_chans is {self.in_chans}: it must be 1 or 3 (grey repeated)")
        if self.dim % self.heads:
            raise ParameterError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.normalisation not in get_args(Normalisation):
            raise ParameterError(
                f"unknown normalisation {self.normalisation!r}: "
                f"{nearest(self.normalisation, get_args(Normalisation))}"
            )
        if self.initialisation not in get_args(Initialisation):
            raise ParameterError(
                f"unknown initialisation {self.initialisation!r}: "
                f"{nearest(self.initialisation, get_args(Initialisation))}"
            )
        if self.initialisation == "xavier" and self.dim % 4:
            raise ParameterError(f"dim {self.dim} is not a multiple of 4, which sine-cosine positions need")
        check_size(self.image_size, self.patch_size)

    @property
    def grid(self) -> int:
        """Patches along one side of the training image."""
        return self.image_size // self.patch_size

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON."""
        return asdict(self)


def check_size(size: int, patch_size: int, name: str = "image size") -> None:
    """Refuse an image size that is not a multiple of the patch.

    Args:
        size: side in pixels.
        patch_size: side of a patch in pixels.
        name: what the message calls the size.

    Raises:
        ParameterError: with the two nearest sizes that would work.
    """
    if size % patch_size or size < patch_size:
        below = size // patch_size * patch_size
        works = f"{below} or {below + patch_size}" if below else str(patch_size)
        raise ParameterError(f"{name} {size} is not a multiple of the patch size {patch_size}: use {works}")


def named_spec(name: str, **changes: Any) -> VitSpec:
    """Specification by name.

    Args:
        name: ``vit_small/4`` and the like, see :data:`PRESETS`; the patch size follows the slash.
        **changes: fields of :class:`VitSpec` to set.

    Raises:
        ParameterError: the name is unknown.
    """
    base, _, patch = name.partition("/")
    if base not in PRESETS or not patch.isdecimal():
        known = [f"{preset}/{size}" for preset in PRESETS for size in (4, 8)]
        raise ParameterError(f"unknown network {name!r}: {nearest(name, known)}")
    dim, depth, heads = PRESETS[base]
    return replace(VitSpec(patch_size=int(patch), dim=dim, depth=depth, heads=heads), **changes)


def build_vit(spec: VitSpec, drop_path: float = 0.0) -> VisionTransformer:
    """Build timm's network without a classifier; any image size that is a multiple of the patch goes in.

    Weights are drawn from torch's global generator; :func:`seeded_vit` does not touch it.

    Args:
        spec: what to build.
        drop_path: probability of stochastic depth in the last block, rising linearly from 0 in the first.
    """
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(
        img_size=spec.image_size,
        patch_size=spec.patch_size,
        in_chans=spec.in_chans,
        num_classes=0,
        embed_dim=spec.dim,
        depth=spec.depth,
        num_heads=spec.heads,
        mlp_ratio=spec.mlp_ratio,
        dynamic_img_size=True,
        drop_path_rate=drop_path,
    )
    if spec.initialisation == "xavier":
        _initialise_xavier(vit, spec)
    return vit


def seeded_vit(spec: VitSpec, seed: int, drop_path: float = 0.0) -> VisionTransformer:
    """:func:`build_vit` from a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_vit(spec, drop_path)


@torch.no_grad()
def _initialise_xavier(vit: Any, spec: VitSpec) -> None:
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

    for module in vit.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.view(spec.dim, -1))
    nn.init.normal_(vit.cls_token, std=0.5)
    vit.pos_embed[:, 1:] = 0.5 * build_sincos2d_pos_embed([spec.grid, spec.grid], dim=spec.dim)
