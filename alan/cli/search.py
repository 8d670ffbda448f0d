"""The verb ``alan search``: its signature is its options."""

from __future__ import annotations

import logging

from alan.search.run import run_search
from alan.search.settings import SearchData, StudySettings
from alan.search.space import SearchSpace
from alan.supervised.training import TrainingSettings

_log = logging.getLogger(__name__)


def search(
    out: str, space: SearchSpace, data: SearchData, training: TrainingSettings, study: StudySettings
) -> None:
    """Search encoder, decoder, depth, learning rate and batch size, and write the report.

    Args:
        out: the run folder; the same command goes on after an interruption, and may run several times at once.
        space: what is searched.
        data: the labelled frames of every trial.
        training: how every point is trained; network, learning rate and batch size come from the space.
        study: how the space is searched.
    """
    folder = run_search(out, space, data, training, study)
    from alan.report.search import write_search_report  # needs Optuna, which run_search asks for

    _log.info("report: %s", write_search_report(folder))
