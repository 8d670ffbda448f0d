"""Selection by parcels: coverage of parcel histograms, and disagreement of white boxes and network.

Parcels need no labels, so that coverage can choose the very first images too. White boxes that were named on
simulated frames need none either; where they contradict the network, one of the two is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch

from alan.active.pool import Pool
from alan.arrays import BoolArray, ByteArray, FloatArray, IntArray
from alan.data.structures import parts
from alan.downstream.whitebox.several import load_white_boxes
from alan.errors import ParameterError
from alan.overlap import dice_of_counts
from alan.parcels.model import load_parcels
from alan.progress import batches
from alan.supervised.segmenter import Segmenter, to_labels


def coverage(histograms: FloatArray, k: int, labelled: IntArray | None = None) -> IntArray:
    """Choose images whose parcel histograms cover those of all images.

    An image is covered as well as its most similar chosen image, by the intersection of histograms; images are
    chosen one by one, each the one that raises the sum of the coverage most (facility location). The sum reaches
    at least 1 - 1/e of the largest possible one (Nemhauser, Wolsey and Fisher, *An analysis of approximations for
    maximizing submodular set functions*, 1978).

    Args:
        histograms: (n, K) shares of the parcels in each image, rows adding up to 1 (or 0).
        k: Number of images to choose, at most the number of images that are not labelled.
        labelled: Rows that are chosen already.

    Returns:
        (k,) int64, rows in the order of choice; of equal gains the first.

    Raises:
        ParameterError: ``k`` is out of range.
    """
    done = np.zeros(0, np.int64) if labelled is None else np.asarray(labelled, np.int64)
    n = len(histograms)
    if not 1 <= k <= n - len(done):
        raise ParameterError(f"k is {k}: give 1 to {n - len(done)}, the number of images without a label")
    similar = np.stack([np.minimum(row, histograms).sum(1) for row in histograms])  # (n, n)
    covered = similar[:, done].max(1, initial=0.0)
    free = np.ones(n, bool)
    free[done] = False
    picked = []
    for _ in range(k):
        gains = np.maximum(similar - covered[:, None], 0).sum(0).round(12)  # equal gains must compare as equal
        pick = int(np.where(free, gains, -1.0).argmax())
        picked.append(pick)
        free[pick] = False
        covered = np.maximum(covered, similar[:, pick])
    return np.array(picked, np.int64)


def disagreement(first: BoolArray, second: BoolArray) -> FloatArray:
    """Compute 1 - Dice of two segmentations, the mean over structures.

    Args:
        first: (n, structures, H, W) bool.
        second: The same shape.

    Returns:
        (n,) float64, 0 to 1; a structure that both leave out counts as agreement.
    """
    both = (first & second).sum((2, 3)).astype(np.float64)
    total = first.sum((2, 3)) + second.sum((2, 3)).astype(np.float64)
    found: FloatArray = 1 - np.nan_to_num(dice_of_counts(both, total), nan=1.0).mean(1)
    return found


class ParcelPool:
    """Histograms of parcels and masks of white boxes for the images of a pool, computed once on first use.

    Args:
        pool: The images.
        parcels: Path or name of the parcel model.
        white_boxes: Paths or names of white boxes on it; empty where only histograms are asked for.
        structures: Structures of the network.
        batch_size: Images per forward pass.

    Raises:
        ParameterError: The white boxes do not segment one of the structures.
        CheckpointError: Parcels or white boxes cannot be loaded.
    """

    def __init__(
        self, pool: Pool, parcels: str, white_boxes: Sequence[str], structures: Sequence[str], batch_size: int
    ) -> None:
        self.pool, self.structures, self.batch_size = pool, tuple(structures), batch_size
        self._boxes = load_white_boxes(parcels, white_boxes) if white_boxes else None
        self._model = load_parcels(parcels) if self._boxes is None else self._boxes.model
        known = self._boxes.structures if self._boxes else ()
        missing = [name for one in self.structures for name in parts(one) if name not in known]
        if self._boxes and missing:
            raise ParameterError(
                f"white_boxes segment {', '.join(known)}, the network also {missing[0]}: give a white box of it"
            )

    @cached_property
    def histograms(self) -> FloatArray:
        """Share of each parcel in each image, (n, K) float64; pixels outside the sector do not count."""
        k, rows = self._model.n_parcels, []
        for frames in self._frames(np.arange(len(self.pool)), "parcels"):
            maps = self._model.maps(frames).cpu().numpy().reshape(len(frames), -1)
            rows += [np.bincount(one[one < k], minlength=k) for one in maps]
        counts = np.array(rows, np.float64)
        return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1))

    @cached_property
    def masks(self) -> BoolArray:
        """Masks by the white boxes, (n, structures, S, S)."""
        if self._boxes is None:
            raise ParameterError("white_boxes is empty: give the white boxes of the structures")
        labels = [
            self._boxes.label(frames).labels for frames in self._frames(np.arange(len(self.pool)), "white boxes")
        ]
        values = {name: value for value, name in enumerate(self._boxes.structures, 1)}
        wanted = [[values[name] for name in parts(one)] for one in self.structures]
        whole = np.concatenate(labels)
        return np.stack([np.isin(whole, each) for each in wanted], axis=1)

    def disagreement(self, network: Segmenter, positions: IntArray) -> FloatArray:
        """Compute :func:`disagreement` of white boxes and network for images of the pool."""
        found = []
        for frames in self._frames(positions, "disagreement"):
            with torch.no_grad():
                labels = to_labels(network.probabilities(frames)).cpu().numpy()
            found.append(labels[:, None] == np.arange(1, len(self.structures) + 1)[:, None, None])
        return disagreement(np.concatenate(found), self.masks[positions])

    def _frames(self, positions: IntArray, title: str) -> Iterator[ByteArray]:
        """Read images a batch at a time."""
        parts = batches(len(positions), self.batch_size, title, unit="image")
        return (self.pool.read(positions[part]) for part in parts)
