"""The run folder of ``alan name``: white boxes without a human label, from the labels of simulated frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from alan.bounds import NonNegativeFloat, PositiveInt, Seed, Share, bounded
from alan.downstream.whitebox.steps import SIMULATION_STEPS, PostProcessing
from alan.errors import ParameterError
from alan.files import write_text
from alan.runs import open_run, settings

_log = logging.getLogger(__name__)


@bounded
def run_naming(
    parcels: str,
    store: str,
    out: str,
    *,
    structures: list[str] = ["lv", "myo", "la"],  # noqa: B006 (shown by --help; never changed)
    split: str | None = None,
    views: list[str] | None = None,
    phases: list[Literal["ED", "ES"]] | None = None,
    postprocessing: PostProcessing = SIMULATION_STEPS,
    labels: str | None = None,
    label_split: str | None = "val",
    label_patients: PositiveInt | None = None,
    opinions: list[str] | None = None,
    share_above: Share | Literal["area"] = 0.4,
    level: Share = 0.5,
    prior_strength: NonNegativeFloat = 8.0,
    batch_size: PositiveInt = 64,
    seed: Seed = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> Path:
    """Name parcels by simulated frames: white boxes of structures without a human label.

    On the ED and ES frames of a simulated store, the share of each parcel in each structure is counted. A white
    box takes the parcels whose share probably exceeds ``share_above``. The run folder contains ``config.yaml``,
    the counts as ``prior-<structure>.json``, and the white boxes as ``<structure>.json``, which ``alan segment``
    takes; each file states its origin. With phases there is one white box for each structure and phase, as
    ``<structure>-<phase>.json``. Running the same command again on the same inputs changes nothing.

    Args:
        parcels: Path or name of the parcel model.
        store: Frame store of a simulated archive (alan simulate, alan prepare) with masks at ED and ES.
        out: The run folder.
        structures: Structures to name, such as lv, or lv+myo for a union.
        split: Split of the simulated store (train, val or test); null for all.
        views: Views taken from both stores; null for all.
        phases: Phases that get a white box of their own, ED and ES; null for one that serves all phases.
        postprocessing: Post-processing from the union of parcels to the segment.
        labels: Frame store of real frames whose masks, at any phase, update the choice; null for none.
        label_split: Split of the real frames (train, val or test); null for all.
        label_patients: Number of labelled real patients, drawn at random; null for all.
        opinions: JSON files of an expert's opinions on the parcels of a structure. They are added to the simulated
            counts; null uses none.
        share_above: Lowest share of a parcel that must lie inside the structure, 0 to 1. The word area chooses the
            share at which the selected parcels together have the area of the structure in the simulated frames.
        level: Probability with which a parcel must exceed the share, 0 to 1.
        prior_strength: Largest weight of the simulated counts of a parcel, in effective pixels of real labels.
        batch_size: Number of frames that go through the backbone at a time.
        seed: Seed of the draw of patients.
        device: Device that runs the parcel model: cpu, cuda, cuda:1, or auto for a GPU where there is one.
        overwrite: Replace a run with another configuration.

    Returns:
        The run folder.

    Raises:
        ConfigError: The folder contains a run with another configuration or other inputs.
        SelectionError: No parcel is probable enough for a structure; the message names the best candidate.
        AlanError: An input is missing, or a parameter is out of bounds; the folder is left as it was.
    """
    given = settings(locals(), "batch_size", "device", "opinions")
    from alan.data.store.reader import FrameStore
    from alan.data.structures import check_structures
    from alan.devices import choose_device
    from alan.downstream.whitebox.fitting import ALL_PHASES
    from alan.downstream.whitebox.naming import NamingFrames, box_name, name_parcels
    from alan.downstream.whitebox.opinion import read_opinions
    from alan.downstream.whitebox.selection import ParcelSelector
    from alan.parcels.model import load_parcels

    check_structures(structures)
    if label_patients is not None and labels is None:
        raise ParameterError(f"label_patients is {label_patients}: give labels, the store of those patients, too")
    stores = [FrameStore(path) for path in (store, labels) if path is not None]
    for one in stores:
        one.check_structures(structures)
    simulated, human = NamingFrames.choose(stores[0], split, views), None
    if labels is not None:
        human = NamingFrames.choose(stores[1], label_split, views, phases=None, patients=label_patients, seed=seed)
    model = load_parcels(parcels).to(choose_device(device))
    known = read_opinions(opinions or (), structures, model.fingerprint)
    inputs = dict(zip(("store", "labels"), (one.fingerprint for one in stores), strict=False))
    config = {
        **given,
        **({"opinions": {structure: one.to_dict() for structure, one in known.items()}} if known else {}),
        "inputs": {**inputs, "parcels": model.fingerprint},
    }
    lists: Sequence[str] = phases or (ALL_PHASES,)
    names = [box_name(structure, phase) for structure in structures for phase in lists]
    files = [f"{kind}{box}.json" for box in names for kind in ("prior-", "")]
    share: dict[str, Any] = {} if share_above == "area" else {"share_above": share_above}
    folder = Path(out)
    with open_run(folder, "name", config, overwrite, files) as run:
        if run.resumed and all((folder / file).exists() for file in files):
            _log.info("%s: the same configuration and inputs as before, nothing to do", folder)
            return folder
        named = name_parcels(
            model,
            structures,
            simulated,
            ParcelSelector("beta", level=level, prior_strength=prior_strength, **share),
            steps=postprocessing,
            phases=lists,
            human=human,
            opinions=known,
            match_area=share_above == "area",
            batch_size=batch_size,
        )
        for box, (prior, segmenter) in named.items():
            write_text(folder / f"prior-{box}.json", prior.to_json())
            write_text(folder / f"{box}.json", segmenter.to_json())
    _log.info("%s: white boxes of %s", folder, ", ".join(structures))
    return folder
