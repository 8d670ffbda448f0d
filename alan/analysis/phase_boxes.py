"""White boxes of a structure at end-diastole and end-systole, and the memberships of their parcels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from alan.arrays import Float32Array
from alan.downstream.whitebox.naming import box_name
from alan.downstream.whitebox.opinion import ExpertOpinion
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import ConfigError, DataError
from alan.runs import CONFIG

MapArray = NDArray[np.uint8]
PHASES = ("ED", "ES")
#: Smallest membership of a pixel that belongs to a structure.
LEVEL = 0.5


@dataclass(frozen=True)
class PhaseBoxes:
    """White boxes of one structure in one view.

    Attributes:
        ed: White box for end-diastole.
        es: White box for end-systole; the same object if one list is used for the whole beat.
    """

    ed: ParcelSegmenter
    es: ParcelSegmenter

    @property
    def steps(self) -> PostProcessing:
        """Post-processing of both."""
        return self.ed.steps

    def revise(self, opinion: ExpertOpinion) -> PhaseBoxes:
        """Choose the parcels again with another opinion of an expert, see :meth:`ParcelSegmenter.revise`.

        Args:
            opinion: The opinion; one on a phase changes the list of that phase only, and the steps of both.
        """
        if not opinion.phase:
            ed = self.ed.revise(opinion)
            return PhaseBoxes(ed, ed if self.ed is self.es else self.es.revise(opinion))
        if opinion.phase == "ED":
            return PhaseBoxes(self.ed.revise(opinion), self.es.with_steps(opinion.steps))
        return PhaseBoxes(self.ed.with_steps(opinion.steps), self.es.revise(opinion))

    def memberships(self, n_ids: int) -> Float32Array:
        """Compute the membership of each parcel at end-diastole and end-systole, see :func:`membership`.

        Args:
            n_ids: Number of different ids in a map.

        Returns:
            (2, n_ids) float32.
        """
        return np.stack([membership(box, n_ids) for box in (self.ed, self.es)])

    def shares(self, parcels: MapArray, phase: float) -> Float32Array:
        """Compute the share of the parcel of each pixel that lies inside the structure.

        Args:
            parcels: (H, W) parcel map.
            phase: Phase of the frame, 0 at end-systole to 1 at end-diastole.

        Returns:
            (H, W) float32; 0 for the background.
        """
        ed, es = (np.append(box.selector_.share_, 0.0) for box in (self.ed, self.es))
        table = phase * ed + (1 - phase) * es
        found: Float32Array = table[np.minimum(parcels, len(table) - 1)].astype(np.float32)
        return found


def membership(box: ParcelSegmenter, n_ids: int, shares: NDArray[np.float64] | None = None) -> Float32Array:
    """Scale the posterior shares of the parcels so that the white box contains parcels of at least one half.

    Shares are scaled piecewise linearly: 0, ``share_above`` and 1 become 0, one half and 1. The list of the white
    box takes precedence: a parcel of the list gets at least one half, any other parcel less.

    Args:
        box: The white box.
        n_ids: Number of different ids in a map.
        shares: (K,) shares in place of those of the white box; the lists then do not count.

    Returns:
        (n_ids,) float32 in [0, 1]; 0 for the background.
    """
    above = float(box.selector_.share_above)
    given = box.selector_.share_ if shares is None else shares
    scaled = np.interp(given, [0.0, above, 1.0], [0.0, LEVEL, 1.0])
    if shares is None:
        listed = np.isin(np.arange(len(scaled)), box.selector_.interior_)
        scaled = np.where(listed, np.maximum(scaled, LEVEL), np.minimum(scaled, LEVEL - 0.01))
    out = np.zeros(n_ids, np.float32)
    out[: min(n_ids, len(scaled))] = scaled[:n_ids]
    return out


def read_boxes(folders: Sequence[str]) -> dict[str, PhaseBoxes]:
    """Read the white boxes of runs of ``alan name``.

    Args:
        folders: The run folders. Each structure is in one of them, or its white boxes of ED and of ES are in two.

    Returns:
        Mapping from structure to its white boxes, in the order of the folders.

    Raises:
        ConfigError: Two folders have a white box of the same structure and phase.
        DataError: A folder holds no such run, or there is a white box of one phase only.
    """
    found: dict[str, dict[str, ParcelSegmenter]] = {}
    for folder in map(Path, folders):
        try:
            config = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
            structures, phases = list(config["structures"]), config["phases"]
        except FileNotFoundError as error:
            raise DataError(f"{folder}: not a run of `alan name` (it has no {CONFIG}): give its folder") from error
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise DataError(f"{folder}: not a run of `alan name` ({error}): give its folder") from error
        for name in structures:
            read = {
                phase: ParcelSegmenter.from_json(folder / f"{box_name(name, phase)}.json")
                for phase in phases or ("",)
            }
            boxes = read if phases else dict.fromkeys(PHASES, read[""])
            if found.setdefault(name, {}).keys() & boxes.keys():
                raise ConfigError(f"{folder}: another folder has a white box of {name} too: give one of them")
            found[name] |= boxes
    for name, boxes in found.items():
        if lacking := [phase for phase in PHASES if phase not in boxes]:
            raise DataError(
                f"there is no white box of {name} for {lacking[0]}: give the folder of this phase, or name both"
            )
    return {name: PhaseBoxes(boxes["ED"], boxes["ES"]) for name, boxes in found.items()}
