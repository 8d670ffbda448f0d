"""Where parcels come from: parcels files, and the k-means baselines on the same and on an untrained backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alan.backbone.load import Backbone, random_like
from alan.data.store.reader import FrameStore
from alan.evaluation.maps import parcel_maps
from alan.parcels.kmeans import fit_kmeans
from alan.parcels.model import ParcelModel, load_parcels


class Source(NamedTuple):
    """A source of parcels with its maps of the chosen frames.

    Attributes:
        name: as shown.
        kind: ``parcels`` (a parcels file), or the baselines ``k-means`` and ``random``.
        fingerprint: of the parcel model.
        n_parcels: K.
        background_id: the id of pixels outside the sector, or None.
        label: (n, S, S) uint8 parcel maps of the labelled frames.
        test: (m, S, S) uint8 parcel maps of the test frames.
    """

    name: str
    kind: str
    fingerprint: str
    n_parcels: int
    background_id: int | None
    label: NDArray[np.uint8]
    test: NDArray[np.uint8]


def read_sources(
    parcels: Mapping[str, str],
    store: FrameStore,
    label_frames: NDArray[np.int64],
    test_frames: NDArray[np.int64],
    folder: Path,
    *,
    kmeans: Sequence[int],
    random_vit: bool,
    pool: NDArray[np.int64],
    seed: int,
    batch_size: int,
) -> list[Source]:
    """Load every source of parcels and compute its maps.

    Args:
        parcels: name to the path of a parcels file; empty for no source at all.
        store: the frame store.
        label_frames: (n,) global indices of the labelled frames.
        test_frames: (m,) global indices of the test frames.
        folder: where the maps are kept.
        kmeans: numbers of parcels of the k-means baselines; empty for none.
        random_vit: k-means on an untrained backbone too.
        pool: (f,) global indices of the frames on which k-means is fitted.
        seed: of k-means and of the untrained backbone.
        batch_size: frames at a time.

    Returns:
        The parcels files in their order, then k-means, then k-means on the untrained backbone.

    Raises:
        CheckpointError: a parcels file that cannot be read.
    """
    models = [(name, "parcels", load_parcels(path)) for name, path in parcels.items()]
    models += baselines(models, store, kmeans=kmeans, random_vit=random_vit, pool=pool, seed=seed)
    frames = np.concatenate([label_frames, test_frames])
    found = []
    for number, (name, kind, model) in enumerate(models):
        maps = parcel_maps(model, store, frames, folder / f"{number}.npz", batch_size=batch_size, name=name)
        ids = (model.fingerprint, model.n_parcels, model.background_id)
        found.append(Source(name, kind, *ids, maps[: len(label_frames)], maps[len(label_frames) :]))
    return found


def baselines(
    models: Sequence[tuple[str, str, ParcelModel]],
    store: FrameStore,
    *,
    kmeans: Sequence[int],
    random_vit: bool,
    pool: NDArray[np.int64],
    seed: int,
) -> list[tuple[str, str, ParcelModel]]:
    """K-means on the features of each backbone that the models use, and on an untrained one of its shape.

    Where the first parcels file leaves the outside of the sector out, so do they.

    Args:
        models: name, kind and model of the parcels files.
        store: the frame store.
        kmeans: numbers of parcels.
        random_vit: whether the untrained backbone is wanted.
        pool: (f,) global indices of the frames on which k-means is fitted.
        seed: of k-means and of the untrained backbone.

    Returns:
        Name, kind (``k-means`` or ``random``) and model of each baseline.
    """
    if not kmeans or not models:
        return []
    backbones: dict[str, tuple[str, Backbone]] = {}
    for name, _, model in models:
        backbones.setdefault(model.backbone.fingerprint, (name, model.backbone))
    frames = store.frames(pool)

    def clustered(backbone: Backbone, k: int) -> ParcelModel:
        return fit_kmeans(backbone, frames, k, sector_only=models[0][2].sector_only, random_state=seed)

    named = [(f" ({name})" if len(backbones) > 1 else "", backbone) for name, backbone in backbones.values()]
    found = [
        (f"k-means, K = {k}{where}", "k-means", clustered(backbone, k))
        for where, backbone in named
        for k in kmeans
    ]
    if random_vit:
        found += [
            (
                f"random ViT, K = {k}{where}",
                "random",
                clustered(random_like(backbone, seed), k),
            )
            for where, backbone in named
            for k in kmeans
        ]
    return found
