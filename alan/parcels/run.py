"""The run folder of ``alan parcels``: k-means parcels fitted on a frame store."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from alan.bounds import PositiveInt, Seed, bounded
from alan.parcels.count import ParcelCount, check_kmeans
from alan.parcels.guided import GuidedFilter
from alan.runs import open_run, settings

_log = logging.getLogger(__name__)
_FILE = "parcels.safetensors"


@bounded
def run_parcels(
    store: str,
    backbone: str,
    out: str,
    *,
    split: str | None = "train",
    views: list[str] | None = None,
    frames: Literal["all", "annotated"] | int = "all",
    n_parcels: ParcelCount = 112,
    n_components: PositiveInt | None = None,
    whiten: bool = False,
    spherical: bool = False,
    sector_only: bool = True,
    refine: GuidedFilter | None = None,
    input_size: PositiveInt | None = None,
    stride: PositiveInt | None = None,
    max_samples: PositiveInt = 60_000,
    batch_size: PositiveInt = 32,
    seed: Seed = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> Path:
    """Fit k-means parcels on the unlabelled frames of a store.

    The run folder contains ``config.yaml`` and ``parcels.safetensors``, which ``alan name``, ``alan evaluate`` and
    ``alan cache`` take. Running the same command again on the same store and backbone changes nothing.

    Args:
        store: Frame store, written by ``alan prepare``.
        backbone: Path or name of the locked backbone.
        out: The run folder.
        split: Split of the store (train, val or test); null for all.
        views: Views taken from the store; null for all.
        frames: Frames taken from the store: all, annotated (with masks, and ED and ES), or N evenly spread frames
            per sequence.
        n_parcels: Number of parcels K, 2 to 254.
        n_components: Number of principal components kept before k-means; null for no PCA.
        whiten: Scale the principal components to unit variance.
        spherical: Compare the directions of tokens only.
        sector_only: Fit inside the ultrasound sector only; the outside becomes background.
        refine: Guided filter that aligns the borders between parcels with edges of the image (radius, eps,
            subsample); null disables it.
        input_size: Side in pixels to which the backbone resizes frames; null for its training size.
        stride: Distance between tokens in pixels; null for the default of the backbone.
        max_samples: Largest number of tokens on which k-means is fitted.
        batch_size: Number of frames that go through the backbone at a time.
        seed: Seed of all draws.
        device: Device that runs the backbone: cpu, cuda, cuda:1, or auto for a GPU where there is one.
        overwrite: Replace a run with another configuration.

    Returns:
        The path of the parcels file.

    Raises:
        ConfigError: The folder contains a run with another configuration or other inputs.
        AlanError: An input is missing, or a parameter is out of bounds; the folder is left as it was.
    """
    given = settings(locals(), "batch_size", "device")
    check_kmeans(n_parcels, max_samples, n_components, whiten=whiten)
    from alan.backbone.load import load_backbone
    from alan.data.store.reader import FrameStore
    from alan.devices import choose_device
    from alan.parcels.kmeans import fit_kmeans
    from alan.parcels.model import save_parcels

    frame_store, chosen = FrameStore(store), choose_device(device)
    index = frame_store.choose_frames(split, views, frames)
    locked = load_backbone(backbone, input_size=input_size, stride=stride)
    config = {**given, "inputs": {"store": frame_store.fingerprint, "backbone": locked.fingerprint}}
    folder, path = Path(out), Path(out) / _FILE
    with open_run(folder, "parcels", config, overwrite, (_FILE,)) as run:
        if run.resumed and path.exists():
            _log.info("%s: the same configuration and inputs as before, nothing to do", path)
            return path
        model = fit_kmeans(
            locked.to(chosen),
            frame_store.frames(index),
            n_parcels,
            n_components=n_components,
            whiten=whiten,
            spherical=spherical,
            sector_only=sector_only,
            seed=seed,
            max_samples=max_samples,
            batch_size=batch_size,
            source=backbone,
            refine=refine,
        )
        save_parcels(model, path)
    _log.info("%s: %d parcels of %d frames", path, n_parcels, len(index))
    return path
