"""The verb ``alan name``: white boxes without a human label, by the simulator's own names for the parcels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from alan.data.splits import draw_patients
from alan.data.store.reader import FrameStore
from alan.data.structures import check_structures
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import ParameterError, SelectionError
from alan.files import write_text
from alan.parcels.model import ParcelModel, load_parcels
from alan.runs import CONFIG, open_run

_log = logging.getLogger(__name__)

#: The steps that suit taught parcels, whose borders are smooth already (chosen on validation patients of CAMUS).
TAUGHT = PostProcessing(closing_radius=0, contour=False, median_radius=5)


def name(
    parcels: str,
    store: str,
    out: str,
    *,
    structures: list[str] = ["lv", "myo", "la"],  # noqa: B006 (shown by --help; never changed)
    split: str | None = None,
    views: list[str] | None = None,
    postprocessing: PostProcessing = TAUGHT,
    labels: str | None = None,
    label_split: str | None = "val",
    label_patients: int | None = None,
    share_above: float = 0.4,
    level: float = 0.5,
    prior_strength: float = 8.0,
    batch_size: int = 64,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Name parcels by simulated frames: white boxes of each structure without a human label.

    Counts on the ED and ES frames of a simulated store how much of each parcel lies in a structure, and takes the
    parcels that likely do by more than ``share_above``. The run folder holds ``config.yaml``, the counts as
    ``prior-<structure>.json``, and the white boxes as ``<structure>.json``, which ``alan segment`` takes; each
    says what it learnt from. The same command again, on the same inputs, leaves them as they are.

    Args:
        parcels: path or name of the parcel model.
        store: frame store of a simulated archive (alan simulate, alan prepare), with masks at ED and ES.
        out: the run folder.
        structures: structures of the store; unions are written lv+myo.
        split: train, val or test of the simulated store, or null for all of it.
        views: views of both stores, or null for all.
        postprocessing: the steps from parcels to segment.
        labels: frame store of real frames whose masks, at any phase, update the choice; null for none.
        label_split: the side of it whose labels are used, or null for all.
        label_patients: number of its labelled patients, drawn by seed; null for all.
        share_above: share in the structure that a parcel must exceed.
        level: how probable that must be.
        prior_strength: pixels that the simulated counts of a parcel may weigh at most against real labels.
        batch_size: frames at a time.
        seed: of the draw of patients.
        overwrite: replace a run with another configuration.

    Returns:
        The run folder.

    Raises:
        ConfigError: the folder holds a run with another configuration or other inputs.
        SelectionError: no parcel likely lies in a structure; the message names the best.
        AlanError: an input that is missing, or a parameter out of range; the folder is left as it was.
    """
    check_structures(structures)
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size}; give 1 or more")
    simulated, real = FrameStore(store), None if labels is None else FrameStore(labels)
    for one in (simulated, real):
        if one is not None:
            one.check_structures(structures)
    model = load_parcels(parcels)
    table = simulated.labelled(split, views)
    given = None
    if real is not None:
        annotated = real.labelled(label_split, views, phases=None)
        drawn = draw_patients(annotated["patient"], label_patients, seed)
        given = annotated[annotated["patient"].isin(drawn)].reset_index(drop=True)
    inputs = {"store": simulated.fingerprint, "parcels": model.fingerprint}
    inputs |= {} if real is None else {"labels": real.fingerprint}
    choice: dict[str, Any] = {"share_above": share_above, "level": level, "prior_strength": prior_strength}
    config = {
        "parcels": parcels,
        "store": store,
        "structures": structures,
        "split": split,
        "views": views,
        "postprocessing": postprocessing,
        "labels": labels,
        "label_split": label_split,
        "label_patients": label_patients,
        **choice,
        "seed": seed,
        "inputs": inputs,
    }
    files = [f"{kind}{structure}.json" for structure in structures for kind in ("prior-", "")]
    folder = Path(out)
    if (folder / CONFIG).exists() and not overwrite:
        with open_run(folder, config, overwrite=False, contents=files):  # refuses another run before the work
            if all((folder / file).exists() for file in files):
                _log.info("%s: the same configuration and inputs as before, nothing to do", folder)
                return folder
    texts: dict[str, str] = {}
    learnt: dict[str, Any] = {"simulated_labels": _described(simulated, table), "human_labels": "none"}
    if real is not None and given is not None:
        learnt["human_labels"] = _described(real, given)
    maps = _maps(model, simulated, table["frame"], batch_size)
    masks = simulated.label_maps(table["label"], structures)
    if real is not None and given is not None:
        real_maps = _maps(model, real, given["frame"], batch_size)
        real_masks = real.label_maps(given["label"], structures)
    for value, structure in enumerate(structures, 1):
        prior = ParcelPrior.count(
            maps,
            masks == value,
            groups=table["patient"].to_numpy(),
            n_parcels=model.n_ids,
            background_id=model.background_id,
            structure=structure,
            provenance=model.fingerprint,
        )
        selector = ParcelSelector(
            "beta",
            prior=prior,
            n_parcels=model.n_ids,
            background_id=model.background_id,
            provenance=model.fingerprint,
            **choice,
        )
        segmenter = ParcelSegmenter(selector, postprocessing)
        try:
            if given is None:
                segmenter.fit_prior()
            else:
                segmenter.fit(real_maps, real_masks == value, groups=given["patient"].to_numpy())
        except SelectionError as error:
            raise SelectionError(f"{structure}: {error}") from error
        segmenter.selector_.provenance_["learnt_from"] = learnt
        texts[f"prior-{structure}.json"] = prior.to_json()
        texts[f"{structure}.json"] = segmenter.to_json()
        _log.info("%s: %d of %d parcels", structure, len(segmenter.selector_.interior_), model.n_parcels)
    with open_run(folder, config, overwrite, files):
        for file, text in texts.items():
            write_text(folder / file, text)
    _log.info("%s: white boxes of %s", folder, ", ".join(structures))
    return folder


def _described(store: FrameStore, table: pd.DataFrame) -> dict[str, Any]:
    """What was read of a store, for the white boxes' files."""
    return {
        "store": store.path.name,
        "fingerprint": store.fingerprint,
        "frames": len(table),
        "patients": int(table["patient"].nunique()),
    }


def _maps(model: ParcelModel, store: FrameStore, frames: pd.Series, batch_size: int) -> NDArray[np.uint8]:
    """Parcel maps (n, S, S) of frames of a store."""
    index = frames.to_numpy()
    maps = np.empty((len(index), store.size, store.size), np.uint8)
    with tqdm(total=len(index), desc=f"parcels of {store.path.name}", unit="frame", leave=False) as bar:
        for start in range(0, len(index), batch_size):
            part = index[start : start + batch_size]
            maps[start : start + len(part)] = model.maps(store.frames(part), batch_size=batch_size).numpy()
            bar.update(len(part))
    return maps
