"""Recognise the view of a loop by the nearest neighbours of its frames in a bank of simulated frames."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from alan.analysis.discriminants import SHRINKAGE, direction_of_sides, discriminants, frame_weights, self_trained
from alan.analysis.view_bank_file import CLASSES, OPTIONAL, read_bank, write_bank
from alan.arrays import BoolArray, ByteArray, Float32Array, FloatArray, evenly_spread
from alan.backbone.base import Backbone
from alan.backbone.conv import ConvNet
from alan.backbone.load import load_backbone
from alan.bounds import NonNegativeInt, PositiveInt, Seed, Share, bounded
from alan.data.augmentation.dense import DenseAugmentation
from alan.errors import DataError, ParameterError
from alan.files import fingerprint, fingerprint_tensors
from alan.shipped import shipped_or_path

#: Side in pixels of the thumbnails.
THUMBNAIL = 28
#: Smallest gain in the share of the votes for A4C of a loop that looks mirrored, smallest distance of a mirrored
#: A2C from the middle between both orientations, smallest gain in the certainty of the network, and number of
#: frames on which it is compared (docs/howto/analyze.md).
MIRRORED_GAIN, MIRRORED_SIDE, MIRRORED_CERTAINTY, _CERTAIN_FRAMES = 0.3, 0.5, 0.02, 4
#: Strength of the changes of the copies of a bank's frames, see :class:`alan.data.augmentation.DenseAugmentation`.
_STRENGTH = 0.5
_BATCH = 32


@dataclass(frozen=True, eq=False)
class ViewResult:
    """View of a loop, with its evidence.

    Attributes:
        view: ``A2C``, ``A4C``, ``PLAX``, ``PSAX`` or ``other``.
        share: Share of the votes for the view, 0 to 1, the mean over frames.
        votes: Mapping from each class to its share of the votes.
        neighbours: (n,) rows of the bank that voted for the view, the heaviest first.
        thumbnails: (n, 28, 28) uint8, their pictures.
        unsure: Whether the share is below the bank's ``sure_from``.
    """

    view: str
    share: float
    votes: Mapping[str, float]
    neighbours: NDArray[np.int64]
    thumbnails: ByteArray
    unsure: bool


class ViewBank:
    """Labelled frames by which the view of similar frames is recognised.

    The features of a frame are means of the deepest map of a convolutional backbone, left and right of the heart
    and within the left ventricle and the left atrium (:meth:`alan.backbone.Backbone.pooled`), less ``shift``.
    They are projected onto Fisher's linear discriminants: the directions in which the views differ, in units of
    the standard deviation within a view. The nearest frames of the bank there, by Euclidean distance, vote.
    Neighbours and their pictures are the evidence.

    :meth:`build` computes the discriminants of the frames and of changed copies of them, so that they depend less
    on the appearance of simulated frames. The copies do not vote.

    Frames that a user has labelled weigh more than those of the simulator: in the discriminants and in the votes,
    all simulated frames of a view weigh together as much as ten labelled ones of it.

    Real frames differ from simulated ones in all views alike. ``shift`` is that difference;
    :meth:`with_archive` measures it on unlabelled frames, and computes the discriminants with them.

    A mirrored A2C looks like an A2C. ``sides`` is the direction that tells both apart, see
    :func:`direction_of_sides`; :meth:`build` computes it from its A2C frames.

    Args:
        backbone: Locked convolutional backbone.
        views: (N,) names out of ``A2C``, ``A4C``, ``PLAX``, ``PSAX`` and ``other``.
        pooled: (N, D) features, see :meth:`pool`.
        thumbnails: (N, 28, 28) uint8.
        shift: (D,) features of the frames to recognise less those of the bank, of the same views; None for none.
        labelled: (N,) bool, the frames that a user has labelled; None for none.
        directions: (D, K) discriminants onto which features are projected; None computes those of the bank.
        sides: (D,) direction in which the features of A2C frames exceed those of the same frames with left and
            right swapped; None if it is unknown, and mirrored A2C are not noticed.
        n_neighbors: Number of neighbours that vote on a frame.
        sure_from: Smallest share of the votes, 0 to 1, at which a view is certain.
        most_frames: Largest number of frames of a loop that are classified, evenly spaced.

    Raises:
        ParameterError: The backbone is not convolutional, a view is unknown, or the arrays differ in length.
    """

    @bounded
    def __init__(
        self,
        backbone: Backbone,
        views: Sequence[str],
        pooled: Float32Array,
        thumbnails: ByteArray,
        *,
        shift: Float32Array | None = None,
        labelled: BoolArray | None = None,
        directions: Float32Array | None = None,
        sides: Float32Array | None = None,
        n_neighbors: PositiveInt = 30,
        sure_from: Share = 0.7,
        most_frames: PositiveInt = 8,
    ) -> None:
        if not isinstance(backbone.network, ConvNet):
            raise ParameterError("the backbone of a view bank must be a convolutional one, such as alan-sim")
        unknown = sorted({*views} - {*CLASSES})
        if unknown:
            raise ParameterError(f"view is {unknown[0]!r}: give one of {', '.join(CLASSES)}")
        self.labelled = np.zeros(len(views), bool) if labelled is None else np.asarray(labelled, bool)
        if not len(views) == len(pooled) == len(thumbnails) == len(self.labelled) or not len(views):
            raise ParameterError(
                "views, features, thumbnails and labelled differ in number, or are empty: give one of each per "
                "frame"
            )
        self.backbone, self.views = backbone, tuple(views)
        self.pooled, self.thumbnails = np.asarray(pooled, np.float32), thumbnails
        self.shift = None if shift is None else np.asarray(shift, np.float32)
        self.sides = None if sides is None else np.asarray(sides, np.float32)
        self.directions = None if directions is None else np.ascontiguousarray(directions, np.float32)
        for name in OPTIONAL:
            array = getattr(self, name)
            if array is not None and array.shape[:1] != self.pooled.shape[1:]:
                raise ParameterError(f"{name} has shape {array.shape}: give {self.pooled.shape[1:]}")
        self.n_neighbors, self.sure_from, self.most_frames = n_neighbors, sure_from, most_frames
        self._classes, self._of = np.unique(np.array(self.views), return_inverse=True)
        self._weights = frame_weights(self.views, self.labelled)
        self._directions: FloatArray = (
            discriminants(self.pooled, self.views, weights=self._weights)
            if self.directions is None
            else np.asarray(self.directions, np.float64)
        )
        self._neighbours = NearestNeighbors(n_neighbors=min(n_neighbors, len(self.views)), algorithm="brute").fit(
            self.pooled @ self._directions
        )

    @classmethod
    @bounded
    def build(
        cls,
        backbone: Backbone,
        frames: ByteArray,
        views: Sequence[str],
        *,
        copies: NonNegativeInt = 0,
        seed: Seed = 0,
        **settings: Any,
    ) -> Self:
        """Build a bank from labelled frames.

        Args:
            backbone: Locked convolutional backbone.
            frames: (N, H, W) uint8, square if copies are made.
            views: (N,) names of their views.
            copies: Number of changed copies of each frame with which the discriminants are computed.
            seed: Seed of the changes.
            **settings: Arguments of the class.
        """
        pooled, thumbnails = cls.pool(backbone, frames)
        if copies and settings.get("directions") is None:
            generator = torch.Generator().manual_seed(seed)
            changed = [cls.pool(backbone, _changed(frames, generator))[0] for _ in range(copies)]
            settings["directions"] = discriminants(np.concatenate([pooled, *changed]), [*views] * (1 + copies))
        two = np.flatnonzero(np.array(views) == "A2C")
        if len(two) and "sides" not in settings:
            swapped = cls.pool(backbone, frames[two][..., ::-1])[0]
            settings["sides"] = direction_of_sides(pooled[two], swapped)
        return cls(backbone, views, pooled, thumbnails, **settings)

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str], backbone: Backbone | None = None) -> Self:
        """Read a bank by its path, or a shipped bank by its name (``alan-sim-views``).

        Args:
            path_or_name: The file, or the name.
            backbone: The backbone of the bank, if it is already loaded; None loads it by the name in the file.

        Raises:
            DataError: The file is missing or damaged, or belongs to another backbone.
        """
        path = shipped_or_path(path_or_name)
        facts, bank = read_bank(path)
        if backbone is None:
            beside = Path(path).with_name(facts["backbone"] + ".safetensors")
            backbone = load_backbone(beside if beside.is_file() else facts["backbone"])
        if facts["weights"] != _weights(backbone):
            raise DataError(
                f"{path}: belongs to another backbone: load {facts['backbone']}, or build the bank again"
            )
        return cls(backbone, **bank)

    def save(self, path: str | os.PathLike[str], backbone: str) -> None:
        """Write the bank as safetensors, atomically.

        Args:
            path: File, ending in ``.safetensors``.
            backbone: Name of a backbone that is shipped or beside this file, which :meth:`load` reads.
        """
        write_bank(path, {"backbone": backbone, "weights": _weights(self.backbone)}, self)

    def with_archive(self, frames: ByteArray, views: Sequence[str] = ("A4C", "A2C")) -> Self:
        """Return a bank whose ``shift`` and ``directions`` are measured on unlabelled frames of an archive.

        The shift is the mean feature of these frames less the mean of the bank's frames of ``views``. It is right
        as far as the archive shows these views equally often: with three times as many frames of one view as of
        the other, most of the gain is lost, and with frames of one view alone the views are confused.

        The directions are the discriminants of the bank and of the frames that it then names with certainty, which
        count as labelled ones: one round of self-training. These frames are not added to the bank.

        Args:
            frames: (N, H, W) uint8, of many patients.
            views: Views that the frames show, each equally often.

        Raises:
            ParameterError: The bank has no frame of one of the views.
        """
        pooled = self.pool(self.backbone, frames)[0]
        built = self.directions if self.shift is None else None
        moved = self._copy(shift=pooled.mean(0) - self._centre(views), directions=built)
        shares = moved._vote(pooled)[0]
        names = self._classes[shares.argmax(1)]
        certain = (shares.max(1) >= self.sure_from) & np.isin(names, views)
        real, known = pooled[certain] - moved.shift, names[certain].tolist()
        found = self_trained(self.pooled, self.views, self.labelled, real, known) if known else None
        return moved._copy(directions=built if found is None else found)

    def with_frames(self, frames: ByteArray, views: Sequence[str]) -> Self:
        """Return a bank with additional real labelled frames.

        A bank without a ``shift`` measures it on these frames, as the mean over their views, and computes its
        ``directions`` with them. Those of an archive stay, unless the frames show a view that the bank does not
        have.

        Args:
            frames: (N, H, W) uint8.
            views: (N,) names of their views.
        """
        pooled, thumbnails = self.pool(self.backbone, frames)
        shift, known = self.shift, sorted({*views} & {*self.views})
        if shift is None and known:
            names = np.array(views)
            shift = np.mean([pooled[names == view].mean(0) for view in known], 0) - self._centre(known)
        return self._copy(
            views=(*self.views, *views),
            pooled=np.concatenate([self.pooled, pooled if shift is None else pooled - shift]),
            thumbnails=np.concatenate([self.thumbnails, thumbnails]),
            labelled=np.concatenate([self.labelled, np.ones(len(views), bool)]),
            shift=shift,
            directions=self.directions if self.shift is not None and {*views} <= {*self.views} else None,
        )

    def _centre(self, views: Sequence[str]) -> Float32Array:
        """Compute the mean over views of the mean feature of the bank's frames, (D,)."""
        lacking = [view for view in views if view not in self.views]
        if lacking or not views:
            raise ParameterError(
                f"views is {list(views)}: give views of the bank, {', '.join(sorted({*self.views}))}"
            )
        names = np.array(self.views)
        return np.asarray(np.mean([self.pooled[names == view].mean(0) for view in views], 0), np.float32)

    def _copy(self, **changes: Any) -> Self:
        arrays = ("views", "pooled", "thumbnails", "labelled", *OPTIONAL)
        names = (*arrays, "n_neighbors", "sure_from", "most_frames")
        return type(self)(self.backbone, **{name: getattr(self, name) for name in names} | changes)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that determines the recognised views."""
        settings = (SHRINKAGE, self.n_neighbors, self.sure_from, self.most_frames)
        arrays = {name: getattr(self, name) for name in ("pooled", "thumbnails", *OPTIONAL)}
        if self.labelled.any():
            arrays |= {"labelled": self.labelled}
        tensors = {name: torch.from_numpy(x) for name, x in arrays.items() if x is not None}
        return fingerprint([_weights(self.backbone), fingerprint_tensors(tensors), self.views, settings])

    @staticmethod
    @torch.no_grad()
    def pool(backbone: Backbone, frames: ByteArray) -> tuple[Float32Array, ByteArray]:
        """Compute the features (N, D) float32 and the thumbnails (N, 28, 28) uint8 of frames."""
        pooled, thumbnails = [], []
        side = backbone.input_size
        for start in range(0, len(frames), _BATCH):
            part = np.ascontiguousarray(frames[start : start + _BATCH])  # swapped frames are not contiguous
            grey = torch.from_numpy(part)[:, None].float() / 255
            if grey.shape[-2:] != (side, side):
                grey = _resize(grey, side)
            pooled.append(backbone.pooled(part).cpu().numpy())
            small = _resize(grey, THUMBNAIL)[:, 0]
            thumbnails.append((255 * small.clamp(0, 1)).round().to(torch.uint8).numpy())
        return np.concatenate(pooled), np.concatenate(thumbnails)

    def classify(self, frames: ByteArray) -> ViewResult:
        """Recognise the view of one loop.

        Args:
            frames: (T, H, W) uint8, a loop or a still, cropped to its fan.

        Returns:
            The view and its evidence.

        Raises:
            ParameterError: The frames are not a non-empty uint8 array (T, H, W).
        """
        if frames.ndim != 3 or frames.dtype != np.uint8 or not frames.size:
            raise ParameterError(
                f"frames are {frames.dtype} {frames.shape}: give a non-empty uint8 array (T, H, W)"
            )
        pooled = self.pool(self.backbone, frames[evenly_spread(len(frames), self.most_frames)])[0]
        votes, rows = self._vote(pooled)
        shares = votes.mean(0)
        best = int(shares.argmax())
        view = str(self._classes[best])
        own, counts = np.unique(
            rows[np.isin(rows, np.flatnonzero(np.array(self.views) == view))], return_counts=True
        )
        own = own[np.argsort(-counts, kind="stable")][: self.n_neighbors]
        each = {str(name): float(share) for name, share in zip(self._classes, shares, strict=True)}
        share = float(shares[best])
        return ViewResult(view, share, each, own, self.thumbnails[own], share < self.sure_from)

    def _vote(self, pooled: Float32Array) -> tuple[FloatArray, NDArray[np.int64]]:
        """Compute each class's share of the votes (T, C) for features (T, D), and the rows that voted (T, k)."""
        features = (pooled if self.shift is None else pooled - self.shift) @ self._directions
        rows = np.asarray(self._neighbours.kneighbors(features, return_distance=False), np.int64)
        votes = self._weights[rows][..., None] * (self._of[rows][..., None] == np.arange(len(self._classes)))
        return votes.sum(1) / votes.sum((1, 2))[:, None], rows

    @torch.no_grad()
    def looks_mirrored(self, frames: ByteArray, found: ViewResult | None = None) -> bool:
        """Return whether a loop shows an apical view with left and right swapped.

        With left and right swapped back, more votes are for A4C, or its frames lie on the side of A2C in the
        direction ``sides``; and the network is clearly more certain of structures.

        Args:
            frames: (T, H, W) uint8, the loop.
            found: Its view, see :meth:`classify`; None recognises it.

        Returns:
            True if it does; False also if the network does not predict structures.
        """
        if not self.backbone.spec.structures:
            return False
        found = found or self.classify(frames)
        swapped = np.ascontiguousarray(frames[..., ::-1])
        gain = self.classify(swapped).votes.get("A4C", 0.0) - found.votes.get("A4C", 0.0)
        few = evenly_spread(len(frames), _CERTAIN_FRAMES)
        two = found.view == "A2C" and self.sides is not None
        if gain < MIRRORED_GAIN and not (two and self._side(frames[few], swapped[few]) <= -MIRRORED_SIDE):
            return False
        more = self.backbone.certainty(swapped[few]) - self.backbone.certainty(frames[few])
        return more >= MIRRORED_CERTAINTY

    def _side(self, frames: ByteArray, swapped: ByteArray) -> float:
        """Compute the place of frames in the direction of ``sides``, positive for A2C."""
        own, other = (self.pool(self.backbone, pictures)[0].mean(0) for pictures in (frames, swapped))
        return float((own - other) @ self.sides)


def _resize(grey: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(grey, (side, side), mode="bilinear", antialias=True, align_corners=False)


def _changed(frames: ByteArray, generator: torch.Generator) -> ByteArray:
    """Change geometry and appearance of square frames (N, S, S) uint8."""
    changes = DenseAugmentation().scaled(_STRENGTH)
    parts = [torch.from_numpy(frames[start : start + _BATCH]) for start in range(0, len(frames), _BATCH)]
    grey = torch.cat([changes.augment(part, generator)[0] for part in parts])[:, 0]
    return np.asarray((255 * grey).round().to(torch.uint8).numpy())


def _weights(backbone: Backbone) -> str:
    """Compute the fingerprint of the weights of a backbone, which does not depend on its features."""
    return fingerprint_tensors(backbone.network.state_dict())
