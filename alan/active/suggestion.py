"""The run folder of ``alan active suggest``: a ranked list of images, and a sheet of the first ones."""

from __future__ import annotations

import logging
from pathlib import Path

from alan.active.settings import Passes
from alan.bounds import PositiveInt, Seed, bounded
from alan.files import write_bytes, write_table
from alan.runs import FAILURES, open_run, report_failures

_log = logging.getLogger(__name__)

#: Files of the folder; the scores are removed when the list is complete.
LIST, SHEET, PARTIAL = "suggestions.csv", "contact_sheet.png", "scores.part.json"


@bounded
def run_suggestion(
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
) -> Path:
    """Rank unlabelled images by the uncertainty of a trained network, and show the first ones.

    Args:
        network: Segmentation network with dropout, written by ``alan fit`` with ``network.dropout`` above 0.
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
        device: Device of the network: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU if there is one.
        strict: Exit with code 1 if an image cannot be read.
        overwrite: Replace a list with another configuration.

    Returns:
        The folder.

    Raises:
        ConfigError: The folder contains a list with another configuration or of other images.
        SkippedError: An image cannot be read and ``strict`` is True; the list is written.
        AlanError: An input is missing, or a parameter is out of bounds; the folder is left as it was.
    """
    from alan.active.acquisition import ACQUISITIONS
    from alan.active.sheet import uncertainty_sheet
    from alan.active.suggest import open_pool, suggest_images
    from alan.devices import choose_device
    from alan.drawing import png
    from alan.supervised.segmenter import load_segmenter

    settings = {"input": input, "n": n, "function": function, "passes": passes, "seed": seed}
    settings |= {"diversity": diversity, "candidates": candidates, "split": split, "views": views}
    segmenter, folder = load_segmenter(network).to(choose_device(device)), Path(out)
    pool = open_pool(input, segmenter.size, split=split, views=views, include_labelled=include_labelled)
    config = {"model": segmenter.fingerprint, "pool": pool.fingerprint(), **settings}
    with open_run(folder, "active suggest", config, overwrite, (LIST, SHEET, PARTIAL)) as run:
        if run.finished:
            _log.info("%s: the same configuration and images as before, list reused", folder / LIST)
            return folder
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
    return folder
