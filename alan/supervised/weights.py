"""Weights of an encoder: from a file, or from the hub where it can be reached."""

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
    """Whether this names a file (by its ending) rather than weights of the hub."""
    return weights.endswith(_SUFFIXES)


@dataclass(frozen=True)
class HubWeights:
    """Weights to be fetched while the network is built.

    Attributes:
        encoder: name of the encoder.
        name: name of the weights.
        value: what segmentation_models_pytorch takes for them.
    """

    encoder: str
    name: str
    value: Any

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn whatever the download raises into one line.

        Raises:
            CheckpointError: the hub cannot be reached, or has no such weights.
        """
        logger = logging.getLogger("huggingface_hub")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it would tell of every attempt
        try:
            yield
        except Exception as error:  # each version of the hub's client raises its own kinds
            reason = shorten(str(error), 140, placeholder=" ...") or type(error).__name__
            raise CheckpointError(
                f"weights {self.name!r} of {self.encoder} cannot be fetched from the hub ({reason}): "
                "give a file instead, or null for random weights"
            ) from error
        finally:
            logger.setLevel(level)


def hub_weights(encoder: str, name: str) -> HubWeights:
    """Check the name of weights of the hub.

    Args:
        encoder: name of the encoder.
        name: ``imagenet`` and others; timm's are chosen by the encoder's name (``tu-resnet18.a1_in1k``), and any
            name stands for them.

    Raises:
        ParameterError: the encoder has no weights of this name.
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
    """Fill an encoder from a file; the three colours of the first convolution are added up for grey images.

    Args:
        encoder: the network's encoder.
        path: ``.safetensors`` or a file of ``torch.save`` (read with ``weights_only=True``): a state dict of the
            encoder, of a whole network with ``encoder.`` before the names, or with ``model.`` before them. What
            the encoder does not have, such as a classifier, is left out.
        name: the encoder's name, for messages.

    Raises:
        CheckpointError: the file is missing, truncated, no plain tensors, or of another architecture.
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
                f"{path}: not weights of {name}: {key!r} is {tuple(value.shape)}, it must be {tuple(mine.shape)}"
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
