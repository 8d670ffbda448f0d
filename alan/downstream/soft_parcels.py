"""Soft parcels as a network: the probability of a structure is the sum over its chosen parcels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from alan.bounds import bounded
from alan.downstream.whitebox.jsonfile import dump
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.several import Temperature, check_parcels
from alan.errors import CheckpointError, ParameterError, damaged
from alan.files import fingerprint, read_entry
from alan.parcels.heads import KMeansHead
from alan.parcels.maps import pixel_sector
from alan.parcels.model import ParcelModel, load_parcels
from alan.supervised.segmenter import FrozenSegmenter

SCHEMA = "alan-parcel-member/1"


class ParcelMember(FrozenSegmenter):
    """A locked parcel model and the parcels of each structure, used like a segmentation network.

    The logits are upsampled to the frame and divided by the temperature; a softmax over the K parcels follows. The
    probability of a structure at a pixel is the sum over its chosen parcels, that of the background is the rest;
    if structures share parcels, all are divided by their sum. For a model with ``sector_only``, pixels outside the
    sector are background. There is no post-processing, which works on masks.

    Args:
        model: The locked parcel model.
        parcels: Mapping from structure to the ids of its parcels, each 0 to K - 1.
        temperature: Temperature of the softmax. Use 1 for a trained head. The logits of a k-means head are minus
            squared distances, whose softmax at temperature 1 is nearly a hard choice: see
            :func:`gaussian_temperature`.

    Attributes:
        structures: Names of the structures.
        classes: Number of channels of :meth:`probabilities`.
        fingerprint: SHA-256 of model, parcels and temperature.
        provenance: Origin, as JSON-able values.

    Raises:
        ParameterError: There is no structure, a structure has no parcels, the model lacks an id, or the
            temperature is not above 0.
    """

    @bounded
    def __init__(
        self,
        model: ParcelModel,
        parcels: Mapping[str, Sequence[int] | ArrayLike],
        temperature: Temperature = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.parcels = {name: sorted({int(k) for k in torch.as_tensor(ids)}) for name, ids in parcels.items()}
        self.temperature = float(temperature)
        if not self.parcels:
            raise ParameterError("no structure: give the parcels of at least one, such as {'lv': [3, 8]}")
        for name, ids in self.parcels.items():
            wrong = [k for k in ids if not 0 <= k < model.n_parcels]
            if wrong or not ids:
                found = f"contains {wrong[0]}" if wrong else "is empty"
                raise ParameterError(
                    f"the list of parcels of {name!r} {found}: give ids of 0 to {model.n_parcels - 1}"
                )
        self.structures = tuple(self.parcels)
        self.classes = 1 if len(self.structures) == 1 else len(self.structures) + 1
        self.fingerprint = fingerprint([model.fingerprint, self.parcels, list(self.structures), self.temperature])
        self.provenance = {"trained_by": "parcels", "parcels": model.fingerprint}

    @classmethod
    def from_white_boxes(
        cls, model: ParcelModel, boxes: Mapping[str, ParcelSelector | ParcelSegmenter], temperature: float = 1.0
    ) -> ParcelMember:
        """Use the interior parcels of fitted white boxes.

        Args:
            model: Parcel model on whose maps they were fitted.
            boxes: Mapping from structure to a fitted selector or segmenter.
            temperature: Temperature of the softmax.

        Raises:
            CheckpointError: A white box was fitted on another parcel model.
        """
        chosen = {}
        for name, box in boxes.items():
            selector = box.selector_ if isinstance(box, ParcelSegmenter) else box
            check_parcels(name, selector, model)
            chosen[name] = selector.interior_
        return cls(model, chosen, temperature)

    @torch.no_grad()
    def probabilities(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Compute the probability of each class at each pixel.

        Args:
            frames: (B, H, W) uint8.

        Returns:
            (B, C, H, W) float32 on the device of the model. C is 1 for one structure, otherwise 1 plus the number
            of structures, with the background first.

        Raises:
            ParameterError: The frames have another shape or dtype.
        """
        frames = torch.as_tensor(frames)
        logits = self.model.logits(frames)
        size = (frames.shape[-2], frames.shape[-1])
        chosen = torch.zeros(len(self.structures), logits.shape[1], device=logits.device)
        for row, ids in zip(chosen, self.parcels.values(), strict=True):
            row[ids] = 1
        out = torch.empty(len(logits), len(self.structures), *size, device=logits.device)
        for one, target in zip(logits, out, strict=True):  # frame by frame: K planes of one frame in memory
            soft = F.interpolate(one[None].float(), size, mode="bilinear", align_corners=False)[0]
            target.copy_(torch.einsum("sk,khw->shw", chosen, (soft / self.temperature).softmax(0)))
        if self.model.sector_only:
            out *= pixel_sector(frames.to(out.device), size)[:, None]
        if self.classes == 1:
            return out.clamp(max=1)
        rest = (1 - out.sum(1, keepdim=True)).clamp(min=0)
        whole = torch.cat([rest, out], 1)
        return whole / whole.sum(1, keepdim=True)


def gaussian_temperature(model: ParcelModel, frames: Tensor) -> float:
    """Compute the temperature at which a k-means head is a mixture of equal, spherical Gaussians.

    With logits ``-d^2`` the posterior of a parcel is ``softmax(-d^2 / (2 s^2))``; the variance per dimension is
    estimated by ``s^2 = mean(min d^2) / C`` (Bishop, *Pattern Recognition and Machine Learning*, section
    9.3.2).

    Args:
        model: Parcel model with a k-means head.
        frames: (B, H, W) uint8, unlabelled.

    Returns:
        ``2 s^2``.

    Raises:
        ParameterError: The head is not k-means.
    """
    if not isinstance(model.head, KMeansHead):
        raise ParameterError("the head is not k-means, so that its logits are no distances: use temperature 1")
    nearest_distance = -model.logits(frames).max(1).values
    return float(2 * nearest_distance.mean() / model.head.centres.shape[1])


def save_parcel_member(
    member: ParcelMember, path: str | os.PathLike[str], parcels: str | os.PathLike[str]
) -> None:
    """Write a member as JSON; the parcel model stays in its own file.

    Args:
        member: The member.
        path: File to write, ending in ``.json``.
        parcels: File of its parcel model, which is recorded relative to ``path``.
    """
    relative = Path(os.path.relpath(Path(parcels).resolve(), Path(path).resolve().parent)).as_posix()
    dump(
        {
            "schema": SCHEMA,
            "parcels": relative,
            "temperature": member.temperature,
            "structures": member.parcels,
            "fingerprint": member.fingerprint,
        },
        path,
    )


def load_parcel_member(path: str | os.PathLike[str]) -> ParcelMember:
    """Read what :func:`save_parcel_member` wrote.

    Raises:
        DataError: The file is missing or is not JSON.
        CheckpointError: The file is of another kind, its parcel model is missing, or either was changed
            afterwards.
    """
    file = Path(path)
    entry = read_entry(file, SCHEMA, "write a parcel member with save_parcel_member", CheckpointError)
    with damaged(CheckpointError, f"{file}: the parcel member is malformed", "write it again"):
        model = load_parcels(file.parent / entry["parcels"])
        member = ParcelMember(model, entry["structures"], entry["temperature"])
        stated = entry["fingerprint"]
    if member.fingerprint != stated:
        raise CheckpointError(f"{file}: it or its parcel model was changed after it was written: write it again")
    return member
