"""Predictions of members on validation frames, kept so that a trial of ensemble weights takes milliseconds.

Where all members predict the same class, so does every weighted mean of their probabilities. Only the pixels on
which they disagree (a few percent for trained networks) are kept with their probabilities; the rest is counted
once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alan.arrays import FloatArray, load_arrays
from alan.errors import DataError, ParameterError
from alan.files import atomic
from alan.overlap import dice_of_counts, iou_of_counts
from alan.supervised.ensemble import Member, check_members, to_average
from alan.supervised.segmenter import to_labels
from alan.supervised.settings import Average, Objective


@dataclass(frozen=True)
class MemberPredictions:
    """Predictions of M members on n frames, reduced to what the scores of their weighted means need.

    Attributes:
        structures: Names, in the order of the labels from 1 on.
        both: (n, L) int64, number of agreed pixels of each label that are annotated with it, background included.
        predicted: (n, L) int64, number of agreed pixels of each label.
        truth: (n, L) int64, number of pixels annotated with each label.
        probabilities: (M, C, D) float32, probabilities at the D disputed pixels.
        frame: (D,) int32, frame of each disputed pixel.
        label: (D,) uint8, annotated label of each disputed pixel.
        average: Quantity to average over the members; where all members agree, both means agree with them.
    """

    structures: tuple[str, ...]
    both: NDArray[np.int64]
    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    frame: NDArray[np.int32]
    label: NDArray[np.uint8]
    average: Average = "probabilities"

    @cached_property
    def _averaged(self) -> NDArray[np.float32]:
        values: NDArray[np.float32] = to_average(torch.from_numpy(self.probabilities), self.average).numpy()
        return values

    def counts(self, weights: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count the pixels in both, and in the prediction, per frame and label, for weights (M,)."""
        share = np.asarray(weights, np.float64) / np.sum(weights)
        mean = np.tensordot(share.astype(np.float32), self._averaged, axes=1)  # (C, D)
        middle = 0.5 if self.average == "probabilities" else 0.0
        named = (mean[0] > middle).astype(np.int64) if len(mean) == 1 else mean.argmax(0)
        n, labels = self.truth.shape
        place = self.frame.astype(np.int64) * labels + named
        right = named == self.label
        both = np.bincount(place[right], minlength=n * labels).reshape(n, labels)
        predicted = np.bincount(place, minlength=n * labels).reshape(n, labels)
        return self.both + both, self.predicted + predicted

    def values(self, weights: NDArray[np.floating], objective: Objective) -> FloatArray:
        """Compute the score of each frame and structure, without the background.

        Args:
            weights: (M,), at least 0, one above 0; only their ratios count.
            objective: Score, ``iou`` or ``dice``.

        Returns:
            (n, structures) float64 in 0..1; NaN where a structure is neither annotated nor predicted.
        """
        both, predicted = self.counts(weights)
        total = (predicted + self.truth)[:, 1:].astype(np.float64)
        inside = both[:, 1:].astype(np.float64)
        return (iou_of_counts if objective == "iou" else dice_of_counts)(inside, total)

    def scores(self, weights: NDArray[np.floating], objective: Objective) -> FloatArray:
        """Compute the mean of :meth:`values` over the frames that count for a structure.

        Returns:
            (structures,) float64 in 0..1; NaN for a structure that is in no frame.
        """
        values = self.values(weights, objective)
        known = ~np.isnan(values)
        sums = np.where(known, values, 0.0).sum(0)
        means: FloatArray = np.divide(sums, known.sum(0), out=np.full(len(sums), np.nan), where=known.any(0))
        return means

    def score(self, weights: NDArray[np.floating], objective: Objective) -> float:
        """Compute the mean of :meth:`scores` over the structures that are in a frame."""
        values = self.scores(weights, objective)
        known = values[~np.isnan(values)]
        return float(known.mean()) if len(known) else float("nan")

    def pooled(self, weights: NDArray[np.floating], objective: Objective) -> float:
        """Compute the score of all frames taken as one image, as the mean over the structures.

        Small slices count little here; in :meth:`score` a frame counts as much as any other.
        """
        both, predicted = (table.sum(0)[1:].astype(np.float64) for table in self.counts(weights))
        values = (iou_of_counts if objective == "iou" else dice_of_counts)(both, predicted + self.truth.sum(0)[1:])
        return float(np.nanmean(values))

    def part(self, chosen: NDArray[np.bool_]) -> MemberPredictions:
        """Return the predictions on some of the frames, as a mask (n,)."""
        kept = chosen[self.frame]
        return replace(
            self,
            both=self.both[chosen],
            predicted=self.predicted[chosen],
            truth=self.truth[chosen],
            probabilities=self.probabilities[:, :, kept],
            frame=(np.cumsum(chosen) - 1)[self.frame[kept]].astype(np.int32),
            label=self.label[kept],
        )


def collect(members: Mapping[str, Member], batches: Iterable[tuple[Tensor, Tensor]]) -> MemberPredictions:
    """Run every member once over labelled frames.

    Args:
        members: Mapping from name to member.
        batches: Frames (B, S, S) uint8 with labels (B, S, S) uint8, 0 for background and i + 1 for structure i.

    Returns:
        Counts of the agreed pixels, and the probabilities at the others; memory is a batch, and M x C x 4 bytes
        per disputed pixel.

    Raises:
        ParameterError: The members cannot be averaged, or there is no frame.
    """
    check_members(members)
    structures = tuple(next(iter(members.values())).structures)
    tables: list[tuple[NDArray[np.int64], ...]] = []
    disputed: list[tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.uint8]]] = []
    n = 0
    for frames, labels in batches:
        with torch.no_grad():
            stacked = torch.stack([member.probabilities(frames).float().cpu() for member in members.values()])
        named = torch.stack([to_labels(part) for part in stacked])  # (M, B, S, S)
        agreed = (named == named[:1]).all(0)
        truth = labels.cpu().long()
        counted = [
            [_counts(row[mask], len(structures) + 1) for row, mask in zip(named[0], where, strict=True)]
            for where in (agreed & (named[0] == truth), agreed)
        ]
        counted.append([_counts(row.flatten(), len(structures) + 1) for row in truth])
        tables.append(tuple(np.array(rows) for rows in counted))
        place = torch.nonzero(~agreed)  # (d, 3): frame, row, column
        values = stacked.permute(0, 2, 1, 3, 4)[:, :, place[:, 0], place[:, 1], place[:, 2]]
        frame = (place[:, 0] + n).numpy().astype(np.int32)
        disputed.append((values.numpy(), frame, truth[~agreed].numpy().astype(np.uint8)))
        n += len(frames)
    if not n:
        raise ParameterError("no frame to compare the members on: give a split that has annotated frames")
    both, predicted, whole = (np.concatenate(parts) for parts in zip(*tables, strict=True))
    probabilities = np.concatenate([part[0] for part in disputed], axis=2)
    frame, label = (np.concatenate([part[k] for part in disputed]) for k in (1, 2))
    return MemberPredictions(structures, both, predicted, whole, probabilities, frame, label)


def join(predictions: Sequence[MemberPredictions]) -> MemberPredictions:
    """Join the predictions of members on different frames, such as the folds of a cross-validation."""
    first = predictions[0]
    offsets = np.cumsum([0, *(len(part.truth) for part in predictions)])
    frame = [part.frame + offset for part, offset in zip(predictions, offsets[:-1], strict=True)]
    return replace(
        first,
        both=np.concatenate([part.both for part in predictions]),
        predicted=np.concatenate([part.predicted for part in predictions]),
        truth=np.concatenate([part.truth for part in predictions]),
        probabilities=np.concatenate([part.probabilities for part in predictions], axis=2),
        frame=np.concatenate(frame).astype(np.int32),
        label=np.concatenate([part.label for part in predictions]),
    )


def _counts(labels: Tensor, n: int) -> list[int]:
    return [int(count) for count in torch.bincount(labels.flatten(), minlength=n)]


def _names() -> list[str]:
    return [field.name for field in fields(MemberPredictions) if field.name != "average"]


def save_predictions(predictions: MemberPredictions, path: str | os.PathLike[str], key: str) -> None:
    """Write predictions atomically, so that an interrupted search of weights continues from them.

    Args:
        predictions: The predictions.
        path: File, ending in ``.npz``.
        key: Fingerprint of members and frames.
    """
    arrays = {name: getattr(predictions, name) for name in _names()}
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, key=np.array(key), **arrays)


def load_predictions(path: str | os.PathLike[str], key: str) -> MemberPredictions | None:
    """Read a file of :func:`save_predictions`; None where it is missing, damaged or has another key."""
    try:
        arrays: dict[str, Any] = load_arrays(Path(path), ("key", *_names()))
    except DataError:
        return None
    if str(arrays.pop("key")) != key:
        return None
    return MemberPredictions(tuple(str(name) for name in arrays.pop("structures")), **arrays)
