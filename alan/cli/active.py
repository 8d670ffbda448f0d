"""The verbs ``alan active run``, ``merge`` and ``suggest``: their signatures are the options."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from alan.active.settings import ActiveLoop, Passes, PoolData
from alan.bounds import PositiveInt, Seed, bounded
from alan.errors import ParameterError
from alan.files import write_bytes, write_table
from alan.runs import FAILURES, open_run, report_failures
from alan.supervised.settings import TrainingSettings

_log = logging.getLogger(__name__)

#: Files of ``alan active suggest``; the scores are removed when the list is complete.
LIST, SHEET, PARTIAL = "suggestions.csv", "contact_sheet.png", "scores.part.json"


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


@bounded
def active_suggest(
    network: str,
    input: str,  # noqa: A002 (as in alan segment)
    out: str,
    *,
    n: PositiveInt = 50,
    function: str = "mfe",
    passes: Passes = 30,
    seed: Seed = 0,
    diversity: str | None = None,
    candidates: PositiveInt = 5,
    split: str | None = None,
    views: tuple[str, ...] | None = None,
    include_labelled: bool = False,
    batch_size: PositiveInt = 16,
    device: str = "auto",
    strict: bool = False,
    overwrite: bool = False,
) -> None:
    """Rank unlabelled images by the uncertainty of a trained network, and show the first ones.

    Args:
        network: File of a segmenter with dropout, written by ``alan fit`` with ``network.dropout`` above 0.
        input: Folder of pictures (or of ``images`` and ``masks``), or frame store.
        out: Folder for suggestions.csv and contact_sheet.png; the same command continues after an interruption.
        n: Number of images to suggest.
        function: Acquisition function: ``cfe``, ``mfe``, ``mi``, ``std`` or ``random``.
        passes: Number of stochastic passes of a score.
        seed: Seed of the passes, or of the random choice.
        diversity: Features for a diverse choice: ``encoder`` (those of the network) or a backbone; null takes the
            highest scores.
        candidates: With ``diversity``, the n images are chosen among this many times n.
        split: Split of a frame store; null uses all.
        views: Views of a frame store; null uses all.
        include_labelled: Include images that have masks.
        batch_size: Images in memory at a time.
        device: Device of the network: ``auto``, ``cpu``, ``cuda`` ...
        strict: Exit with code 1 if an image cannot be read.
        overwrite: Replace a list with another configuration.
    """
    from alan.active.acquisition import ACQUISITIONS
    from alan.active.suggest import open_pool, suggest_images
    from alan.report.active import uncertainty_sheet
    from alan.report.figures import png
    from alan.supervised.segmenter import load_segmenter

    settings = {"input": input, "n": n, "function": function, "passes": passes, "seed": seed}
    settings |= {"diversity": diversity, "candidates": candidates, "split": split, "views": views}
    segmenter, folder = load_segmenter(network).to(_device(device)), Path(out)
    pool = open_pool(input, segmenter.size, split=split, views=views, include_labelled=include_labelled)
    config = {"model": segmenter.fingerprint, "pool": pool.fingerprint(), **settings}
    with open_run(folder, config, overwrite, (LIST, SHEET, PARTIAL)) as run:
        if run.finished:
            _log.info("%s: the same configuration and images as before, list reused", folder / LIST)
            return
        found = suggest_images(
            segmenter,
            pool,
            n,
            function,
            passes=passes,
            seed=seed,
            diversity=diversity,
            candidates=candidates,
            batch_size=batch_size,
            partial=folder / PARTIAL,
        )
        title = ACQUISITIONS[function].title
        heading = f"Label next: the first {len(found.frames)} of {len(found.table)}, by {title}"
        titles = [f"{row.rank}  {row.image}" for row in found.table.head(len(found.frames)).itertuples()]
        sheet = png(uncertainty_sheet(found.frames, found.labels, found.maps, titles, heading))
        write_bytes(folder / SHEET, sheet)
        write_table(folder / LIST, found.table)
        run.finish()
        _log.info("%s: %d of %d images, in the order of priority", folder / LIST, len(found.table), len(pool))
        report_failures(folder / FAILURES, found.failures, len(pool), strict=strict)


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(f"device is {name!r}, which cannot be used here: give cpu, cuda or auto") from error
