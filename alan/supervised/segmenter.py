"""Frozen segmentation networks, from grey frames to probabilities and masks, and their files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alan.backbone.frozen import FrozenModule
from alan.data.structures import n_classes
from alan.errors import CheckpointError, ParameterError, damaged
from alan.files import check_schema, fingerprint, fingerprint_tensors
from alan.supervised.networks import PaddedNetwork
from alan.supervised.settings import NetworkSpec
from alan.tensors import read_tensors, write_tensors

SCHEMA = "alan-segmenter/1"
#: Key of the metadata in a file.
ENTRY = "alan"


class FrozenSegmenter(FrozenModule):
    """Base of what maps frames to probabilities: a network, an ensemble, or soft parcels.

    Attributes:
        structures: Names, in the order of the labels.
        classes: Channels of the probabilities: 1 for one structure, else one per structure and the background.
        fingerprint: SHA-256 of everything that decides the probabilities.
        provenance: JSON-able entries about the origin.
    """

    structures: tuple[str, ...]
    classes: int
    fingerprint: str
    provenance: dict[str, Any]

    def probabilities(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Compute the probability of each class at each pixel, (B, C, H, W) float32, of frames (B, H, W) uint8."""
        raise NotImplementedError

    def masks(self, frames: Tensor | NDArray[np.uint8]) -> dict[str, Tensor]:
        """Segment frames (B, H, W) uint8 into masks (B, H, W) bool of each structure, which do not overlap."""
        labels = to_labels(self.probabilities(frames))
        return {name: labels == value for value, name in enumerate(self.structures, 1)}


class Segmenter(FrozenSegmenter):
    """Frozen segmentation network: always in eval mode, without gradients, with a fingerprint.

    Args:
        model: The network; it is frozen in place.
        spec: Its configuration.
        structures: Names, in the order of the channels.
        size: Height and width in pixels of the frames it was trained on; None takes frames of any size.
        provenance: JSON-able entries about its origin.
        flips: Whether the probabilities are the mean over the frame and its three flips (left to right, upside
            down, both), at four times the cost; for networks that were trained on flipped frames.

    Attributes:
        classes: Channels of the probabilities: 1 for one structure, else one per structure and the background.
        fingerprint: SHA-256 over weights and settings.
    """

    def __init__(
        self,
        model: PaddedNetwork,
        spec: NetworkSpec,
        structures: Sequence[str],
        size: int | None = None,
        provenance: Mapping[str, Any] | None = None,
        *,
        flips: bool = False,
    ) -> None:
        super().__init__()
        self.flips = flips
        self.model = model.requires_grad_(False)
        self.spec = replace(spec, encoder_weights=None)
        self.structures = tuple(structures)
        self.classes = n_classes(self.structures)
        self.size = size
        self.provenance = dict(provenance or {})
        self.fingerprint = fingerprint([fingerprint_tensors(model.state_dict()), self.settings()])
        self.train(False)

    def settings(self) -> dict[str, Any]:
        """Return everything besides the weights that decides the output, JSON-able."""
        return {
            "network": self.spec.to_dict(),
            "structures": list(self.structures),
            "normalisation": self.model.normalisation,
            "size": self.size,
            **({"flips": True} if self.flips else {}),
        }

    def with_flips(self) -> Segmenter:
        """Return the same network with the mean over flips, see ``flips``; the weights are shared."""
        return Segmenter(self.model, self.spec, self.structures, self.size, self.provenance, flips=True)

    @torch.no_grad()
    def probabilities(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Compute the probability of each class at each pixel, for all frames in one forward pass.

        Frames of another size than the trained one are resized to it, bilinearly and antialiased, and the
        probabilities are resized back.

        Args:
            frames: (B, H, W) uint8, a tensor on any device or an array.

        Returns:
            (B, C, H, W) float32 on the network's device. C is 1 for one structure (sigmoid), else 1 + structures
            with the background first (softmax).

        Raises:
            ParameterError: The shape or dtype differs.
        """
        frames = torch.as_tensor(frames)
        if frames.ndim != 3 or frames.dtype != torch.uint8:
            raise ParameterError(f"frames are {frames.dtype} {tuple(frames.shape)}: give uint8 of shape (B, H, W)")
        device = next(self.model.parameters()).device
        images = frames.to(device)[:, None].float() / 255
        shape = (images.shape[-2], images.shape[-1])
        side = (self.size, self.size) if self.size is not None else shape
        if shape == side:
            return self._forward(images)
        images = F.interpolate(images, side, mode="bilinear", antialias=True, align_corners=False)
        return F.interpolate(self._forward(images), shape, mode="bilinear", align_corners=False)

    def _forward(self, images: Tensor) -> Tensor:
        """Compute probabilities (B, C, H, W) of images (B, 1, H, W) of the size of the network."""
        flips: tuple[tuple[int, ...], ...] = ((), (3,), (2,), (2, 3)) if self.flips else ((),)
        found = [to_probabilities(self.model(images.flip(axes)).float()).flip(axes) for axes in flips]
        return torch.stack(found).mean(0) if len(found) > 1 else found[0]


def to_probabilities(logits: Tensor) -> Tensor:
    """Map logits (B, C, H, W) to probabilities: sigmoid for one channel, softmax over several."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def to_labels(probabilities: Tensor) -> Tensor:
    """Map probabilities (B, C, H, W) to labels (B, H, W) int64: above one half, or the largest."""
    return (probabilities[:, 0] > 0.5).long() if probabilities.shape[1] == 1 else probabilities.argmax(1)


def save_segmenter(segmenter: Segmenter, path: str | os.PathLike[str]) -> None:
    """Write weights and settings as safetensors, atomically.

    Args:
        segmenter: The network.
        path: File, ending in ``.safetensors``.
    """
    entry = {"schema": SCHEMA, **segmenter.settings(), "provenance": segmenter.provenance}
    write_tensors(path, segmenter.model.state_dict(), ENTRY, {**entry, "fingerprint": segmenter.fingerprint})


def load_segmenter(path: str | os.PathLike[str]) -> Segmenter:
    """Read a file of :func:`save_segmenter` or ``alan fit``.

    Raises:
        CheckpointError: The file is missing, truncated or of another kind, or its weights were changed after it
            was written.
    """
    file = Path(path)
    if not file.is_file():
        raise CheckpointError(
            f"{file}: no such segmenter; train one with `alan fit --config supervised/...`, see `alan configs`"
        )
    tensors, entry = read_tensors(file, ENTRY)
    entry = check_schema(entry, SCHEMA, f"{file}: ", "give a segmenter of `alan fit`", CheckpointError)
    with damaged(CheckpointError, f"{file}: weights and settings do not belong together", "export it again"):
        settings = dict(entry["network"])
        channels = settings["decoder_channels"]
        spec = NetworkSpec(**{**settings, "decoder_channels": None if channels is None else tuple(channels)})
        structures, normalisation = list(entry["structures"]), entry["normalisation"]
        with torch.random.fork_rng(devices=[]):
            model = PaddedNetwork(spec, n_classes(structures), normalisation)
        model.load_state_dict(tensors)
        flips = bool(entry.get("flips", False))
        segmenter = Segmenter(model, spec, structures, entry["size"], entry["provenance"], flips=flips)
    if segmenter.fingerprint != entry.get("fingerprint"):
        raise CheckpointError(
            f"{file}: its weights or settings were changed after it was written; export it again"
        )
    return segmenter
