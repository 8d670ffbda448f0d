"""Several white boxes on one parcel model, seen as one: frames in, label maps out."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.errors import AlanWarning, CheckpointError, ParameterError
from alan.files import fingerprint
from alan.parcels.heads.kmeans import KMeansHead
from alan.parcels.model import ParcelModel, load_parcels


class Segmentation(NamedTuple):
    """Label maps of frames.

    Attributes:
        labels: (B, H, W) uint8: 0 background, 1 for the first structure and so on.
        parcels: (B, n) int64, chosen parcels that lie in each segment.
    """

    labels: NDArray[np.uint8]
    parcels: NDArray[np.int64]


class WhiteBoxes:
    """White boxes of several structures on one parcel model.

    Each segments by itself. A pixel that several claim goes to the one whose segment in this frame is the
    smallest, of equals to the first: so the cavity's clean-up does not eat a thin wall. (On validation patients of
    CAMUS this was better than the largest posterior share of the pixel's parcel, and than a fixed order.)

    Args:
        model: the locked parcel model.
        boxes: structure to its fitted segmenter, in the order of the labels; ``size`` is not used.
        temperature: divides the logits under the soft scores; needed where a white box is ``soft`` on a k-means
            head (:func:`alan.downstream.soft_parcels.gaussian_temperature`), else 1.

    Attributes:
        structures: names in the order of the labels.
        fingerprint: SHA-256 of all that decides the labels.

    Raises:
        ParameterError: no white box, or a temperature that is missing or not above 0.
        CheckpointError: a white box was fitted on another parcel model.
    """

    def __init__(
        self, model: ParcelModel, boxes: Mapping[str, ParcelSegmenter], temperature: float | None = None
    ) -> None:
        if not boxes:
            raise ParameterError("no white box is given: name at least one, such as alan-sim-small-lv")
        for name, box in boxes.items():
            origin = box.selector_.provenance_.get("parcels", "")
            if origin and origin != model.fingerprint:
                raise CheckpointError(
                    f"the white box of {name!r} was fitted on parcels {origin[:12]}, given "
                    f"{model.fingerprint[:12]}: give the parcel model that it belongs to"
                )
        boxes = {name: copy.copy(box).set_params(size=None) for name, box in boxes.items()}
        self._soft = any(box.soft is not None for box in boxes.values())
        if self._soft and temperature is None and isinstance(model.head, KMeansHead):
            raise ParameterError(
                "a white box is soft and the parcels are k-means: give a temperature, such as that of "
                "alan.downstream.soft_parcels.gaussian_temperature"
            )
        self.temperature = 1.0 if temperature is None else temperature
        if not 0 < self.temperature < float("inf"):
            raise ParameterError(f"temperature is {temperature}: give a number above 0 (1 leaves the logits)")
        self.model, self.boxes = model, boxes
        self.structures = tuple(boxes)
        self._chosen = np.zeros((len(boxes), 256), bool)
        for chosen, box in zip(self._chosen, boxes.values(), strict=True):
            chosen[box.selector_.interior_] = True
        described = {name: json.loads(box.to_json()) for name, box in boxes.items()}
        self.fingerprint = fingerprint([model.fingerprint, list(boxes), described, self.temperature])

    def to(self, device: str) -> Self:
        """Move the parcel model to a device."""
        self.model.to(device)
        return self

    def label(self, frames: NDArray[np.uint8]) -> Segmentation:
        """Segment frames.

        Args:
            frames: (B, H, W) uint8.

        Returns:
            Label maps at the size of the frames; empty segments are no warning.
        """
        batch = torch.from_numpy(frames)
        logits = self.model.logits(batch)
        maps = self.model.maps_from_logits(logits, batch, (frames.shape[1], frames.shape[2])).cpu().numpy()
        scores = None
        if self._soft:
            scores = (logits.float() / self.temperature).softmax(1).cpu().numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AlanWarning)
            masks = np.stack([box.predict(maps, scores) for box in self.boxes.values()], axis=1)
        size = masks.sum((2, 3), keepdims=True)
        smallest = np.where(masks, size, masks[0, 0].size + 1).argmin(1)
        labels = np.where(masks.any(1), smallest + 1, 0).astype(np.uint8)
        parcels = np.zeros((len(frames), len(self.structures)), np.int64)
        for n, value in np.ndindex(parcels.shape):
            present = np.unique(maps[n][labels[n] == value + 1])
            parcels[n, value] = self._chosen[value, present].sum()
        return Segmentation(labels, parcels)


def load_white_boxes(
    parcels: str | os.PathLike[str], boxes: Sequence[str | os.PathLike[str]], temperature: float | None = None
) -> WhiteBoxes:
    """Load a parcel model and white boxes on it.

    Args:
        parcels: path or name, as :func:`alan.parcels.load_parcels` takes it.
        boxes: paths or names of white boxes, in the order of the labels. A box's structure is the one of its
            prior, else the file's name without suffix.
        temperature: as of :class:`WhiteBoxes`.

    Raises:
        ParameterError: a file that is no white box, two of the same structure, or as :class:`WhiteBoxes`.
        DataError: a file that is missing or is no JSON.
        CheckpointError: the parcels cannot be loaded, or a white box belongs to others.
    """
    found: dict[str, ParcelSegmenter] = {}
    for path in boxes:
        try:
            box = ParcelSegmenter.from_json(path)
        except ParameterError as error:
            raise ParameterError(f"{path}: {error}") from error
        name = getattr(box.selector_.prior, "structure", "") or Path(path).stem
        if name in found:
            raise ParameterError(f"{path}: a second white box of {name!r}; give one of each structure")
        found[name] = box
    return WhiteBoxes(load_parcels(parcels), found, temperature)
