"""``alan calibrate``: intervals of a model that hold for labelled patients."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from alan.bounds import Coverage, PositiveInt, Seed, bounded
from alan.errors import ConfigError, DataError
from alan.files import write_rows
from alan.runs import open_run, settings
from alan.words import plural

#: Table of a calibration in the folder of the model.
CALIBRATION = "calibration.csv"
_log = logging.getLogger(__name__)


@bounded
def calibrate_model(
    model: str,
    stores: list[str],
    out: str,
    *,
    split: str | None = "val",
    confidence: Coverage | None = None,
    samples: PositiveInt = 40,
    seed: Seed = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> Path:
    """Calibrate the 90% intervals of a model by labelled patients, and write it into a folder of its own.

    The measures of the model at labelled end-diastole and end-systole are compared with those of the masks, and
    the spread of each measure is set so that its intervals contain the values of the masks in 90% of the loops.
    Outlines and values stay the same. The patients must not have served to train the model or to choose its
    parcels: on those its errors are smaller, and intervals become too narrow.

    The folder is that of ``alan assemble``, with ``calibration.csv``: for each measure, how often the intervals
    held before, and how often they hold for patients by whom they were not calibrated (cross-validation over five
    groups of patients). A measure that is known for fewer than ten loops keeps its spread.

    Args:
        model: Path or name of the model; it may also follow the verb (alan calibrate MODEL --stores ...).
        stores: Frame stores with masks of the left ventricle at end-diastole and end-systole; myocardium and left
            atrium are used where they have masks.
        out: Folder of the calibrated model.
        split: Split of the labelled frames (train, val or test); null takes all.
        confidence: Probability with which the intervals hold in at least 90% of the loops of new patients, such as
            0.95; they are wider then. null lets them hold in 90% on average.
        samples: Number of white boxes that are drawn for the intervals, as in alan analyze.
        seed: Seed of the draws.
        device: Device that runs the network: cpu, cuda, cuda:1, or auto for a GPU where there is one.
        overwrite: Replace a model with another configuration.

    Returns:
        The folder.

    Raises:
        ConfigError: The folder contains a model with another configuration.
        DataError: Fewer than ten loops have masks, or an input is missing.
    """
    given = settings(locals(), "device")
    from alan.analysis.model import AnalysisModel
    from alan.analysis.planes import COLUMNS, FEWEST, calibrate_measures, measure_planes, warn_of_labels
    from alan.data.store.reader import FrameStore
    from alan.devices import choose_device

    chosen = choose_device(device)
    before, opened = AnalysisModel.load(model).to(chosen), [FrameStore(path) for path in stores]
    if not opened:
        raise ConfigError("stores is empty: give the frame stores of labelled patients")
    warn_of_labels(before, opened, split)
    config = {**given, "inputs": [before.fingerprint, *(store.fingerprint for store in opened)]}
    folder = Path(out)
    with open_run(folder, "calibrate", config, overwrite, [*AnalysisModel.files(folder.name), CALIBRATION]) as run:
        if run.finished:
            _log.info("%s: the same configuration and inputs as before, nothing to do", folder)
            return folder
        planes = [
            plane for store in opened for plane in measure_planes(store, before, split, samples=samples, seed=seed)
        ]
        if len(planes) < FEWEST:
            few = f"{plural(len(planes), 'loop')} with masks at end-diastole and end-systole in split {split}"
            raise DataError(f"{few}: give at least {FEWEST}; --split null takes all splits")
        spread, rows = calibrate_measures(planes, before.spread, confidence)
        write_rows(folder / CALIBRATION, COLUMNS, rows)
        replace(before, spread=spread).save(folder, folder.name)
        run.finish()
    patients = len({plane.patient for plane in planes})
    _log.info("%s: calibrated by %s of %s", folder, plural(len(planes), "loop"), plural(patients, "patient"))
    return folder
