"""Segmentation networks by name: any encoder and decoder of segmentation_models_pytorch, and the ACDC U-Net."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import Tensor, nn

from alan.errors import ParameterError, nearest
from alan.extras import third_party
from alan.supervised.unet import WIDTHS, UNet
from alan.supervised.weights import hub_weights, is_file, load_encoder

#: The network in plain torch, :class:`alan.supervised.UNet`; it takes no encoder.
PLAIN = "unet_acdc"
#: Decoders with channels of their own, level by level, and their defaults.
_CHANNELS = ("unet", "unetplusplus", "manet")
_DEFAULT_CHANNELS = (256, 128, 64, 32, 16)
#: What third parties raise for a pair, depth or size that they cannot build.
_REFUSALS = (ValueError, RuntimeError, KeyError, IndexError, TypeError, AttributeError, AssertionError)

DropoutPlace = Literal["last", "decoder"]


@dataclass(frozen=True)
class NetworkSpec:
    """A network by names and numbers: the configuration of :func:`build_network`.

    Attributes:
        decoder: ``unet_acdc`` or a decoder of segmentation_models_pytorch (``unet``, ``unetplusplus``, ``manet``,
            ``linknet``, ``fpn``, ``pspnet``, ``deeplabv3``, ``deeplabv3plus``, ``pan``, ``upernet``,
            ``segformer``, ``dpt``).
        encoder: a name of segmentation_models_pytorch, or ``tu-`` and a name of timm; none for ``unet_acdc``.
        in_channels: 1, or 3 (the grey image three times).
        depth: stages of the encoder; ``unet_acdc`` has as many levels as it has channels.
        decoder_channels: channels of each level, for ``unet``, ``unetplusplus``, ``manet`` (from the bottom) and
            ``unet_acdc`` (from the top, the bottleneck last); default: those published.
        encoder_weights: None for random ones, a file, or the hub's by name (``imagenet``).
        dropout: probability of the dropout layers, 0 for none.
        dropout_at: after the ``last`` convolution only, or after every convolution of the ``decoder``.
    """

    decoder: str = "unet"
    encoder: str | None = "resnet34"
    in_channels: int = 1
    depth: int = 5
    decoder_channels: tuple[int, ...] | None = None
    encoder_weights: str | None = None
    dropout: float = 0.0
    dropout_at: DropoutPlace = "last"

    def build(self, classes: int) -> nn.Module:
        """Build the network, see :func:`build_network`."""
        return build_network(**asdict(self), classes=classes)

    def to_dict(self) -> dict[str, Any]:
        """The attributes, JSON-able."""
        return asdict(self)


def build_network(
    decoder: str,
    encoder: str | None,
    *,
    in_channels: int = 1,
    classes: int = 1,
    encoder_weights: str | None = None,
    depth: int = 5,
    decoder_channels: tuple[int, ...] | None = None,
    dropout: float = 0.0,
    dropout_at: DropoutPlace = "last",
) -> nn.Module:
    """Build a segmentation network; its arguments are explained at :class:`NetworkSpec`.

    The network is tried on a small black image, so that a pair that cannot work fails here.

    Args:
        decoder: name of the decoder.
        encoder: name of the encoder.
        in_channels: 1 or 3.
        classes: channels of the logits, 1 or more.
        encoder_weights: None, a file, or the hub's by name.
        depth: stages of the encoder.
        decoder_channels: channels of each level.
        dropout: in 0..1, 1 excluded.
        dropout_at: ``last`` or ``decoder``.

    Returns:
        A module from (B, in_channels, H, W) to logits (B, classes, H, W) in training mode; H and W are multiples
        of :func:`network_stride`, and :func:`network_minimum` at least.

    Raises:
        ParameterError: an unknown name (the nearest are offered), a value out of range, or a pair that cannot be
            built (the message says which depth would work).
        CheckpointError: weights that cannot be fetched or do not fit.
        ConfigError: segmentation_models_pytorch is not installed.
    """
    if in_channels not in (1, 3):
        raise ParameterError(f"in_channels is {in_channels}: images are grey, take 1, or 3 for three times grey")
    if classes < 1 or not 0 <= dropout < 1:
        raise ParameterError(f"classes {classes} must be 1 or more, dropout {dropout} in 0..1 (1 excluded)")
    if dropout_at not in ("last", "decoder"):
        raise ParameterError(f"unknown dropout_at {dropout_at!r}: {nearest(dropout_at, ('last', 'decoder'))}")
    name = decoder_name(decoder)
    if name == PLAIN:
        if encoder is not None or encoder_weights is not None:
            raise ParameterError(f"{PLAIN} has no encoder to choose: set encoder and encoder_weights to null")
        network: nn.Module = UNet(in_channels, classes, decoder_channels or WIDTHS)
    else:
        source = encoder_name(encoder)
        if decoder_channels is not None and name not in _CHANNELS:
            raise ParameterError(
                f"{name} has no decoder_channels: set them to null, or take {', '.join((*_CHANNELS, PLAIN))}"
            )
        options: dict[str, Any] = {"in_channels": in_channels, "classes": classes}
        options["decoder_channels"] = decoder_channels
        network = _build(name, source, depth, options)
        if encoder_weights is not None and is_file(encoder_weights):
            load_encoder(network.encoder, encoder_weights, source)
        elif encoder_weights is not None:
            weights = hub_weights(source, encoder_weights)
            with weights.explained():
                network = _assemble(name, source, depth, weights=weights.value, **options)
    if dropout:
        _add_dropout(network, dropout, dropout_at)
    return network


def network_stride(network: nn.Module) -> int:
    """Number of pixels of which the sides of an image must be multiples."""
    if isinstance(network, UNet):
        return network.stride
    encoder: Any = network.encoder
    return int(encoder.output_stride)


def network_minimum(network: nn.Module) -> int:
    """Smallest side of an image in pixels: PAN halves the deepest features three times more."""
    pan = third_party("segmentation_models_pytorch").PAN
    return network_stride(network) * (8 if isinstance(network, pan) else 1)


def decoder_name(name: str) -> str:
    """The name under which a decoder is built (``unet++`` is ``unetplusplus``).

    Raises:
        ParameterError: an unknown name; the nearest is offered.
    """
    known = [PLAIN, *third_party("segmentation_models_pytorch").MODEL_ARCHITECTURES_MAPPING]
    key = name.lower().replace("++", "plusplus").replace("+", "plus")
    if key not in known:
        raise ParameterError(f"unknown decoder {name!r}: {nearest(key, known)}")
    return key


def encoder_name(name: str | None) -> str:
    """The name under which an encoder is built (``timm-regnety_120`` of earlier versions is ``tu-regnety_120``).

    Raises:
        ParameterError: no name, or an unknown one; the nearest are offered.
    """
    if name is None:
        raise ParameterError(f"encoder is null: only {PLAIN} has none; take resnet34, for example")
    timm = third_party("timm")
    known: list[str] = third_party("segmentation_models_pytorch").encoders.get_encoder_names()
    if name in known or (name.startswith("tu-") and timm.is_model(name[3:])):
        return name
    old = name.removeprefix("timm-")
    if old != name and timm.is_model(old):  # the name of earlier versions
        return f"tu-{old}"
    close = _closest(name, [*known, *(f"tu-{model}" for model in timm.list_models())])
    raise ParameterError(
        f"unknown encoder {name!r}: {close}take a name of segmentation_models_pytorch, or tu- and a name of timm"
    )


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"did you mean {', '.join(close)}? " if close else ""


def _build(decoder: str, encoder: str, depth: int, options: dict[str, Any]) -> nn.Module:
    """Assemble and try a network with random weights; say what would work where it does not."""
    try:
        return _tried(decoder, encoder, depth, options)
    except _REFUSALS as error:
        reason = shorten(str(error), 160, placeholder=" ...") or type(error).__name__
        remedy = f"give {depth} decoder_channels, one a stage, or null for the usual ones"
        if options["decoder_channels"] is None or len(options["decoder_channels"]) == depth:
            fits = next((d for d in (5, 4, 3, 2) if d != depth and _works(decoder, encoder, d, options)), None)
            remedy = f"depth {fits} would work" if fits else "no depth works: choose another encoder or decoder"
        raise ParameterError(
            f"{decoder} over {encoder} cannot be built with depth {depth} ({reason}): {remedy}"
        ) from error


def _works(decoder: str, encoder: str, depth: int, options: dict[str, Any]) -> bool:
    try:
        _tried(decoder, encoder, depth, {**options, "decoder_channels": None})
    except _REFUSALS:
        return False
    return True


def _tried(decoder: str, encoder: str, depth: int, options: dict[str, Any]) -> nn.Module:
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


def _add_dropout(network: Any, probability: float, place: DropoutPlace) -> None:
    """Hang a dropout layer on convolutions: the names of the weights stay as they are."""
    head = [m for m in network.segmentation_head.modules() if isinstance(m, nn.Conv2d)]
    inner = [m for m in network.decoder.modules() if isinstance(m, nn.Conv2d)]
    for conv in head[-1:] if place == "last" else inner:
        conv.add_module("dropout", nn.Dropout(probability))
        conv.register_forward_hook(_drop)


def _drop(module: Any, _: Any, output: Tensor) -> Any:
    return module.dropout(output)
