"""State of an active learning run: the finished phases, in one JSON file that is written atomically."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from alan.errors import ConfigError, DataError, damaged
from alan.files import read_entry, write_json

SCHEMA = "alan-active/1"
STATE = "state.json"


@dataclass(frozen=True)
class FinishedPhase:
    """One finished phase of one loop.

    Attributes:
        function: Acquisition function.
        seed: Seed of the loop.
        phase: Number of the phase, from 1.
        n_labels: Number of labelled images that the network was trained on.
        scores: ``val_iou``, ``val_dice_lv`` ... and the same for ``test``.
        chosen: Positions in the pool labelled after this phase, in the order of choice.
        stopped: Why the loop ended after this phase; empty where it continues.
        images: IoU of each measured image (the mean over structures) of the reported split; NaN where undefined.
    """

    function: str
    seed: int
    phase: int
    n_labels: int
    scores: dict[str, float]
    chosen: list[int]
    stopped: str = ""
    images: list[float] = field(default_factory=list)


@dataclass
class State:
    """All finished phases of a run.

    Attributes:
        frames: Fingerprint of the frames.
        initial: Mapping from seed to the positions of its initial set.
        finished: Finished phases, in the order in which they were finished.
    """

    frames: str
    initial: dict[int, list[int]] = field(default_factory=dict)
    finished: list[FinishedPhase] = field(default_factory=list)

    def loop(self, function: str, seed: int) -> list[FinishedPhase]:
        """Return the finished phases of one loop, in order."""
        mine = [phase for phase in self.finished if (phase.function, phase.seed) == (function, seed)]
        return sorted(mine, key=lambda phase: phase.phase)

    def labelled(self, function: str, seed: int) -> list[int]:
        """Return the positions labelled so far in one loop, in the order of labelling."""
        later = [position for phase in self.loop(function, seed) for position in phase.chosen]
        return [*self.initial[seed], *later]

    def save(self, folder: Path) -> None:
        """Write ``state.json`` atomically."""
        entry = {"schema": SCHEMA, "frames": self.frames}
        initial = {str(seed): positions for seed, positions in self.initial.items()}
        write_json(folder / STATE, {**entry, "initial": initial, "records": [asdict(x) for x in self.finished]})


def initial_order(n: int, seed: int) -> list[int]:
    """Draw the order in which n units are labelled at the start, until there are enough images."""
    order: list[int] = np.random.default_rng(seed).permutation(n).tolist()
    return order


def read_state(folder: Path, frames: str | None = None) -> State:
    """Read ``state.json``.

    Args:
        folder: Run folder.
        frames: Fingerprint of the present frames; None does not compare.

    Raises:
        DataError: The file is missing, damaged or of another schema.
        ConfigError: The run was made on other frames.
    """
    remedy = "give another folder, or start again with --overwrite true"
    entry = read_entry(folder / STATE, SCHEMA, remedy)
    with damaged(DataError, f"{folder / STATE}: damaged", remedy):
        initial = {int(seed): positions for seed, positions in entry["initial"].items()}
        state = State(entry["frames"], initial, [FinishedPhase(**record) for record in entry["records"]])
    if frames is not None and state.frames != frames:
        raise ConfigError(f"{folder}: was made on other frames than the store holds now: {remedy}")
    return state
