"""The verbs ``alan active run`` and ``alan active suggest``: their signatures are the options."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from alan.active.loop import run_active
from alan.active.protocol import ActiveLoop, PoolData
from alan.active.suggest import open_pool, suggest
from alan.errors import DataError, ParameterError
from alan.files import atomic
from alan.report.active import FUNCTIONS, contact_sheet, write_active_report
from alan.report.figures import png
from alan.supervised.segmenter import load_segmenter
from alan.supervised.training import TrainingSettings

_log = logging.getLogger(__name__)

#: What ``alan active suggest`` writes.
LIST, SHEET = "suggestions.csv", "contact_sheet.png"
#: Scores on the way; gone when the list is there.
PARTIAL = "scores.part.json"


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
        out: the run folder; the same command goes on after the last finished phase.
        data: the frames.
        loop: the loop.
        training: how the networks of each phase are trained.
        title: heading of the report.
        overwrite: replace a run with another configuration.
    """
    folder = run_active(out, data, loop=loop, training=training, title=title, overwrite=overwrite)
    _log.info("report: %s", write_active_report(folder))


def active_suggest(
    model: str,
    images: str,
    out: str,
    *,
    n: int = 50,
    function: str = "mfe",
    passes: int = 30,
    seed: int = 0,
    diversity: str | None = None,
    candidates: int = 5,
    split: str | None = None,
    views: tuple[str, ...] | None = None,
    include_labelled: bool = False,
    batch_size: int = 16,
    device: str = "auto",
    overwrite: bool = False,
) -> None:
    """Rank unlabelled images by what a trained network is least sure of: a list, and a contact sheet of its head.

    Args:
        model: a segmenter with dropout, written by ``alan fit`` with ``network.dropout`` above 0.
        images: a folder of pictures (or one with ``images`` and ``masks`` in it), or a frame store.
        out: folder for suggestions.csv and contact_sheet.png; the same command goes on after an interruption.
        n: how many images to suggest.
        function: cfe, mfe, mi, std or random.
        passes: stochastic passes of a score.
        seed: of the passes.
        diversity: ``encoder`` (the network's features) or a backbone picks images that are not all alike; null
            takes the highest scores.
        candidates: with diversity, the n are picked among this many times n.
        split: side of a frame store; null for all.
        views: views of a frame store; null for all.
        include_labelled: rank images that have masks too.
        batch_size: images in memory at a time.
        device: ``auto``, ``cpu``, ``cuda`` ...
        overwrite: replace a list that is there.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{out}: is a file; a list needs a folder")
    if (folder / LIST).exists() and not overwrite:
        raise DataError(f"{folder / LIST}: is already there; write to another folder, or set overwrite to true")
    segmenter = load_segmenter(model).to(_device(device))
    pool = open_pool(images, segmenter.size, split=split, views=views, include_labelled=include_labelled)
    found = suggest(
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
    heading = f"Label next: the first {len(found.frames)} of {len(found.table)}, by {FUNCTIONS[function]}"
    titles = [f"{row.rank}  {row.image}" for row in found.table.head(len(found.frames)).itertuples()]
    sheet = png(contact_sheet(found.frames, found.labels, found.maps, titles, heading))
    with atomic(folder / SHEET) as temporary:
        temporary.write_bytes(sheet)
    with atomic(folder / LIST) as temporary:
        found.table.to_csv(temporary, index=False, float_format="%.6g")
    _log.info("%s: %d of %d images, the most wanted first", folder / LIST, len(found.table), len(pool))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(f"device={name!r} cannot be used here: take cpu, cuda or auto") from error
