"""The verbs ``alan active run`` and ``alan active merge``: their signatures are the options."""

from __future__ import annotations

import logging

from alan.active.settings import ActiveLoop, PoolData
from alan.bounds import PositiveInt, bounded
from alan.supervised.settings import TrainingSettings

_log = logging.getLogger(__name__)


def active_run(
    out: str,
    data: PoolData,
    *,
    loop: ActiveLoop = ActiveLoop(),  # noqa: B008 (frozen)
    training: TrainingSettings = TrainingSettings(),  # noqa: B008 (frozen)
    title: str = "Active learning",
    overwrite: bool = False,
) -> None:
    """Compare acquisition functions on a pool whose masks are known, and write the report.

    Args:
        out: Run folder; the same command continues after the last finished phase.
        data: Frames of the pool and of the measured splits.
        loop: Settings of the loop.
        training: Settings of the trainings in each phase.
        title: Heading of the report.
        overwrite: Replace a run with another configuration.
    """
    from alan.active.loop import run_active
    from alan.report.active import write_active_report

    folder = run_active(out, data, loop=loop, training=training, title=title, overwrite=overwrite)
    _log.info("report: %s", write_active_report(folder))


@bounded
def active_merge(
    runs: list[str],
    out: str,
    *,
    store: str | None = None,
    phases: PositiveInt | None = None,
    overwrite: bool = False,
) -> None:
    """Merge runs of one protocol that were made apart, each with other functions or seeds, and write the report.

    Args:
        runs: Run folders of ``alan active run``, finished or not, that differ in ``loop.functions`` and
            ``loop.seeds`` only.
        out: Run folder to write; ``alan active run --config OUT/config.yaml --out OUT`` continues unfinished
            loops.
        store: Frame store; null uses the path in the first run.
        phases: Number of phases to which loops are to be continued, more than the runs have; the last phase of
            each loop is trained again. Null leaves it.
        overwrite: Replace a run with another configuration.
    """
    from alan.active.merge import merge_runs
    from alan.report.active import write_active_report

    folder = merge_runs(runs, out, store=store, phases=phases, overwrite=overwrite)
    _log.info("report: %s", write_active_report(folder))
