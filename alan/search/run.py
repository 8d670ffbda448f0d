"""A search from configuration to run folder; ``alan.report.search`` makes the page out of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tqdm import tqdm

from alan.data.store.reader import FrameStore
from alan.data.structures import n_classes
from alan.errors import ConfigError, DataError
from alan.extras import third_party
from alan.files import write_text
from alan.runs import plain, provenance
from alan.search.settings import SearchData, StudySettings, count_validations
from alan.search.space import Builds, Point, SearchSpace, why_not
from alan.search.trial import train_point
from alan.supervised.networks import PLAIN, NetworkSpec
from alan.supervised.training import TrainingSettings

if TYPE_CHECKING:
    from alan.search.study import Objective, Progress, SearchStudy

_log = logging.getLogger(__name__)


def run_search(
    out: str | Path,
    space: SearchSpace,
    data: SearchData,
    training: TrainingSettings,
    study: StudySettings,
    *,
    objective: Objective | None = None,
    builds: Builds | None = None,
    progress: bool = True,
) -> Path:
    """Search a space and write the run folder.

    The folder holds ``config.yaml``, ``study.db`` (unless the study has a database of its own), ``trials.csv``,
    ``results.json`` and ``best.yaml``, a configuration of ``alan fit``. The same call goes on after an
    interruption, and several may run at the same time; one with more trials continues a finished study. What is
    refused for bad input leaves nothing.

    Args:
        out: the run folder.
        space: what is searched.
        data: labelled frames of the trials.
        training: how each point is trained; the space sets network, learning rate and batch size.
        study: how the space is searched.
        objective: trains a point; default :func:`alan.search.trial.train_point`.
        builds: whether a pair can be built; default :func:`alan.search.space.why_not`.
        progress: show bars.

    Returns:
        The run folder.

    Raises:
        ParameterError: an unknown name, a value out of range, or a pair that cannot be built.
        ConfigError: settings that contradict each other, a folder of something else, a study of another space or
            training, or Optuna is not installed.
        DataError: a store that cannot be read, or a file that is no study.
    """
    third_party("optuna", "search")
    from alan.search import results
    from alan.search.storage import open_storage
    from alan.search.study import SearchStudy

    folder = Path(out)
    validations = count_validations(training, study)
    space = space.checked()
    _check_folder(folder, results.CONFIG, results.DATABASE)
    stores = _check_training(data, training)
    classes = n_classes(data.structures)
    ask = builds or partial(why_not, in_channels=training.network.in_channels, classes=classes)
    impossible = space.impossible_pairs(ask, progress=progress)
    points = space.points(impossible)
    _log.info("%s", counted(space, len(points), len(impossible)))
    counts = {
        "points": len(points),
        "size": space.size,
        "axes": {name: list(values) for name, values in space.axes().items()},
        "impossible": [{"pair": list(pair), "reason": reason} for pair, reason in impossible.items()],
    }
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet_optuna():
        try:
            storage = open_storage(folder / results.DATABASE, study.storage, study.heartbeat, study.grace)
            search = SearchStudy.open(
                storage,
                space,
                points,
                study,
                identity={"training": _identity(data, training, study), "stores": sorted(stores.values())},
                validations=validations,
            )
        except (ConfigError, DataError):
            if made:
                _remove(folder)
            raise
        parts = {"space": space, "data": data, "training": training, "study": study}
        config = plain(parts)
        write_text(folder / results.CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        if search.n_trials < study.n_trials:
            _log.info("n_trials is %d, the space has %d points: all are trained", study.n_trials, len(points))
        try:
            train = partial(train_point, data=data, training=training, val_every=study.val_every)
            _train(search, objective or train, progress)
        finally:
            summary = results.summarise(search, data, training, counts)
            summary["provenance"] = provenance(stores)
            results.write_results(folder, search, data, training, plain(summary))
            storage.engine.dispose()
    return folder


def counted(space: SearchSpace, points: int, impossible: int) -> str:
    """The size of a space: ``46 encoders x 9 decoders x ... = 7,452 points``, without axes of one value."""
    names = ("encoders", "decoders", "depths", "learning rates", "batch sizes")
    lengths = (len(values) for values in space.axes().values())
    product = " x ".join(f"{n} {name}" for name, n in zip(names, lengths, strict=True) if n > 1)
    left = f"; {impossible} pairs cannot be built, {points:,} points are left" if impossible else ""
    return f"space: {product}{' = ' if product else ''}{space.size:,} points{left}"


def _train(search: SearchStudy, objective: Objective, progress: bool) -> None:
    bar = tqdm(total=search.n_trials, desc="trials", unit="trial", disable=not progress)

    def show(state: Progress) -> None:
        bar.n = min(state.settled, search.n_trials)
        best = "none yet" if state.best is None else f"{state.best:.4f}"
        bar.set_postfix_str(f"best IoU {best}, {state.running} running" if state.running else f"best IoU {best}")

    try:
        search.run(objective, show)
    finally:
        bar.close()


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """No line a trial: reasons stand in the report."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _check_folder(folder: Path, config: str, database: str) -> None:
    """Refuse a folder of something else."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; a search needs a folder")
    if not folder.exists() or not any(folder.iterdir()) or (folder / database).exists():
        return
    path = folder / config
    held = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not isinstance(held, dict) or not {"space", "study"} <= set(held):
        raise ConfigError(f"{folder} is not empty and holds no run of alan search: choose another --out")


def _check_training(data: SearchData, training: TrainingSettings) -> dict[str, str]:
    """Open the frames and build a small network, so that what is wrong for every trial is said before the first.

    Returns:
        Path of each store to its fingerprint.
    """
    data.module(Point("", "", 1, 1.0, 1)).setup()  # the check does not depend on the point
    small = NetworkSpec(PLAIN, None, training.network.in_channels, decoder_channels=(2, 4))
    replace(training, network=small).module(data.structures, data.seed)
    return {path: FrameStore(path).fingerprint for path in data.stores}


def _identity(data: SearchData, training: TrainingSettings, study: StudySettings) -> dict[str, Any]:
    """What makes scores comparable: all but the place of the data, the machine and what the space varies."""
    settings = {**asdict(data), **asdict(training), "val_every": study.val_every}
    for name in ("stores", "num_workers", "accelerator"):
        settings.pop(name)
    return settings


def _remove(folder: Path) -> None:
    """Remove a folder that this call has made."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
