"""Picture of the losses of a training, from the metrics in its run folder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from alan.errors import DataError, damaged
from alan.files import atomic
from alan.report.figures import training_curve
from alan.runs import METRICS

LOSSES = "losses.png"


def write_losses(folder: Path) -> Path:
    """Draw the losses of a training by step into ``losses.png`` of its run folder.

    Args:
        folder: Run folder of ``alan fit``; the training may be running.

    Returns:
        Path of the picture.

    Raises:
        DataError: The metrics are missing or damaged, or have no loss.
    """
    path = folder / METRICS
    with damaged(DataError, f"{path}: cannot be read", "run the training again"):
        metrics = pd.read_json(path, lines=True)
    figure = training_curve(metrics, folder.resolve().name)
    if figure is None:
        raise DataError(f"{path}: has no loss; give the folder of a training that logs one")
    with atomic(folder / LOSSES) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    return folder / LOSSES
