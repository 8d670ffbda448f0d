"""Sources of parcels: parcels files, and the k-means baselines on the same and on an untrained backbone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alan.backbone.base import Backbone
from alan.backbone.load import random_like
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.prior import ParcelPrior
from alan.evaluation.maps import count_priors, parcel_maps
from alan.evaluation.protocols import SegmentationProtocol
from alan.evaluation.splits import EvaluationSplits
from alan.parcels.kmeans import fit_kmeans
from alan.parcels.model import ParcelModel, load_parcels


class MappedSource(NamedTuple):
    """Source of parcels with its maps of the chosen frames.

    Attributes:
        name: Name in the report.
        kind: ``parcels`` (a parcels file), or the baselines ``k-means`` and ``random``.
        model: The parcel model.
        label: (n, S, S) uint8 parcel maps of the labelled frames.
        test: (m, S, S) uint8 parcel maps of the test frames.
        priors: Mapping from (structure, phase) to its prior; empty without a store of simulated frames.
    """

    name: str
    kind: str
    model: ParcelModel
    label: NDArray[np.uint8]
    test: NDArray[np.uint8]
    priors: Mapping[tuple[str, str], ParcelPrior]


def read_sources(
    protocol: SegmentationProtocol, store: FrameStore, splits: EvaluationSplits, folder: Path
) -> list[MappedSource]:
    """Load the sources of parcels, compute the maps of each, and count its priors.

    Args:
        protocol: The protocol.
        store: Its frame store.
        splits: Its labelled and test frames.
        folder: Folder of the maps and priors.

    Returns:
        The parcels files in their order, then k-means, then k-means on the untrained backbone.

    Raises:
        CheckpointError: A parcels file cannot be read.
    """
    n, size = len(splits.label), protocol.batch_size
    frames = np.concatenate([splits.label["frame"].to_numpy(), splits.test["frame"].to_numpy()])
    simulated = None if protocol.prior is None else FrameStore(protocol.prior)
    found = []
    for number, (name, kind, model) in enumerate(_models(protocol, store)):
        maps = parcel_maps(model, store, frames, folder / f"{number}.npz", batch_size=size, name=name)
        priors: Mapping[tuple[str, str], ParcelPrior] = {}
        if simulated is not None:
            structures, lists = protocol.structures, protocol.lists
            priors = count_priors(model, simulated, structures, phases=lists, folder=folder, batch_size=size)
        found.append(MappedSource(name, kind, model, maps[:n], maps[n:], priors))
    return found


def _models(protocol: SegmentationProtocol, store: FrameStore) -> list[tuple[str, str, ParcelModel]]:
    """Load parcels files, and fit the k-means baselines on the features of their backbones.

    k-means is fitted on the training split, or on the label split without one. If the first parcels file leaves
    out what lies outside the sector, the baselines do so too.
    """
    models = [(name, "parcels", load_parcels(path)) for name, path in protocol.parcels.items()]
    if not protocol.kmeans or not models:
        return models
    backbones: dict[str, tuple[str, Backbone]] = {}
    for name, _, model in models:
        backbones.setdefault(model.backbone.fingerprint, (name, model.backbone))
    index = store.choose_frames(protocol.train_split or protocol.label_split, protocol.views)
    n, seed = min(len(index), protocol.kmeans_frames), protocol.seed
    frames = store.frames(np.sort(np.random.default_rng(seed).choice(index, n, replace=False)))
    for title, kind in (("k-means", "k-means"), ("random ViT", "random"))[: 1 + protocol.random_vit]:
        for name, backbone in backbones.values():
            features = random_like(backbone, seed) if kind == "random" else backbone
            where = f" ({name})" if len(backbones) > 1 else ""
            for k in protocol.kmeans:
                model = fit_kmeans(features, frames, k, sector_only=models[0][2].sector_only, seed=seed)
                models.append((f"{title}, K = {k}{where}", kind, model))
    return models
