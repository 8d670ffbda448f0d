"""The command ``alan evaluate``; its options are the signature of :func:`evaluate`."""

from __future__ import annotations

import logging
from typing import Any

from jsonargparse.typing import register_type

from alan.cli.parsing import typed_values
from alan.errors import AlanError, ConfigError
from alan.evaluation.label_efficiency.protocol import METHODS, LabelEfficiencyProtocol, Method, method_class
from alan.evaluation.protocols import SegmentationProtocol, ViewProtocol

_log = logging.getLogger(__name__)


def read_method(entry: Any) -> Method:
    """Build a method of label efficiency from its entry in a configuration.

    Args:
        entry: Mapping of ``kind``, ``name`` and the parameters of the method's class.

    Raises:
        ConfigError: The kind or a parameter is unknown or missing, or a value is of the wrong type.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
        raise ConfigError(f"method {entry!r} has no kind: give one of {', '.join(METHODS)}")
    values = {key: value for key, value in entry.items() if key != "kind"}
    try:
        method = method_class(entry["kind"])
        return method(**typed_values(method, values))
    except AlanError as error:
        raise ConfigError(f"method {entry.get('name')!r}: {error}") from error


register_type(
    Method,
    serializer=lambda method: method.settings(),
    deserializer=read_method,
    type_check=isinstance,
)


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
    """Fit white boxes on a few labels, measure them on other patients, and write the report.

    Args:
        out: Run folder.
        segmentation: Structures to segment, methods and frames.
        views: Views to classify, methods and frames.
        label_efficiency: Methods to compare by the number of labelled patients that they need.
        title: Heading of the report.
        curves: Names and metrics.jsonl files of trainings, to be drawn in the report.
        overwrite: Replace a run with another configuration.
    """
    from alan.evaluation.run import run_evaluation

    folder = run_evaluation(
        out,
        segmentation=segmentation,
        views=views,
        title=title,
        overwrite=overwrite,
        curves=curves,
        label_efficiency=label_efficiency,
    )
    from alan.evaluation.results import read_results
    from alan.report.headline import headline
    from alan.report.html import write_report

    page = write_report(folder)
    for paragraph in headline(read_results(folder)):
        _log.info("%s", paragraph)
    _log.info("report: %s", page)
