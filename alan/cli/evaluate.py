"""The verb ``alan evaluate``: its signature is its options."""

from __future__ import annotations

import logging

from alan.evaluation.label_efficiency.protocol import LabelEfficiencyProtocol
from alan.evaluation.run import run_evaluation
from alan.evaluation.segmentation import SegmentationProtocol
from alan.evaluation.views import ViewProtocol
from alan.report.html import write_report

_log = logging.getLogger(__name__)


def evaluate(
    out: str,
    *,
    segmentation: SegmentationProtocol | None = None,
    views: ViewProtocol | None = None,
    label_efficiency: LabelEfficiencyProtocol | None = None,
    title: str = "ALAN evaluation",
    curves: dict[str, str] | None = None,
    overwrite: bool = False,
) -> None:
    """Fit the white boxes on a few labels, measure them on other patients, and write the report.

    Args:
        out: the run folder.
        segmentation: what to segment, on which frames.
        views: which views to name, on which frames.
        label_efficiency: which methods to compare, with how many labelled patients.
        title: heading of the report.
        curves: name to the metrics.jsonl of a training, drawn in the report.
        overwrite: replace a run with another configuration.
    """
    folder = run_evaluation(
        segmentation,
        views,
        out,
        title,
        overwrite=overwrite,
        curves=curves,
        label_efficiency=label_efficiency,
    )
    _log.info("report: %s", write_report(folder))
