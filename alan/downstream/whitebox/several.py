"""White boxes of several structures on one parcel model, combined into label maps."""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray

from alan.bounds import bounded
from alan.downstream.whitebox.opinion import read_opinions
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.errors import AlanWarning, CheckpointError, ParameterError
from alan.files import fingerprint
from alan.parcels.heads import KMeansHead
from alan.parcels.model import ParcelModel, load_parcels

#: Temperature of a softmax; 1 leaves the logits unchanged.
Temperature = Annotated[float, Interval(gt=0, lt=float("inf"))]


class Segmentation(NamedTuple):
    """Label maps of frames.

    Attributes:
        labels: (B, H, W) uint8: 0 background, 1 for the first structure and so on.
        parcels: (B, n) int64, number of chosen parcels in each segment.
    """

    labels: NDArray[np.uint8]
    parcels: NDArray[np.int64]


class WhiteBoxes:
    """White boxes of several structures on one parcel model.

    Each white box segments on its own. A pixel in several segments goes to the smallest segment of the frame (ties
    go to the first), so that the post-processing of a cavity does not remove a thin wall. On validation patients
    of CAMUS this was better than the largest posterior share of the parcel, and better than a fixed order.

    Args:
        model: The locked parcel model.
        boxes: Mapping from structure to its fitted segmenter, in the order of the labels; ``size`` is ignored.
        temperature: Temperature of the softmax of soft scores. Required if a white box is soft and the parcels are
            k-means (:func:`alan.downstream.soft_parcels.gaussian_temperature`); None uses 1 otherwise.

    Attributes:
        structures: Names in the order of the labels.
        fingerprint: SHA-256 of everything that decides the labels.

    Raises:
        ParameterError: There is no white box, or the temperature is missing or not above 0.
        CheckpointError: A white box was fitted on another parcel model.
    """

    @bounded
    def __init__(
        self, model: ParcelModel, boxes: Mapping[str, ParcelSegmenter], temperature: Temperature | None = None
    ) -> None:
        if not boxes:
            raise ParameterError("no white box is given: give at least one, such as alan-sim-lv")
        for name, box in boxes.items():
            check_parcels(name, box.selector_, model)
        boxes = {name: copy.copy(box).set_params(size=None) for name, box in boxes.items()}
        self._soft = any(box.soft is not None for box in boxes.values())
        if self._soft and temperature is None and isinstance(model.head, KMeansHead):
            raise ParameterError(
                "a white box is soft and the parcels are k-means: give a temperature, such as that of "
                "alan.downstream.soft_parcels.gaussian_temperature"
            )
        self.temperature = 1.0 if temperature is None else temperature
        self.model, self.boxes = model, boxes
        self.structures = tuple(boxes)
        self._chosen = np.zeros((len(boxes), 256), bool)
        for chosen, box in zip(self._chosen, boxes.values(), strict=True):
            chosen[box.selector_.interior_] = True
        described = {name: json.loads(box.to_json()) for name, box in boxes.items()}
        self.fingerprint = fingerprint([model.fingerprint, list(boxes), described, self.temperature])

    def to(self, device: str | torch.device) -> Self:
        """Move the parcel model to a device."""
        self.model.to(device)
        return self

    def label(self, frames: NDArray[np.uint8]) -> Segmentation:
        """Segment frames.

        Args:
            frames: (B, H, W) uint8.

        Returns:
            Label maps at the size of the frames; empty segments give no warning.
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


def check_parcels(name: str, selector: ParcelSelector, model: ParcelModel) -> None:
    """Check that a white box was fitted on a parcel model.

    Args:
        name: Name of the white box, for the message.
        selector: Its fitted selector.
        model: The parcel model.

    Raises:
        CheckpointError: It was fitted on another model, or contains ids that the model does not have.
    """
    origin = str(selector.provenance_.get("parcels", ""))
    if origin and origin != model.fingerprint:
        raise CheckpointError(
            f"the white box of {name!r} was fitted on parcels {origin[:12]}, given {model.fingerprint[:12]}: "
            "give the parcel model that it belongs to"
        )
    if len(selector.interior_) and selector.interior_[-1] >= model.n_parcels:
        raise CheckpointError(
            f"the white box of {name!r} contains {selector.interior_[-1]}; ids are below {model.n_parcels}: "
            "give the parcel model that it belongs to"
        )


def load_white_boxes(
    parcels: str | os.PathLike[str],
    boxes: Sequence[str | os.PathLike[str]],
    temperature: float | None = None,
    opinions: Sequence[str | os.PathLike[str]] = (),
) -> WhiteBoxes:
    """Load a parcel model and white boxes on it.

    Args:
        parcels: Path or name of the parcel model.
        boxes: Paths or names of white boxes, in the order of the labels. The structure of a white box is that of
            its prior, otherwise the name of the file without suffix.
        temperature: Temperature of the softmax of soft scores, see :class:`WhiteBoxes`.
        opinions: Files of an expert's opinions on structures, by which parcels are chosen again.

    Raises:
        ParameterError: A file is neither a white box nor an opinion on one of them, two have the same structure,
            or the temperature is missing.
        SelectionError: An opinion leaves no parcel.
        DataError: A file is missing or is not JSON.
        CheckpointError: The parcels cannot be loaded, or a white box was fitted on other parcels.
    """
    found: dict[str, ParcelSegmenter] = {}
    for path in boxes:
        try:
            box = ParcelSegmenter.from_json(path)
        except ParameterError as error:
            raise ParameterError(f"{path}: {error}") from error
        name = getattr(box.selector_.prior, "structure", "") or Path(path).stem
        if name in found:
            raise ParameterError(f"{path}: a second white box of {name!r}: give one per structure")
        found[name] = box
    model = load_parcels(parcels)
    for name, opinion in read_opinions(opinions, list(found), model.fingerprint).items():
        found[name] = found[name].revise(opinion)
    return WhiteBoxes(model, found, temperature)
