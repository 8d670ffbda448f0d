"""Vision transformers: their common base, and small ones of ALAN.

timm is imported where a network is built: the import takes seconds, and convolutional backbones do not need it.
"""

from __future__ import annotations

import re
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from alan.backbone.base import Backbone, BackboneSpec, Features, Tokens, check_multiple
from alan.backbone.kinds import Normalisation
from alan.bounds import PositiveFloat, PositiveInt, bounded
from alan.errors import AlanWarning, CheckpointError, ParameterError

Initialisation = Literal["timm", "xavier"]

#: Mapping from name to (dim, depth, heads); used as ``vit_small/4``, the number being the patch size.
PRESETS = {
    "vit_demo": (128, 4, 4),
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
}
#: Channels of one attention head in almost every published vision transformer.
_CHANNELS_OF_A_HEAD = 64


class TransformerSpec(BackboneSpec):
    """Base of the types whose network is a vision transformer of timm."""

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Side of a patch in pixels."""

    @property
    def multiple(self) -> int:
        """Number of pixels of which height and width of an image must be multiples: the patch size."""
        return self.patch_size

    @property
    def token_size(self) -> int:
        """Distance in pixels between two patches."""
        return self.patch_size

    @property
    def widths_of_tokens(self) -> tuple[int, int]:
        """Widths of the CLS token and of the patch tokens."""
        return self.dim, self.dim

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return the settings that the fingerprint of a locked network covers besides its weights."""

    def tokens(self, network: Any, images: Tensor) -> Tokens:
        """Compute the CLS token and the patch tokens after the final norm, with gradients.

        A network without a CLS token gives the mean of its patch tokens in its place.
        """
        tokens: Tensor = network.forward_features(images)
        height, width = (side // self.patch_size for side in images.shape[-2:])
        grid = tokens[:, network.num_prefix_tokens :].reshape(tokens.shape[0], height, width, -1)
        return Tokens(tokens[:, 0] if network.cls_token is not None else grid.mean((1, 2)), grid)

    def lock(self, network: nn.Module, input_size: int | None = None, stride: int | None = None) -> VitBackbone:
        """Freeze a network, see :class:`VitBackbone`."""
        if not hasattr(network, "num_prefix_tokens"):
            raise ParameterError(f"a {type(network).__name__} does not fit a {type(self).__name__}")
        return VitBackbone(network, self, input_size, stride)


@bounded
@dataclass(frozen=True)
class VitSpec(TransformerSpec):
    """A plain vision transformer of any size; the default is the paper's ViT-S/4 at 112 px.

    Attributes:
        image_size: Side of the training images in pixels, a multiple of ``patch_size``.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the input, 1 or 3 (grey values repeated).
        dim: Width of a token, a multiple of ``heads``.
        depth: Number of transformer blocks.
        heads: Number of attention heads.
        mlp_ratio: Width of the MLP of a block over ``dim``.
        normalisation: Normalisation of grey values, see :func:`alan.backbone.normalise.normalise`.
        initialisation: Initial weights: ``timm`` (the paper's truncated normal, 0.02) or ``xavier`` (Xavier linear
            layers and patches, sine-cosine positions x 0.5), without which a narrow network does not learn in
            minutes.

    Raises:
        ParameterError: A value is out of range, or two do not go together.
    """

    kind: ClassVar[str] = "vit"
    apart: ClassVar[frozenset[str]] = frozenset({"initialisation"})

    image_size: PositiveInt = 112
    patch_size: PositiveInt = 4
    in_chans: Literal[1, 3] = 3
    dim: PositiveInt = 384
    depth: Annotated[int, Interval(ge=1, le=1000)] = 12
    heads: PositiveInt = 6
    mlp_ratio: PositiveFloat = 4.0
    normalisation: Normalisation = "imagenet"
    initialisation: Initialisation = "timm"

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ParameterError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        if self.initialisation == "xavier" and self.dim % 4:
            raise ParameterError(f"dim {self.dim} is not a multiple of 4, which sine-cosine positions need")
        check_multiple(self.image_size, self.patch_size)

    def identity(self) -> dict[str, Any]:
        """Return the settings that the fingerprint of a locked network covers besides its weights."""
        return {"patch_size": self.patch_size, "heads": self.heads, "normalisation": self.normalisation}

    def build(self, drop_path: float = 0.0) -> nn.Module:
        """Build timm's network without a classifier; any image size that is a multiple of the patch is accepted.

        Args:
            drop_path: Probability of stochastic depth in the last block, rising linearly from 0 in the first.
        """
        from timm.models.vision_transformer import VisionTransformer

        vit: nn.Module = VisionTransformer(
            img_size=self.image_size,
            patch_size=self.patch_size,
            in_chans=self.in_chans,
            num_classes=0,
            embed_dim=self.dim,
            depth=self.depth,
            num_heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            dynamic_img_size=True,
            drop_path_rate=drop_path,
        )
        if self.initialisation == "xavier":
            _initialise_xavier(vit, self)
        return vit

    @classmethod
    def from_weights(cls, tensors: Mapping[str, Tensor], origin: str, known: Mapping[str, Any]) -> VitSpec | None:
        """Derive the specification from a plain state dict in the naming of the original DINO.

        The number of attention heads cannot be read from the shapes: unless it is given, one per 64 channels is
        assumed, with a warning.
        """
        ranks = {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4, "blocks.0.mlp.fc1.weight": 2}
        if not any(name in tensors for name in ranks):
            return None
        for name, rank in ranks.items():
            if name not in tensors:
                raise CheckpointError(
                    f"{origin}: another architecture: {name!r} is missing, so it is not a plain ViT: give "
                    "timm's name of the network and this file: NAME?weights=FILE"
                )
            if tensors[name].ndim != rank:
                raise CheckpointError(
                    f"{origin}: another architecture: {name!r} has the shape {tuple(tensors[name].shape)}"
                )
        dim, in_chans, patch, _ = tensors["patch_embed.proj.weight"].shape
        side = round((tensors["pos_embed"].shape[1] - 1) ** 0.5)
        blocks = {int(found.group(1)) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}
        try:
            return cls(
                **{
                    "image_size": side * patch,
                    "patch_size": patch,
                    "in_chans": in_chans,
                    "dim": dim,
                    "depth": max(blocks) + 1,
                    "heads": known.get("heads") or _guess_heads(dim, origin),
                    "mlp_ratio": tensors["blocks.0.mlp.fc1.weight"].shape[0] / dim,
                    **known,
                }
            )
        except ParameterError as error:
            raise CheckpointError(f"{origin}: another architecture: {error}") from error

    @classmethod
    def parse_name(cls, name: str) -> dict[str, Any] | None:
        """Return the fields of a preset such as ``vit_small/4``; the patch size follows the slash."""
        preset, _, patch = name.partition("/")
        if preset not in PRESETS or not patch.isdecimal():
            return None
        dim, depth, heads = PRESETS[preset]
        return {"patch_size": int(patch), "dim": dim, "depth": depth, "heads": heads}

    @classmethod
    def names(cls) -> list[str]:
        """List the presets with two patch sizes."""
        return [f"{preset}/{size}" for preset in PRESETS for size in (4, 8)]


def _guess_heads(dim: int, origin: str) -> int:
    if dim % _CHANNELS_OF_A_HEAD:
        raise CheckpointError(
            f"{origin}: does not say how many attention heads the network of width {dim} has: give heads"
        )
    heads = dim // _CHANNELS_OF_A_HEAD
    warnings.warn(
        f"{origin}: does not say how many attention heads the network has; {heads} are assumed, one per "
        f"{_CHANNELS_OF_A_HEAD} channels. Give heads={heads}, or the right number, to silence this warning",
        AlanWarning,
        stacklevel=2,
    )
    return heads


@torch.no_grad()
def _initialise_xavier(vit: Any, spec: VitSpec) -> None:
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

    for module in vit.blocks.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.view(spec.dim, -1))
    nn.init.normal_(vit.cls_token, std=0.5)
    side = spec.image_size // spec.patch_size
    vit.pos_embed[:, 1:] = 0.5 * build_sincos2d_pos_embed([side, side], dim=spec.dim)


class VitBackbone(Backbone):
    """A frozen vision transformer: the CLS token and the patch tokens of the last block after the final norm.

    Register tokens are left out. A network without a CLS token gives the mean of its patch tokens.

    Args:
        vit: The network; it is frozen in place.
        spec: Its specification.
        input_size: Side in pixels to which frames are resized, a multiple of the patch size; None uses the
            size of the training images. Positions are interpolated.
        stride: Distance between two tokens in pixels, a divisor of the patch size; None uses the patch size.
            Patches overlap below it, and the grid has ``(input_size - patch_size) / stride + 1`` tokens along one
            side.

    Raises:
        ParameterError: A size that is not a multiple of the patch, a stride that does not divide it, or
            overlapping patches of a network whose positions are not a learned grid.
    """

    spec: TransformerSpec
    positions: Tensor | None

    def __init__(
        self, vit: nn.Module, spec: TransformerSpec, input_size: int | None = None, stride: int | None = None
    ) -> None:
        patch = spec.patch_size
        super().__init__(vit, spec, input_size, patch if stride is None else stride, spec.identity())
        check_multiple(self.input_size, patch)
        divisors = [s for s in range(1, patch + 1) if patch % s == 0]
        if self.stride not in divisors:
            raise ParameterError(
                f"stride {self.stride} does not divide the patch size {patch}: use one of {divisors}"
            )
        self.grid = (self.input_size - patch) // self.stride + 1
        self.register_buffer("positions", None if self.stride == patch else self._positions(), persistent=False)

    @property
    def _window(self) -> int:
        return self.spec.patch_size

    def _features(self, normalised: Tensor, images: Tensor) -> Features:
        if self.positions is None:
            frame, grid = self.spec.tokens(self.network, normalised)
            return Features(frame.float(), grid.float())
        vit = self.network
        projection = vit.patch_embed.proj
        x = F.conv2d(normalised, projection.weight, projection.bias, stride=self.stride)
        x = x.flatten(2).transpose(1, 2)  # (B, h w, D)
        n = x.shape[0]  # not len(x), which would fix the size of the batch in an exported program
        prefix = [token.expand(n, -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None]
        if vit.no_embed_class:
            x = torch.cat([*prefix, x + self.positions], dim=1)
        else:
            x = torch.cat([*prefix, x], dim=1) + self.positions
        x = vit.norm(vit.blocks(vit.norm_pre(x))).float()
        grid = x[:, vit.num_prefix_tokens :].reshape(n, self.grid, self.grid, self.dim)
        return Features(x[:, 0] if vit.cls_token is not None else grid.mean((1, 2)), grid)

    @torch.no_grad()
    def _positions(self) -> Tensor:
        """Compute the position embedding (1, prefix + h w, D) of overlapping patches.

        Token i sits at the coordinate ``i stride / patch`` of the grid without overlap: bicubic interpolation
        between the centres of the outermost patches (``align_corners``) gives exactly that.
        """
        from timm.layers.pos_embed import resample_abs_pos_embed
        from timm.models.vision_transformer import VisionTransformer

        vit = self.network
        if not isinstance(vit, VisionTransformer) or vit.pos_embed is None:
            raise ParameterError(
                f"stride {self.stride}: overlapping patches need a learned grid of positions, which this "
                f"{type(vit).__name__} does not have: use the patch size {self.spec.patch_size}"
            )
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        base = self.input_size // self.spec.patch_size
        position: Tensor = resample_abs_pos_embed(
            vit.pos_embed, [base, base], list(vit.patch_embed.grid_size), num_prefix_tokens=prefix
        )
        patches = position[:, prefix:].reshape(1, base, base, self.dim).permute(0, 3, 1, 2)
        patches = F.interpolate(patches, (self.grid, self.grid), mode="bicubic", align_corners=True)
        return torch.cat([position[:, :prefix], patches.flatten(2).transpose(1, 2)], dim=1)
