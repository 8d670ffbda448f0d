"""What a run knows so far: one record a finished phase, in one JSON file that is whole at every moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from alan.errors import ConfigError, DataError
from alan.files import read_json, write_json

SCHEMA = "alan-active/1"
STATE = "state.json"


@dataclass(frozen=True)
class Record:
    """One finished phase of one loop.

    Attributes:
        function: acquisition function.
        seed: of the repetition.
        phase: counted from 1.
        n_labels: images that were learnt from.
        scores: ``val_iou``, ``val_dice_lv`` ... and the same of ``test``.
        chosen: positions in the pool labelled after this phase, in the order of choice.
        stopped: why the loop ended here, ``""`` where it goes on.
    """

    function: str
    seed: int
    phase: int
    n_labels: int
    scores: dict[str, float]
    chosen: list[int]
    stopped: str = ""


@dataclass
class State:
    """All records of a run.

    Attributes:
        frames: fingerprint of the frames.
        initial: seed to the positions of its initial set.
        records: in the order in which they were finished.
    """

    frames: str
    initial: dict[int, list[int]] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def loop(self, function: str, seed: int) -> list[Record]:
        """Records of one loop, phase by phase."""
        mine = [r for r in self.records if (r.function, r.seed) == (function, seed)]
        return sorted(mine, key=lambda record: record.phase)

    def labelled(self, function: str, seed: int) -> list[int]:
        """Positions labelled so far in one loop, in the order of labelling."""
        later = [position for record in self.loop(function, seed) for position in record.chosen]
        return [*self.initial[seed], *later]

    def save(self, folder: Path) -> None:
        """Write ``state.json``, whole or not at all."""
        entry = {"schema": SCHEMA, "frames": self.frames}
        initial = {str(seed): positions for seed, positions in self.initial.items()}
        records = [asdict(record) for record in self.records]
        write_json(folder / STATE, {**entry, "initial": initial, "records": records})


def initial_set(n: int, size: int, seed: int) -> list[int]:
    """Positions of the images that are labelled at the start, drawn from a pool of n."""
    chosen: list[int] = np.random.default_rng(seed).permutation(n)[:size].tolist()
    return chosen


def read_state(folder: Path, frames: str | None = None) -> State:
    """Read ``state.json``.

    Args:
        folder: the run folder.
        frames: fingerprint of the frames at hand, or None not to compare.

    Raises:
        DataError: the file is missing or damaged.
        ConfigError: the run was made on other frames.
    """
    entry = read_json(folder / STATE)
    try:
        if entry["schema"] != SCHEMA:
            raise DataError(f"{folder / STATE}: schema {entry['schema']!r} where a run has {SCHEMA!r}")
        initial = {int(seed): positions for seed, positions in entry["initial"].items()}
        state = State(entry["frames"], initial, [Record(**record) for record in entry["records"]])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{folder / STATE}: damaged ({error}); start anew with overwrite=true") from error
    if frames is not None and state.frames != frames:
        raise ConfigError(
            f"{folder}: was made on other frames than the store holds now: give another folder, or overwrite=true"
        )
    return state
