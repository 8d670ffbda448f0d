"""A search from its settings to the run folder; :mod:`alan.report.search` turns the folder into a page."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from alan.data.store.reader import FrameStore
from alan.data.structures import n_classes
from alan.errors import CheckpointError, ConfigError, DataError
from alan.extras import third_party
from alan.files import digest, write_text
from alan.progress import quiet
from alan.runs import CONFIG, config_text, read_config, sweep
from alan.search.settings import SearchData, SearchSettings, StudySettings
from alan.search.space import Builds, Point, SearchSpace, why_not
from alan.search.trial import Outcome, Report, train_point
from alan.supervised.settings import PLAIN, NetworkSpec, TrainingSettings

if TYPE_CHECKING:
    from alan.search.study import SearchProgress, SearchStudy, TrialObjective

#: Age in seconds from which a temporary file belongs to no process any more: results are written within seconds.
_ABANDONED = 600
_log = logging.getLogger(__name__)


def run_search(
    out: str | Path,
    space: SearchSpace,
    data: SearchData,
    training: TrainingSettings,
    study: StudySettings,
    *,
    objective: TrialObjective | None = None,
    builds: Builds | None = None,
    progress: bool = True,
) -> Path:
    """Search a space and write the run folder.

    The folder holds ``config.yaml``, ``study.db`` (unless the study has a database of its own), ``trials.csv``,
    ``results.json`` and, for the five best points, configurations of ``alan fit`` (``best.yaml``, ``best_2.yaml``
    ...). The same call continues after an interruption, and several may run at the same time; a call with more
    trials continues a finished study. Bad input leaves nothing behind.

    Args:
        out: Run folder.
        space: Space to search.
        data: Labelled frames of the trials.
        training: Settings of each training; the space sets network, learning rate and batch size.
        study: Settings of the study.
        objective: Trains a point; the default is :func:`alan.search.trial.train_point`.
        builds: Returns why a pair cannot be built; the default is :func:`alan.search.space.why_not`.
        progress: Show bars.

    Returns:
        The run folder.

    Raises:
        ParameterError: A name is unknown, or a pair cannot be built.
        ConfigError: Settings contradict each other, the folder holds something else, the study is of another space
            or training, its database cannot be used, or Optuna is not installed.
        DataError: A store cannot be read, or a file is not a study.
        CheckpointError: A file of weights does not exist.
    """
    third_party("optuna", "search")
    from alan.search.results import DATABASE, write_search_results
    from alan.search.storage import check_storage, explain_lost_storage, open_storage
    from alan.search.study import SearchStudy

    folder, settings = Path(out), SearchSettings(space.resolve_names(), data, training, study)
    _check_folder(folder, DATABASE)
    check_storage(study.storage)
    stores = _check_training(settings)
    weights = _identify_weights(settings.space.weights)
    classes = n_classes(data.structures)
    builds = builds or partial(why_not, in_channels=training.network.in_channels, classes=classes)
    _log.info("%s", describe_size(settings.space))
    if not space.skip_impossible:
        settings.space.check_pairs(builds, progress=progress)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, age=_ABANDONED)
    with _quiet_optuna(), explain_lost_storage():
        try:
            storage = open_storage(folder / DATABASE, study.storage, study.heartbeat, study.grace)
            search = SearchStudy.open(
                storage,
                replace(settings.space, weights=weights),
                study,
                identity={"training": settings.identity(), "stores": sorted(stores.values())},
                builds=builds,
                validations=settings.validations,
            )
        except (ConfigError, DataError):
            if made:
                for path in folder.iterdir():
                    path.unlink()
                folder.rmdir()
            raise
        write_text(folder / CONFIG, config_text(settings, "search"))
        if search.n_trials < study.n_trials:
            _log.info("n_trials is %d, the space has %d points: all are trained", study.n_trials, search.n_trials)
        try:
            _train(search, objective or partial(_train_point, settings), progress)
        finally:
            write_search_results(folder, search, settings, stores)
            storage.engine.dispose()
    return folder


def describe_size(space: SearchSpace) -> str:
    """Return the size of a space, ``46 encoders x 9 decoders x ... = 7,452 points``, without axes of one value."""
    names = ("encoders", "decoders", "depths", "learning rates", "batch sizes")
    lengths = (len(values) for values in space.axes().values())
    product = " x ".join(f"{n} {name}" for name, n in zip(names, lengths, strict=True) if n > 1)
    left = "; pairs that cannot be built are skipped" if space.skip_impossible else ""
    return f"space: {product}{' = ' if product else ''}{space.size:,} points{left}"


def _train_point(settings: SearchSettings, point: Point, report: Report) -> Outcome:
    return train_point(point, settings, report)


def _train(search: SearchStudy, objective: TrialObjective, progress: bool) -> None:
    bar = tqdm(total=search.n_trials, desc="trials", unit="trial", disable=not progress or quiet())

    def show(state: SearchProgress) -> None:
        bar.n = min(state.settled, search.n_trials)
        best = "none yet" if state.best is None else f"{state.best:.4f}"
        bar.set_postfix_str(f"best IoU {best}, {state.running} running" if state.running else f"best IoU {best}")

    try:
        search.run(objective, show)
    finally:
        bar.close()


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Hide Optuna's line per trial: the report gives the reasons."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _check_folder(folder: Path, database: str) -> None:
    """Refuse a folder of something else; hidden files, such as those of a killed process, do not count."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; a search needs a folder")
    held = [path for path in folder.iterdir() if path.name[0] != "."] if folder.exists() else []
    if not held or (folder / database).exists():
        return
    config = folder / CONFIG
    if not config.is_file() or not {"space", "study"} <= set(read_config(config)):
        raise ConfigError(f"{folder} is not empty and holds no run of alan search: choose another --out")


def _identify_weights(weights: Mapping[str, str]) -> dict[str, str]:
    """Replace files by the SHA-256 of their content, so that a study may be moved.

    Raises:
        CheckpointError: A file does not exist.
    """
    from alan.supervised.weights import is_file

    for name, value in weights.items():
        if is_file(value) and not Path(value).is_file():
            raise CheckpointError(f"{value}: no such file of weights for {name}; check the spelling")
    return {name: digest(value) if is_file(value) else value for name, value in weights.items()}


def _check_training(settings: SearchSettings) -> dict[str, str]:
    """Open the frames and build a small network, so that errors of every trial come before the first.

    Returns:
        Mapping from the path of each store to its fingerprint.
    """
    data, training = settings.data, settings.training
    from alan.supervised.module import SegmentationModule

    data.module()
    small = NetworkSpec(PLAIN, None, training.network.in_channels, decoder_channels=(2, 4))
    SegmentationModule.from_settings(replace(training, network=small), data.structures, data.seed)
    return {path: FrameStore(path).fingerprint for path in data.stores}
