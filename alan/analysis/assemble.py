"""Read the parts of an analysis model: white boxes written by ``alan name``, and frames for a bank of views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from alan.analysis.model import PhaseBoxes
from alan.analysis.views import OTHER
from alan.arrays import ByteArray
from alan.data.preprocessing import resize_frames
from alan.data.sample import VIEWS
from alan.data.simulator.others import other_frames
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.naming import box_name
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.errors import ConfigError, DataError
from alan.runs import CONFIG

PHASES = ("ED", "ES")


def read_boxes(folders: Sequence[str]) -> dict[str, PhaseBoxes]:
    """Read the white boxes of runs of ``alan name``.

    Args:
        folders: The run folders, each with other structures.

    Returns:
        Structure to its white boxes, in the order of the folders.

    Raises:
        ConfigError: Two folders have a white box of the same structure.
        DataError: A folder holds no such run, or white boxes of one phase only.
    """
    found: dict[str, PhaseBoxes] = {}
    for folder in map(Path, folders):
        try:
            config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
            structures, phases = list(config["structures"]), config["phases"]
        except FileNotFoundError as error:
            raise DataError(f"{folder}: not a run of `alan name` (it has no {CONFIG}): give its folder") from error
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise DataError(f"{folder}: not a run of `alan name` ({error}): give its folder") from error
        if phases and sorted(phases) != sorted(PHASES):
            raise DataError(f"{folder}: white boxes for {', '.join(phases)} only: name both phases, or none")
        for name in structures:
            if name in found:
                raise ConfigError(f"{folder}: another folder has a white box of {name} too: give one of them")
            boxes = [
                ParcelSegmenter.from_json(folder / f"{box_name(name, phase)}.json") for phase in phases or ("",)
            ]
            by_phase = dict(zip(phases or PHASES, boxes * (1 if phases else 2), strict=True))
            found[name] = PhaseBoxes(by_phase["ED"], by_phase["ES"])
    return found


def draw_bank(
    stores: Sequence[FrameStore], n_frames: int | Mapping[str, int], n_other: int, size: int, seed: int
) -> tuple[ByteArray, list[str]]:
    """Draw the frames of a bank of views: one frame per training sequence drawn, and pictures of other things.

    Args:
        stores: Stores of simulated archives.
        n_frames: Number of frames per view, or view to its number; fewer where there are fewer sequences.
        n_other: Number of pictures of other things.
        size: Side of the frames in pixels.
        seed: Seed of the draw.

    Returns:
        Frames (N, size, size) uint8 and the names of their views.

    Raises:
        DataError: No store has a training sequence of a requested view.
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


def draw_archive(stores: Sequence[FrameStore], split: str | None, size: int, seed: int) -> ByteArray:
    """Draw one frame of each sequence of an archive; its labels and views are not read.

    Args:
        stores: Stores of the archive.
        split: Split of the sequences; None takes all.
        size: Side of the frames in pixels.
        seed: Seed of the draw.

    Returns:
        (N, size, size) uint8.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for store in stores:
        rows = [s.start + int(rng.integers(s.length)) for s in store.select(split)]
        drawn.append(resize_frames(store.frames(np.array(rows)), (size, size)))
    return np.concatenate(drawn)
