"""Sources of parcels: parcels files, and the k-means baselines on the same and on an untrained backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alan.backbone.base import Backbone
from alan.backbone.load import random_like
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.prior import ParcelPrior
from alan.evaluation.maps import parcel_maps
from alan.evaluation.priors import count_priors
from alan.parcels.kmeans import fit_kmeans
from alan.parcels.model import ParcelModel, load_parcels


class MappedSource(NamedTuple):
    """Source of parcels with its maps of the chosen frames.

    Attributes:
        name: Name in the report.
        kind: ``parcels`` (a parcels file), or the baselines ``k-means`` and ``random``.
        fingerprint: Fingerprint of the parcel model.
        n_parcels: Number of parcels K.
        background_id: Id of pixels outside the sector, or None.
        label: (n, S, S) uint8 parcel maps of the labelled frames.
        test: (m, S, S) uint8 parcel maps of the test frames.
        priors: (Structure, phase) to its prior; empty without a store of simulated frames.
    """

    name: str
    kind: str
    fingerprint: str
    n_parcels: int
    background_id: int | None
    label: NDArray[np.uint8]
    test: NDArray[np.uint8]
    priors: Mapping[tuple[str, str], ParcelPrior]


class PriorSettings(NamedTuple):
    """Frames on which the priors of all sources are counted.

    Attributes:
        store: Frame store of simulated frames.
        structures: Structures to count.
        phases: Phases with a prior of their own; an empty string means all frames together.
    """

    store: FrameStore
    structures: Sequence[str]
    phases: Sequence[str]


def read_sources(
    models: Sequence[tuple[str, str, ParcelModel]],
    store: FrameStore,
    label_frames: NDArray[np.int64],
    test_frames: NDArray[np.int64],
    folder: Path,
    *,
    prior: PriorSettings | None,
    batch_size: int,
) -> list[MappedSource]:
    """Compute the parcel maps of every source, and count its priors.

    Args:
        models: Name, kind and model of each source.
        store: Frame store.
        label_frames: (n,) global indices of the labelled frames.
        test_frames: (m,) global indices of the test frames.
        folder: Folder of the maps and priors.
        prior: Frames on which the priors are counted; None if there are none.
        batch_size: Frames per forward pass.
    """
    frames = np.concatenate([label_frames, test_frames])
    found = []
    for number, (name, kind, model) in enumerate(models):
        maps = parcel_maps(model, store, frames, folder / f"{number}.npz", batch_size=batch_size, name=name)
        priors = (
            count_priors(
                model, prior.store, prior.structures, phases=prior.phases, folder=folder, batch_size=batch_size
            )
            if prior
            else {}
        )
        ids = (model.fingerprint, model.n_parcels, model.background_id)
        found.append(MappedSource(name, kind, *ids, maps[: len(label_frames)], maps[len(label_frames) :], priors))
    return found


def load_sources(
    parcels: Mapping[str, str],
    store: FrameStore,
    *,
    kmeans: Sequence[int],
    random_vit: bool,
    pool: NDArray[np.int64],
    seed: int,
) -> list[tuple[str, str, ParcelModel]]:
    """Load parcels files, and fit the k-means baselines on the features of their backbones.

    If the first parcels file leaves out what lies outside the sector, the baselines do so too.

    Args:
        parcels: Name to the path of a parcels file; empty for no source at all.
        store: Frame store.
        kmeans: Numbers of parcels of the baselines; empty for none.
        random_vit: Whether to add k-means on an untrained backbone of the same shape.
        pool: (f,) global indices of the frames on which k-means is fitted.
        seed: Seed of k-means and of the untrained backbone.

    Returns:
        Name, kind (``parcels``, ``k-means`` or ``random``) and model: the parcels files in their order, then
        k-means, then k-means on the untrained backbone.

    Raises:
        CheckpointError: A parcels file cannot be read.
    """
    models = [(name, "parcels", load_parcels(path)) for name, path in parcels.items()]
    if not kmeans or not models:
        return models
    backbones: dict[str, tuple[str, Backbone]] = {}
    for name, _, model in models:
        backbones.setdefault(model.backbone.fingerprint, (name, model.backbone))
    frames, sector_only = store.frames(pool), models[0][2].sector_only
    for title, kind in (("k-means", "k-means"), ("random ViT", "random"))[: 1 + random_vit]:
        for name, backbone in backbones.values():
            features = random_like(backbone, seed) if kind == "random" else backbone
            where = f" ({name})" if len(backbones) > 1 else ""
            for k in kmeans:
                model = fit_kmeans(features, frames, k, sector_only=sector_only, seed=seed)
                models.append((f"{title}, K = {k}{where}", kind, model))
    return models
