"""Assemble a model for analyses: parcels with their backbone, white boxes per phase, and a bank of views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from alan.analysis.manifest import SCHEMA
from alan.analysis.model import AnalysisModel, PhaseBoxes
from alan.analysis.views import OTHER, ViewBank
from alan.arrays import ByteArray
from alan.backbone.checkpoint import export_backbone
from alan.data.preprocessing import resize_frames
from alan.data.sample import VIEWS
from alan.data.simulator.others import other_frames
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.naming import box_name
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.errors import ConfigError, DataError
from alan.files import write_json, write_text
from alan.parcels.model import ParcelModel, save_parcels
from alan.runs import CONFIG

#: Names of the files of a model.
MANIFEST, BACKBONE, PARCELS, BANK = "model.json", "backbone", "parcels", "views"
PHASES = ("ED", "ES")


def find_boxes(folders: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Find the white boxes of runs of ``alan name``.

    Args:
        folders: The run folders, each with other structures.

    Returns:
        Structure to the files of its white boxes, ``ED`` and ``ES``, the same file where one serves both; in the
        order in which they were named.

    Raises:
        ConfigError: Two folders have a white box of one structure.
        DataError: A folder holds no such run, or white boxes of one phase only.
    """
    found: dict[str, dict[str, Path]] = {}
    for folder in map(Path, folders):
        try:
            config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
            structures, phases = list(config["structures"]), config["phases"]
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise DataError(f"{folder}: no run of `alan name` ({error}): give its folder") from error
        if phases and sorted(phases) != sorted(PHASES):
            raise DataError(f"{folder}: white boxes for {', '.join(phases)} only: name both phases, or none")
        for name in structures:
            if name in found:
                raise ConfigError(f"{folder}: another folder has a white box of {name} too: give one of them")
            found[name] = {phase: folder / f"{box_name(name, phase if phases else '')}.json" for phase in PHASES}
    return found


def load_boxes(files: Mapping[str, Mapping[str, Path]]) -> dict[str, PhaseBoxes]:
    """Load the white boxes of :func:`find_boxes`."""
    loaded = {path: ParcelSegmenter.from_json(path) for pair in files.values() for path in pair.values()}
    return {name: PhaseBoxes(loaded[pair["ED"]], loaded[pair["ES"]]) for name, pair in files.items()}


def draw_bank(
    stores: Sequence[FrameStore], n_frames: int | Mapping[str, int], n_other: int, size: int, seed: int
) -> tuple[ByteArray, list[str]]:
    """Draw the frames of a bank of views: one of each drawn training sequence, and pictures of other things.

    Args:
        stores: Stores of simulated archives.
        n_frames: Number of frames of each view, or a number for each view; fewer where there are fewer sequences.
        n_other: Number of pictures of other things.
        size: Side of the frames in pixels.
        seed: Seed of the draw.

    Returns:
        Frames (N, size, size) uint8 and the names of their views.

    Raises:
        DataError: No store has a training sequence of a view that is asked for.
    """
    rng = np.random.default_rng(seed)
    frames: list[ByteArray] = []
    views: list[str] = []
    wanted = dict.fromkeys(VIEWS, n_frames) if isinstance(n_frames, int) else dict(n_frames)
    for view, n in wanted.items():
        known = [
            (store, sequence)
            for store in stores
            for sequence in store.sequences
            if sequence.view == view and sequence.split in ("train", None)
        ]
        if not known:
            if isinstance(n_frames, int):
                continue
            raise DataError(f"bank_frames names {view}, but no store has a training sequence of it")
        for i in rng.permutation(len(known))[:n]:
            store, sequence = known[i]
            row = sequence.start + int(rng.integers(sequence.length))
            frames.append(resize_frames(store.frames(np.array([row])), (size, size)))
            views.append(view)
    if not frames:
        raise DataError("bank: no store has a training sequence of a known view; give simulated stores")
    if n_other:
        frames.append(other_frames(n_other, size, seed))
        views += [OTHER] * n_other
    return np.concatenate(frames), views


def write_model(
    folder: Path,
    parcels: ParcelModel,
    boxes: Mapping[str, Mapping[str, Path]],
    views: Sequence[str],
    *,
    size: int,
    bank: ViewBank | None,
) -> None:
    """Write copies of the parts of a model and its manifest, which is written last and read back.

    Args:
        folder: Folder of the model.
        parcels: Parcel model.
        boxes: Files of the white boxes, see :func:`find_boxes`.
        views: Views that the white boxes serve.
        size: Side in pixels to which frames are resized for the model.
        bank: Bank of views, or None.
    """
    backbone = folder / f"{BACKBONE}.safetensors"
    export_backbone(parcels.backbone.network, parcels.backbone.spec, backbone)
    copy = ParcelModel(
        parcels.backbone,
        parcels.head,
        sector_only=parcels.sector_only,
        source=str(backbone),
        refine=parcels.refine,
    )
    save_parcels(copy, folder / f"{PARCELS}.safetensors")
    if bank is not None:
        bank.save(folder / f"{BANK}.safetensors", BACKBONE)
    for path in {path for pair in boxes.values() for path in pair.values()}:
        write_text(folder / path.name, path.read_text(encoding="utf-8"))
    lists = {name: {phase: path.stem for phase, path in pair.items()} for name, pair in boxes.items()}
    manifest = {"schema": SCHEMA, "parcels": PARCELS, "size": size, "views": dict.fromkeys(views, lists)}
    write_json(folder / MANIFEST, manifest | ({"view_bank": BANK} if bank else {}))
    AnalysisModel.load(folder / MANIFEST)  # every file is there and fits
