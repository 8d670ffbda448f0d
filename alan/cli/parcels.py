"""The verb ``alan parcels``: k-means parcels of a frame store, from a configuration to a run folder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

from alan.backbone.load import load_backbone
from alan.data.store.choose import choose_frames
from alan.data.store.reader import FrameStore
from alan.errors import ParameterError
from alan.parcels.guided import GuidedFilter
from alan.parcels.kmeans import fit_kmeans
from alan.parcels.model import save_parcels
from alan.runs import open_run

_log = logging.getLogger(__name__)
_FILE = "parcels.safetensors"


def parcels(
    store: str,
    backbone: str,
    out: str,
    *,
    split: str | None = "train",
    views: list[str] | None = None,
    frames: Literal["all", "annotated"] | int = "all",
    n_parcels: int = 112,
    n_components: int | None = None,
    whiten: bool = False,
    spherical: bool = False,
    sector_only: bool = True,
    refine: GuidedFilter | None = None,
    input_size: int | None = None,
    stride: int | None = None,
    max_samples: int = 60_000,
    batch_size: int = 32,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Fit k-means parcels on the unlabelled frames of a store.

    The run folder holds ``config.yaml`` and ``parcels.safetensors``, which ``alan evaluate`` and ``alan cache``
    take. The same command again, on the same store and backbone, leaves them as they are.

    Args:
        store: the frame store, written by ``alan prepare``.
        backbone: path or name of the locked backbone.
        out: the run folder.
        split: train, val or test, or null for all frames of the store.
        views: views to take, or null for all.
        frames: all, annotated (those with masks and at ED and ES), or a number: so many of each sequence.
        n_parcels: K, 2 to 254.
        n_components: principal components kept before k-means; null for no PCA.
        whiten: scale the components to unit variance.
        spherical: compare the directions of tokens only.
        sector_only: fit inside the ultrasound sector; the outside becomes background.
        refine: radius and eps of the guided filter by which borders follow the image; null for none.
        input_size: side to which the backbone resizes frames; null for its own.
        stride: step between tokens in pixels; null for the backbone's own.
        max_samples: tokens on which k-means is fitted, at most.
        batch_size: frames at a time.
        seed: of all draws.
        overwrite: replace a run with another configuration.

    Returns:
        The path of the parcels file.

    Raises:
        ConfigError: the folder holds a run with another configuration or other inputs.
        AlanError: an input that is missing, or a parameter out of range; the folder is left as it was.
    """
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}; give 1 or more")
    frame_store = FrameStore(store)
    index = choose_frames(frame_store, split, views, frames)
    locked = load_backbone(backbone, input_size=input_size, stride=stride)
    settings: dict[str, Any] = {
        "n_parcels": n_parcels,
        "n_components": n_components,
        "whiten": whiten,
        "spherical": spherical,
        "sector_only": sector_only,
        "max_samples": max_samples,
    }
    config = {
        "store": store,
        "backbone": backbone,
        "split": split,
        "views": views,
        "frames": frames,
        **settings,
        "refine": refine,
        "input_size": input_size,
        "stride": stride,
        "seed": seed,
        "inputs": {"store": frame_store.fingerprint, "backbone": locked.fingerprint},
    }
    folder, path = Path(out), Path(out) / _FILE
    with open_run(folder, config, overwrite, (_FILE,)) as run:
        if run.resumed and path.exists():
            _log.info("%s: the same configuration and inputs as before, nothing to do", path)
            return path
        model = fit_kmeans(
            locked,
            frame_store.frames(index),
            **settings,
            random_state=seed,
            batch_size=batch_size,
            source=backbone,
            refine=refine,
        )
        save_parcels(model, path)
    _log.info("%s: %d parcels of %d frames", path, n_parcels, len(index))
    return path
