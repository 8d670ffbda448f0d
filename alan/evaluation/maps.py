"""Maps of frames (of parcels, or of the labels of a network) and priors, computed once and kept in a folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alan.arrays import load_arrays
from alan.data.store.reader import FrameStore
from alan.devices import choose_device
from alan.downstream.whitebox.fitting import LabelledMaps, count_prior
from alan.downstream.whitebox.prior import ParcelPrior
from alan.errors import DataError, SplitLeakError
from alan.files import atomic, fingerprint, write_text
from alan.parcels.model import ParcelModel
from alan.progress import batches


def parcel_maps(
    model: ParcelModel, store: FrameStore, frames: NDArray[np.int64], path: Path, *, batch_size: int, name: str
) -> NDArray[np.uint8]:
    """Compute parcel maps of frames, or read those of an earlier call.

    Args:
        model: Frozen backbone and parcel head.
        store: Frame store.
        frames: (n,) global frame indices.
        path: File of the maps; it is replaced if it belongs to another model, store or frames.
        batch_size: Frames per forward pass.
        name: Title of the progress bar.

    Returns:
        (n, S, S) uint8 at the size of the store.
    """
    device = choose_device()

    def predict(batch: Tensor) -> NDArray[np.uint8]:
        return model.to(device).maps(batch.to(device), store.size).cpu().numpy()

    return kept_maps(
        predict, model.fingerprint, store, frames, path, batch_size=batch_size, title=f"parcels: {name}"
    )


def kept_maps(
    predict: Callable[[Tensor], NDArray[np.uint8]],
    model: str,
    store: FrameStore,
    frames: NDArray[np.int64],
    path: Path,
    *,
    batch_size: int,
    title: str,
) -> NDArray[np.uint8]:
    """Compute maps of frames by any model, or read those of an earlier call.

    Args:
        predict: Frames (B, S, S) uint8 to maps (B, S, S) uint8.
        model: Fingerprint of the model.
        store: Frame store.
        frames: (n,) global frame indices.
        path: File of the maps; it is replaced if it belongs to another model, store or frames.
        batch_size: Frames per forward pass.
        title: Title of the progress bar.

    Returns:
        (n, S, S) uint8.
    """
    key = fingerprint([model, store.fingerprint, store.size, frames.tolist()])
    kept = _read(path, key)
    if kept is not None:
        return kept
    maps = np.empty((len(frames), store.size, store.size), np.uint8)
    with torch.inference_mode():
        for part in batches(len(frames), batch_size, title):
            maps[part] = predict(torch.from_numpy(store.frames(frames[part])))
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, key=np.array(key), maps=maps)
    return maps


def _read(path: Path, key: str) -> NDArray[np.uint8] | None:
    """Read the maps of a file; None if it is missing, damaged or has another key."""
    try:
        file = load_arrays(path, ("key", "maps"))
        return np.asarray(file["maps"], np.uint8) if str(file["key"]) == key else None
    except DataError:
        return None


def check_prior(path: str, structures: Sequence[str], measured: FrameStore) -> None:
    """Refuse a store on which no prior can be counted.

    Args:
        path: Frame store of the prior.
        structures: Structures to count.
        measured: Frame store that is measured.

    Raises:
        DataError: The store is missing or lacks a structure.
        SplitLeakError: It is the store that is measured.
    """
    store = FrameStore(path)
    store.check_structures(structures)
    if store.fingerprint == measured.fingerprint:
        raise SplitLeakError(
            f"{path}: the prior is counted on the store that is measured: give a store of simulated frames"
        )


def count_priors(
    model: ParcelModel,
    store: FrameStore,
    structures: Sequence[str],
    *,
    phases: Sequence[str],
    folder: Path,
    batch_size: int,
) -> dict[tuple[str, str], ParcelPrior]:
    """Count the priors of structures on all ED and ES frames of a store, or read those of an earlier call.

    Args:
        model: Parcel model.
        store: Frame store of simulated frames.
        structures: Structures to count.
        phases: Phases, each with a prior of its own; an empty string means all frames together.
        folder: Folder of the files.
        batch_size: Frames per forward pass.

    Returns:
        Mapping from (structure, phase) to the prior.

    Raises:
        DataError: The store has no frame of a phase.
    """
    table = store.labelled()
    frames = table["frame"].to_numpy()
    key = fingerprint([model.fingerprint, store.fingerprint, frames.tolist()])[:16]
    priors = {}
    for structure, phase in itertools.product(structures, phases):
        path = folder / f"prior-{structure}{phase and '-' + phase.lower()}-{key}.json"
        if not path.exists():
            kept = folder / f"maps-{key}.npz"
            maps = parcel_maps(model, store, frames, kept, batch_size=batch_size, name="prior")
            masks = np.asarray(store.label_maps(table["label"].to_numpy(), [structure]) > 0)
            labels = LabelledMaps(maps, masks, table["patient"].to_numpy(), table["phase"].to_numpy())
            given = labels.of_phase(phase)
            if not len(given.maps):
                raise DataError(f"{store.path}: the prior's store has no frame of the phase {phase!r}")
            write_text(path, count_prior(model, structure, given).to_json())
        priors[structure, phase] = ParcelPrior.from_json(path)
    return priors
