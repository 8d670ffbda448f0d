"""Priors of parcels: how much of each parcel lies in a structure, counted on a store of simulated frames."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.fitting import LabelledMaps, count_prior
from alan.downstream.whitebox.prior import ParcelPrior
from alan.errors import DataError, SplitLeakError
from alan.evaluation.maps import parcel_maps
from alan.files import fingerprint, write_text
from alan.parcels.model import ParcelModel


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
        (Structure, phase) to the prior.

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
