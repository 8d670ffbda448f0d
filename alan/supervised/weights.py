"""Weights of encoders, from a file or from the hub."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from alan.backbone.checkpoint import load_plain
from alan.errors import CheckpointError, ParameterError, nearest
from alan.extras import third_party

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def is_file(weights: str) -> bool:
    """Return whether the name is that of a file (by its suffix), not of weights on the hub."""
    return weights.endswith(_SUFFIXES)


@dataclass(frozen=True)
class HubWeights:
    """Weights that are fetched from the hub while the network is built.

    Attributes:
        encoder: Name of the encoder.
        name: Name of the weights.
        value: Value of ``encoder_weights`` in segmentation_models_pytorch.
    """

    encoder: str
    name: str
    value: Any

    @contextlib.contextmanager
    def explain_download(self) -> Iterator[None]:
        """Turn any error of the download into one line.

        Raises:
            CheckpointError: The hub cannot be reached, or has no such weights.
        """
        logger = logging.getLogger("huggingface_hub")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it logs every attempt
        try:
            yield
        except Exception as error:  # each version of the hub's client raises other classes
            reason = shorten(str(error), 140, placeholder=" ...") or type(error).__name__
            raise CheckpointError(
                f"weights {self.name!r} of {self.encoder} cannot be fetched from the hub ({reason}): "
                "give a file instead, or null for random weights"
            ) from error
        finally:
            logger.setLevel(level)


def hub_weights(encoder: str, name: str) -> HubWeights:
    """Check the name of weights on the hub.

    Args:
        encoder: Name of the encoder.
        name: Name of the weights, such as ``imagenet``. The weights of timm's encoders are part of the encoder's
            name (``tu-resnet18.a1_in1k``), and any name selects them.

    Raises:
        ParameterError: The encoder has no weights of this name.
    """
    if encoder.startswith("tu-"):
        return HubWeights(encoder, name, True)
    settings = third_party("segmentation_models_pytorch").encoders.encoders[encoder]["pretrained_settings"]
    if name not in settings:
        raise ParameterError(
            f"{encoder} has no weights {name!r}: {nearest(name, settings)}; a file ends in {', '.join(_SUFFIXES)}"
        )
    return HubWeights(encoder, name, name)


def load_encoder(encoder: Any, path: str, name: str) -> None:
    """Load the weights of an encoder; for grey images, the first convolution is summed over the three colours.

    Args:
        encoder: The network's encoder.
        path: ``.safetensors`` or a file of ``torch.save`` (read with ``weights_only=True``): a state dict of the
            encoder, or of a network with the prefix ``encoder.`` or ``model.``. Other weights, such as those of a
            classifier, are ignored.
        name: The encoder's name, for messages.

    Raises:
        CheckpointError: The file is missing, truncated, holds no plain tensors, or is of another architecture.
    """
    tensors = _read(Path(path))
    own: dict[str, Tensor] = nn.Module.state_dict(encoder)
    if any(key.startswith("encoder.") for key in tensors):
        tensors = {key.removeprefix("encoder."): x for key, x in tensors.items() if key.startswith("encoder.")}
    prefixed = all(key.startswith("model.") for key in own)
    if prefixed and not any(key.startswith("model.") for key in tensors):
        tensors = {f"model.{key}": x for key, x in tensors.items()}
    elif not prefixed and tensors and all(key.startswith("model.") for key in tensors):
        tensors = {key.removeprefix("model."): x for key, x in tensors.items()}
    filled: dict[str, Tensor] = {}
    for key, mine in own.items():
        if key not in tensors and key.endswith("num_batches_tracked"):
            filled[key] = mine
            continue
        if key not in tensors:
            raise CheckpointError(f"{path}: not weights of {name}: {key!r} is missing")
        value = tensors[key]
        if mine.ndim == 4 and value.ndim == 4 and (mine.shape[1], value.shape[1]) == (1, 3):
            value = value.sum(1, keepdim=True)
        if value.shape != mine.shape:
            raise CheckpointError(
                f"{path}: not weights of {name}: {key!r} is {tuple(value.shape)}, not {tuple(mine.shape)}"
            )
        filled[key] = value
    nn.Module.load_state_dict(encoder, filled)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of weights")
    if path.suffix != ".safetensors":
        content = load_plain(path)
        for key in ("state_dict", "model"):
            if isinstance(content.get(key), dict):
                content = content[key]
        return {str(key).removeprefix("module."): x for key, x in content.items() if isinstance(x, Tensor)}
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or not a safetensors file; fetch it again") from error
