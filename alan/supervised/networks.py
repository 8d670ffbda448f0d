"""Segmentation networks by name: encoders and decoders of segmentation_models_pytorch, and the ACDC U-Net."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Sequence
from textwrap import shorten
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alan.backbone.conv import ConvBlock
from alan.backbone.kinds import Normalisation
from alan.backbone.normalise import normalise
from alan.bounds import PositiveInt, bounded
from alan.errors import ParameterError, is_out_of_memory, nearest
from alan.extras import third_party
from alan.supervised.settings import PLAIN, DropoutPlace, NetworkSpec
from alan.supervised.weights import hub_weights, is_file, load_encoder

#: Channels of each level of the published network, the bottleneck last.
WIDTHS = (64, 128, 256, 512, 1024)
#: Decoders whose channels can be chosen level by level, and the default channels.
_CHANNELS = ("unet", "unetplusplus", "manet")
_DEFAULT_CHANNELS = (256, 128, 64, 32, 16)
#: Errors that third parties raise for a pair, depth or size that they cannot build.
_REFUSALS = (ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, AssertionError)
_log = logging.getLogger(__name__)


@bounded
class UNet(nn.Module):
    """U-Net with max pooling and 2 x 2 transposed convolutions (U-Net on ACDC, section 2.5, figure 4).

    The published network has four levels of 64 to 512 channels above a bottleneck of 1024; at 256 px the
    bottleneck is 16 x 16.

    Args:
        in_channels: Channels of the image.
        classes: Channels of the logits.
        widths: Channels of each level from the top, the bottleneck last; at least two.

    Attributes:
        stride: Height and width of an image must be multiples of it, ``2 ** (len(widths) - 1)``.

    Raises:
        ParameterError: There are fewer than two widths.
    """

    def __init__(
        self, in_channels: PositiveInt = 1, classes: PositiveInt = 1, widths: Sequence[PositiveInt] = WIDTHS
    ) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ParameterError(f"widths is {tuple(widths)}: give at least two")
        levels = len(widths) - 1
        self.stride = int(2**levels)
        self.encoder = nn.ModuleList(
            ConvBlock(a, b) for a, b in zip((in_channels, *widths[:-1]), widths, strict=True)
        )
        self.decoder = nn.ModuleList()
        for wide, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.decoder.append(nn.ConvTranspose2d(wide, width, 2, 2))
            self.decoder.append(ConvBlock(2 * width, width))
        self.segmentation_head = nn.Sequential(nn.Conv2d(widths[0], classes, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, in_channels, H, W) to logits (B, classes, H, W); H and W are multiples of the stride."""
        skips: list[Tensor] = []
        x = images
        for block in self.encoder:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        for index in range(0, len(self.decoder), 2):
            x = self.decoder[index](x)
            x = self.decoder[index + 1](torch.cat([skips.pop(), x], 1))
        logits: Tensor = self.segmentation_head(x)
        return logits


@bounded
def build_network(spec: NetworkSpec, classes: PositiveInt = 1) -> nn.Module:
    """Build a network, and try it on a small black image, so that a pair that cannot work fails here.

    Args:
        spec: Configuration of the network.
        classes: Number of channels of the logits.

    Returns:
        A module from (B, in_channels, H, W) to logits (B, classes, H, W) in training mode. H and W must be
        multiples of :func:`network_stride`, and at least :func:`network_minimum`.

    Raises:
        ParameterError: A name is unknown (the nearest are offered), or the pair cannot be built (the message gives
            a depth that would work).
        CheckpointError: Weights cannot be fetched or do not fit.
        ConfigError: The package segmentation_models_pytorch is not installed.
    """
    name, weights = decoder_name(spec.decoder), spec.encoder_weights
    if name == PLAIN:
        if spec.encoder is not None or weights is not None:
            raise ParameterError(f"{PLAIN} has no encoder to choose: set encoder and encoder_weights to null")
        network: nn.Module = UNet(spec.in_channels, classes, spec.decoder_channels or WIDTHS)
    else:
        source = encoder_name(spec.encoder)
        if spec.decoder_channels is not None and name not in _CHANNELS:
            raise ParameterError(
                f"{name} has no decoder_channels: set them to null, or take {', '.join((*_CHANNELS, PLAIN))}"
            )
        options: dict[str, Any] = {"in_channels": spec.in_channels, "classes": classes}
        options["decoder_channels"] = spec.decoder_channels
        network = _build(name, source, spec.depth, options)
        if weights is not None and is_file(weights):
            load_encoder(network.encoder, weights, source)
        elif weights is not None:
            with hub_weights(source, weights) as value:
                network = _assemble(name, source, spec.depth, weights=value, **options)
    if spec.norm == "instance":
        _use_instance_norm(network)
    if spec.dropout:
        _add_dropout(network, spec.dropout, spec.dropout_at)
    return network


def network_stride(network: nn.Module) -> int:
    """Return the number of pixels of which height and width of an image must be multiples."""
    if isinstance(network, UNet):
        return network.stride
    encoder: Any = network.encoder
    return int(encoder.output_stride)


def network_minimum(network: nn.Module) -> int:
    """Return the smallest height and width of an image in pixels; PAN halves the deepest features three times."""
    pan = third_party("segmentation_models_pytorch").PAN
    return network_stride(network) * (8 if isinstance(network, pan) else 1)


def decoder_name(name: str) -> str:
    """Return the name under which a decoder is built (``unet++`` is ``unetplusplus``).

    Raises:
        ParameterError: The name is unknown; the nearest one is offered.
    """
    known = [PLAIN, *third_party("segmentation_models_pytorch").MODEL_ARCHITECTURES_MAPPING]
    key = name.lower().replace("++", "plusplus").replace("+", "plus")
    if key not in known:
        raise ParameterError(f"unknown decoder {name!r}: {nearest(key, known)}")
    return key


def encoder_name(name: str | None) -> str:
    """Return the name under which an encoder is built (``tu-regnety_120`` for ``timm-regnety_120``).

    Raises:
        ParameterError: There is no name, or it is unknown; the nearest ones are offered.
    """
    if name is None:
        raise ParameterError(f"encoder is null: give one, for example resnet34; only {PLAIN} has none")
    timm = third_party("timm")
    known: list[str] = third_party("segmentation_models_pytorch").encoders.get_encoder_names()
    if name in known or (name.startswith("tu-") and timm.is_model(name[3:])):
        return name
    old = name.removeprefix("timm-")
    if old != name and timm.is_model(old):  # its name in old versions
        return f"tu-{old}"
    close = _closest(name, [*known, *(f"tu-{model}" for model in timm.list_models())])
    raise ParameterError(
        f"unknown encoder {name!r}: {close}give a name of segmentation_models_pytorch, or tu- and a name of timm"
    )


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}? " if close else ""


def _build(decoder: str, encoder: str, depth: int, options: dict[str, Any]) -> nn.Module:
    """Assemble and try a network with random weights; if that fails, the error names a depth that works."""
    try:
        return _try_build(decoder, encoder, depth, options)
    except _REFUSALS as error:
        if is_out_of_memory(error):
            raise
        reason = shorten(str(error), 160, placeholder=" ...") or type(error).__name__
        remedy = f"give {depth} decoder_channels, one per stage, or null for the default ones"
        if options["decoder_channels"] is None or len(options["decoder_channels"]) == depth:
            fits = next((d for d in (5, 4, 3, 2) if d != depth and _works(decoder, encoder, d, options)), None)
            remedy = f"depth {fits} would work" if fits else "no depth works: choose another encoder or decoder"
        raise ParameterError(
            f"{decoder} over {encoder} cannot be built with depth {depth} ({reason}): {remedy}"
        ) from error


def _works(decoder: str, encoder: str, depth: int, options: dict[str, Any]) -> bool:
    try:
        _try_build(decoder, encoder, depth, {**options, "decoder_channels": None})
    except _REFUSALS:
        return False
    return True


def _try_build(decoder: str, encoder: str, depth: int, options: dict[str, Any]) -> nn.Module:
    network: nn.Module = _assemble(decoder, encoder, depth, weights=None, **options).eval()
    size = max(64, network_minimum(network))
    with torch.no_grad():
        logits = network(torch.zeros(1, options["in_channels"], size, size))
    if logits.shape != (1, options["classes"], size, size):
        raise ValueError(f"an image of {size} x {size} gives {' x '.join(map(str, logits.shape[2:]))}")
    return network.train()


def _assemble(
    decoder: str,
    encoder: str,
    depth: int,
    *,
    weights: Any,
    in_channels: int,
    classes: int,
    decoder_channels: tuple[int, ...] | None,
) -> Any:
    options: dict[str, Any] = {}
    if decoder in _CHANNELS:
        options["decoder_channels"] = decoder_channels or _DEFAULT_CHANNELS[:depth]
    elif decoder == "fpn":  # it ends three stages above the deepest
        options["upsampling"] = 2 ** max(depth - 3, 0)
    elif decoder == "pspnet":  # it ends at the deepest stage
        options["upsampling"] = 2**depth
    elif decoder == "dpt":
        options["dynamic_img_size"] = True
    return third_party("segmentation_models_pytorch").create_model(
        decoder,
        encoder,
        encoder_weights=weights,
        encoder_depth=depth,
        in_channels=in_channels,
        classes=classes,
        **options,
    )


def _use_instance_norm(module: nn.Module) -> None:
    """Replace batch norms by instance norms, and ReLUs by leaky ones."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.InstanceNorm2d(child.num_features, affine=True))
        elif isinstance(child, nn.ReLU):
            setattr(module, name, nn.LeakyReLU(0.01, inplace=child.inplace))
        else:
            _use_instance_norm(child)


def _add_dropout(network: Any, probability: float, place: DropoutPlace) -> None:
    """Attach dropout layers to convolutions; the names of the weights do not change."""
    head = [m for m in network.segmentation_head.modules() if isinstance(m, nn.Conv2d)]
    inner = [m for m in network.decoder.modules() if isinstance(m, nn.Conv2d)]
    for conv in head[-1:] if place == "last" else inner:
        conv.add_module("dropout", nn.Dropout(probability))
        conv.register_forward_hook(_drop)


def _drop(module: Any, _: Any, output: Tensor) -> Any:
    return module.dropout(output)


class PaddedNetwork(nn.Module):
    """Segmentation network with padding, normalisation and cropping.

    Images whose height or width is not a multiple of the stride are padded with black below and on the right, and
    the logits are cropped back; a warning states this once.

    Args:
        spec: Configuration of the network.
        classes: Channels of the logits.
        normalisation: Normalisation of grey values, see :func:`alan.backbone.normalise.normalise`.

    Attributes:
        stride: Number of pixels of which height and width of the network's input are multiples.
        minimum: Smallest height and width of the network's input in pixels, a multiple of the stride.
    """

    def __init__(self, spec: NetworkSpec, classes: int, normalisation: Normalisation) -> None:
        super().__init__()
        network = build_network(spec, classes)
        self.network = network.to(memory_format=torch.channels_last)  # faster on a CPU
        self.stride, self.minimum = network_stride(self.network), network_minimum(self.network)
        self.channels, self.normalisation = spec.in_channels, normalisation
        self._warned = False

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 1, H, W) in 0..1 to logits (B, classes, H, W)."""
        height, width = images.shape[-2:]
        padded = pad_to_stride(images, self.stride, self.minimum)
        if padded.shape != images.shape and not self._warned:
            _log.warning(
                "images of %d x %d px are padded to %d x %d px: the network takes multiples of %d px",
                height,
                width,
                *padded.shape[-2:],
                self.stride,
            )
            self._warned = True
        logits: Tensor = self.network(normalise(padded, self.normalisation, self.channels))
        return logits[..., :height, :width]


def pad_to_stride(images: Tensor, stride: int, minimum: int = 0) -> Tensor:
    """Pad images (B, C, H, W) with zeros below and on the right.

    Height and width become multiples of the stride and at least the minimum, which is a multiple itself.
    """
    bottom, right = (max(side + -side % stride, minimum) - side for side in images.shape[-2:])
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images
