"""Merge runs of active learning that were made apart, such as one function and seed per job of a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from alan.active.loop import CONTENTS
from alan.active.protocol import ActiveFrames
from alan.active.settings import ActiveLoop, PoolData
from alan.active.state import State, read_state
from alan.active.tables import write_results
from alan.bounds import PositiveInt, bounded
from alan.errors import ConfigError, DataError, ParameterError
from alan.runs import CONFIG, changed_options, open_run, read_config


@bounded
def merge_runs(
    runs: Sequence[str | Path],
    out: str,
    *,
    store: str | None = None,
    phases: PositiveInt | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the run folder that one run over the functions and seeds of several runs would have written.

    The runs differ in ``loop.functions`` and ``loop.seeds`` only, and are merged as far as they have come; the
    title is that of the first. ``alan active run --config OUT/config.yaml --out OUT`` continues loops that are not
    finished.

    Args:
        runs: Run folders of :func:`alan.active.run_active`.
        out: Run folder to write.
        store: Path of the frame store; None uses the path in the first run.
        phases: Number of phases to which the merged run is to be continued. The last phase of each loop, after
            which nothing was chosen, is left out and trained again.
        overwrite: Replace a run with another configuration.

    Returns:
        The run folder.

    Raises:
        ParameterError: There is no run, two runs hold the same loop, a loop of a function and seed is missing, or
            the runs cannot be continued to that many phases.
        ConfigError: The runs have other settings or other initial sets, or were made on other frames.
        DataError: A run or the store cannot be read.
    """
    if not runs:
        raise ParameterError("runs is empty: give the folders of at least one run")
    config = _shared_config(runs)
    if store is not None:
        config["data"]["store"] = store
    data = PoolData(**_tuples(config["data"]))
    frames = ActiveFrames(data)
    states = [read_state(Path(run), frames.fingerprint) for run in runs]
    merged = _merge(runs, states)
    functions = tuple(dict.fromkeys(phase.function for phase in merged.finished))
    config["loop"] |= {"functions": list(functions), "seeds": list(merged.initial)}
    if phases is not None:
        _lengthen(config["loop"], merged, phases)
    loop = ActiveLoop(**_tuples(config["loop"]))
    with open_run(Path(out), "active run", config, overwrite, CONTENTS):
        merged.save(Path(out))
        write_results(Path(out), merged, frames, data, loop, title=config["title"])
    return Path(out)


def _lengthen(loop: dict[str, Any], merged: State, phases: int) -> None:
    """Let finished loops go on to a number of phases."""
    if phases <= loop["phases"]:
        raise ParameterError(f"phases is {phases}: give more than {loop['phases']}, the phases of the runs")
    if loop["warm_start"]:
        raise ParameterError(
            f"phases is {phases}: warm-started runs keep no weights to go on from; start a new run"
        )
    merged.finished = [phase for phase in merged.finished if phase.stopped != "phases"]
    if not merged.finished:
        raise ParameterError(f"phases is {phases}, but the runs have one phase: start a new run")
    loop["phases"] = phases


def _shared_config(runs: Sequence[str | Path]) -> dict[str, Any]:
    """Return the configuration of the first run, after a comparison with the others."""
    for run in runs:
        if not (Path(run) / CONFIG).is_file():
            raise DataError(f"{run}: holds no {CONFIG}: give a run folder of alan active run")
    configs = [read_config(Path(run) / CONFIG) for run in runs]
    own = ("title", "data.store", "loop.functions", "loop.seeds")
    for run, config in zip(runs, configs, strict=True):
        if not {"data", "loop", "training"} <= set(config):
            raise ConfigError(f"{run}: is not a run of alan active run: give its run folders")
        other = sorted(set(changed_options(configs[0], config)) - set(own))
        if other:
            raise ConfigError(
                f"{run}: differs from {runs[0]} in {', '.join(other[:4])}: merge runs of one protocol"
            )
    return configs[0]


def _merge(runs: Sequence[str | Path], states: Sequence[State]) -> State:
    """Collect the phases of all runs; each function and seed must be there once."""
    merged, source = State(states[0].frames), dict[tuple[str, int], str | Path]()
    for run, state in zip(runs, states, strict=True):
        for loop in dict.fromkeys((phase.function, phase.seed) for phase in state.finished):
            if loop in source:
                raise ParameterError(
                    f"{source[loop]} and {run} both hold {loop[0]}, seed {loop[1]}: give one of them"
                )
            source[loop] = run
            first = merged.initial.setdefault(loop[1], state.initial[loop[1]])
            if first != state.initial[loop[1]]:
                raise ConfigError(f"{run}: seed {loop[1]} starts from another initial set than in {source[loop]}")
        merged.finished += state.finished
    functions = dict.fromkeys(function for function, _ in source)
    missing = [loop for loop in product(functions, merged.initial) if loop not in source]
    if missing:
        raise ParameterError(
            f"no run holds {missing[0][0]}, seed {missing[0][1]} ({len(missing)} missing): add it, or leave out "
            "the runs of that function or seed"
        )
    return merged


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
