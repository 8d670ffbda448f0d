"""Run an evaluation and write its run folder, from which :mod:`alan.report` makes the page."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alan.data.store.reader import FrameStore
from alan.errors import AlanError, ConfigError, DataError
from alan.evaluation.label_efficiency.protocol import LabelEfficiencyProtocol
from alan.evaluation.protocols import SegmentationProtocol, ViewProtocol
from alan.evaluation.results import CONTENTS, RESULTS, SCHEMA, read_results, write_result
from alan.files import atomic, digest, write_json
from alan.runs import open_run, plain, provenance
from alan.shipped import shipped_or_path

_log = logging.getLogger(__name__)


def run_evaluation(
    out: str | os.PathLike[str],
    *,
    segmentation: SegmentationProtocol | None = None,
    views: ViewProtocol | None = None,
    label_efficiency: LabelEfficiencyProtocol | None = None,
    title: str = "ALAN evaluation",
    curves: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Evaluate by one or several protocols and write the run folder.

    The folder contains ``config.yaml``, ``results.json``, ``per_case.csv`` (segmentation), ``per_volume.csv`` (if
    volumes are measured), ``per_image_views.csv`` (views), ``label_efficiency.csv``, ``models/*.json`` (fitted
    white boxes), ``maps``, ``features`` and ``cells`` (from which a second run resumes), ``examples.npz`` and
    ``curves``. ``results.json`` is written last and marks the run complete. A second call with the same
    configuration and inputs reuses it. Bad input leaves no folder behind.

    Args:
        out: Run folder.
        segmentation: Segmentation protocol, or None.
        views: View protocol, or None.
        label_efficiency: Label-efficiency protocol, or None.
        title: Heading of the report.
        curves: Mapping from name to a ``metrics.jsonl`` or ``metrics.csv`` of a training, drawn in the report.
        overwrite: Replace a run with another configuration.

    Returns:
        The run folder.

    Raises:
        ConfigError: No protocol is given, or the folder holds a run with another configuration.
        DataError: An input is missing, or ``out`` holds something else.
        AlanError: As :func:`measure_segmentation`, :func:`measure_views` and :func:`measure_efficiency`.
    """
    if segmentation is None and views is None and label_efficiency is None:
        raise ConfigError("nothing to evaluate: give a segmentation, a views or a label_efficiency protocol")
    if segmentation is not None:  # the frames of every protocol are checked before the first is carried out
        segmentation.splits(FrameStore(segmentation.store))
    if label_efficiency is not None:
        label_efficiency.splits(FrameStore(label_efficiency.store))
    folder = Path(out)
    config = plain(
        {
            "title": title,
            "segmentation": None if segmentation is None else asdict(segmentation),
            "views": None if views is None else asdict(views),
            "curves": None if curves is None else dict(curves),
        }
    )
    if label_efficiency is not None:  # without settings that change no result
        config["label_efficiency"] = plain(label_efficiency.settings())
    inputs = _inputs(segmentation, views, label_efficiency, curves or {})
    with open_run(folder, "evaluate", config, overwrite, CONTENTS) as run:
        if run.resumed and (folder / RESULTS).exists() and read_results(folder)["provenance"]["inputs"] == inputs:
            _log.info("%s: the same configuration and inputs as before, results reused", folder)
            return folder
        (folder / RESULTS).unlink(missing_ok=True)
        try:
            results = _measure(segmentation, views, label_efficiency, folder)
        except AlanError:
            run.keep = (folder / "cells").exists()  # finished cells are kept after an error
            raise
        results = {"schema": SCHEMA, "title": title, **results, "curves": _copy_curves(curves or {}, folder)}
        write_json(folder / RESULTS, plain({**results, "provenance": provenance(inputs)}))
    return folder


def _measure(
    segmentation: SegmentationProtocol | None,
    views: ViewProtocol | None,
    label_efficiency: LabelEfficiencyProtocol | None,
    folder: Path,
) -> dict[str, Any]:
    """Carry out the protocols, write their cases, and return their summaries."""
    # imports the networks, which the checks above do not need
    from alan.evaluation.label_efficiency.measure import measure_efficiency
    from alan.evaluation.segmentation import measure_segmentation
    from alan.evaluation.views import measure_views

    results: dict[str, Any] = {}
    if segmentation is not None:
        result = measure_segmentation(segmentation, folder)
        write_result(folder, result, "per_case.csv")
        results["segmentation"] = result.summary
    if views is not None:
        result = measure_views(views)
        write_result(folder, result, "per_image_views.csv")
        results["views"] = result.summary
    if label_efficiency is not None:
        result = measure_efficiency(label_efficiency, folder)
        write_result(folder, result, "label_efficiency.csv")
        results["label_efficiency"] = result.summary
    return results


def _inputs(
    segmentation: SegmentationProtocol | None,
    views: ViewProtocol | None,
    label_efficiency: LabelEfficiencyProtocol | None,
    curves: Mapping[str, str],
) -> dict[str, str]:
    """Return the fingerprint of each store and file (also of shipped ones), and the name of any other model."""
    stores = {part.store for part in (segmentation, views, label_efficiency) if part is not None}
    files = []
    if segmentation is not None:
        files += [*segmentation.parcels.values(), *segmentation.networks.values(), *segmentation.opinions]
    if views is not None:
        files.append(views.backbone)
    if segmentation is not None and segmentation.prior is not None:
        stores.add(segmentation.prior)
    if label_efficiency is not None:
        files += [path for method in label_efficiency.methods for path in method.files(method.paths)]
        stores |= {path for method in label_efficiency.methods for path in method.files(method.stores)}
    inputs = {path: FrameStore(path).fingerprint for path in sorted(stores)}
    for path in files:
        file = shipped_or_path(path)
        inputs[path] = digest(file) if file.is_file() else path
    for path in curves.values():
        if not Path(path).is_file():
            raise DataError(f"{path}: no such file; curves names the metrics file of a training")
        inputs[path] = digest(path)
    return inputs


def _copy_curves(curves: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Copy metrics files into the run folder, and return the name of each copy."""
    copied = {}
    for number, (name, path) in enumerate(curves.items()):
        target = folder / "curves" / f"{number}{Path(path).suffix}"
        with atomic(target) as temporary:
            shutil.copyfile(path, temporary)
        copied[name] = target.name
    return copied
