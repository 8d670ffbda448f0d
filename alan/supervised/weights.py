"""Weights of encoders, from a file or from the hub."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any

from torch import Tensor, nn

from alan.backbone.checkpoint import load_plain
from alan.errors import CheckpointError, ParameterError, nearest
from alan.extras import third_party
from alan.tensors import read_tensors

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def is_file(weights: str) -> bool:
    """Return whether the name is that of a file (by its suffix), not of weights on the hub."""
    return weights.endswith(_SUFFIXES)


@contextlib.contextmanager
def hub_weights(encoder: str, name: str) -> Iterator[str | bool]:
    """Fetch weights from the hub in the block, and turn any error of the download into one line.

    Args:
        encoder: Name of the encoder.
        name: Name of the weights, such as ``imagenet``. The weights of timm's encoders are part of the encoder's
            name (``tu-resnet18.a1_in1k``), and any name selects them.

    Yields:
        The value of ``encoder_weights`` in segmentation_models_pytorch.

    Raises:
        ParameterError: The encoder has no weights of this name.
        CheckpointError: The hub cannot be reached, or has no such weights.
    """
    of_timm = encoder.startswith("tu-")
    settings = third_party("segmentation_models_pytorch").encoders.encoders
    if not of_timm and name not in (known := settings[encoder]["pretrained_settings"]):
        raise ParameterError(
            f"{encoder} has no weights {name!r}: {nearest(name, known)}; a file ends in {', '.join(_SUFFIXES)}"
        )
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it logs every attempt
    try:
        yield of_timm or name
    except Exception as error:  # each version of the hub's client raises other classes
        reason = shorten(str(error), 140, placeholder=" ...") or type(error).__name__
        raise CheckpointError(
            f"weights {name!r} of {encoder} cannot be fetched from the hub ({reason}): "
            "give a file instead, or null for random weights"
        ) from error
    finally:
        logger.setLevel(level)


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
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    content = load_plain(path)
    for key in ("state_dict", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
    return {str(key).removeprefix("module."): x for key, x in content.items() if isinstance(x, Tensor)}
