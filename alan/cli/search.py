"""The verb ``alan search``: its signature is its options."""

from __future__ import annotations

import logging

from alan.search.settings import SearchData, SearchSettings, StudySettings
from alan.search.space import SearchSpace
from alan.supervised.settings import TrainingSettings

_log = logging.getLogger(__name__)


def search(
    out: str, space: SearchSpace, data: SearchData, training: TrainingSettings, study: StudySettings
) -> None:
    """Search encoder, decoder, depth, learning rate and batch size, and write the report.

    Args:
        out: Run folder; the same command continues after an interruption, and may run several times at once.
        space: Values of each axis of the search space.
        data: Labelled frames of every trial.
        training: Settings of every training; network, learning rate and batch size come from the space.
        study: Settings of the study: number of trials, sampler, pruner, database.
    """
    SearchSettings(space, data, training, study)  # refuses contradictions before PyTorch is imported
    from alan.search.run import run_search

    folder = run_search(out, space, data, training, study)
    from alan.report.search import write_search_report  # needs Optuna, which run_search checks for
    from alan.search.results import BEST

    _log.info("report: %s", write_search_report(folder))
    if (folder / BEST).is_file():
        _log.info("to train the best point: alan fit --config %s --out FOLDER", folder / BEST)
