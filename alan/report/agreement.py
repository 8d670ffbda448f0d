"""Agreement of predicted and reference ejection fractions, as Bland and Altman draw it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alan.drawing import GRID, INK, STYLE
from alan.evaluation.scoring import ejection_fractions
from alan.report.words import KIND_COLOURS, method_label

_AGREEMENT_LINES = ("mean_bias", "lower_limit_of_agreement", "upper_limit_of_agreement")


def agreement_methods(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Choose the rows of ``ejection_fraction`` that are drawn: the example method, networks and ensembles."""
    kinds = {(row["method"], row["rule"]): row["kind"] for row in summary["rows"]}
    example = summary["example_methods"].get("lv")
    return [
        row
        for row in summary["ejection_fraction"]
        if {"method": row["method"], "rule": row["rule"]} == example
        or kinds[row["method"], row["rule"]] in ("network", "ensemble")
    ][:6]


def bland_altman(cases: pd.DataFrame, summary: Mapping[str, Any], reference: str = "manual") -> Figure | None:
    """Draw the error of the ejection fraction against the mean of prediction and reference (Bland and Altman).

    Args:
        cases: Content of ``per_case.csv``.
        summary: The ``segmentation`` part of ``results.json``.
        reference: Who drew the outlines to compare with: ``manual`` or ``simulated``.

    Returns:
        The figure, with one panel per method; None if there is no ejection fraction.
    """
    rows = agreement_methods(summary)
    if not rows:
        return None
    panels = []
    for row in rows:
        at = (cases["structure"] == "lv") & (cases["method"] == row["method"]) & (cases["rule"] == row["rule"])
        table = ejection_fractions(cases[at]).dropna(subset=["ef", "ef_manual"])
        panels.append((method_label(row["method"], row["rule"]), row, table["ef"], table["ef_manual"]))
    return agreement_figure(panels, reference)


@mpl.rc_context(STYLE)
def agreement_figure(
    panels: Sequence[tuple[str, Mapping[str, Any], pd.Series, pd.Series]], reference: str
) -> Figure:
    """Draw the errors of ejection fractions against the means of predicted and reference values.

    Args:
        panels: Title of each panel, its :data:`alan.evaluation.summary.EF_STATISTICS`, and the predicted and the
            reference values in percent.
        reference: What the reference is, such as ``manual``.

    Returns:
        The figure. Errors beyond the axis, which tiny masks make, are triangles on its edge.
    """
    errors = np.concatenate([(predicted - manual).to_numpy() for _, _, predicted, manual in panels])
    ends = [abs(row[name]["value"]) for _, row, *_ in panels for name in _AGREEMENT_LINES if _is_known(row[name])]
    limit = float(max(20.0, 1.15 * np.quantile(np.abs(errors), 0.98), min(1.15 * max(ends), 100.0)))
    columns = min(len(panels), 3)
    height = -(-len(panels) // columns)
    figure = Figure(figsize=(0.6 + 3.6 * columns, 0.4 + 2.9 * height), layout="constrained")
    grid = figure.subplots(height, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, row, predicted, manual) in zip(grid, panels, strict=False):
        error, mean = predicted - manual, (predicted + manual) / 2
        beyond = error.abs() > limit
        axes.axhline(0, color=GRID, lw=1)
        axes.plot(mean[~beyond], error[~beyond], "o", ms=4, color=KIND_COLOURS["parcels"], mew=0, alpha=0.7)
        if beyond.any():
            edge, place = error[beyond].clip(-limit, limit), mean[beyond].clip(0, 100)
            axes.plot(place, edge, "^", ms=5, color=KIND_COLOURS["ensemble"], clip_on=False)
        for name, style in zip(_AGREEMENT_LINES, ("-", "--", "--"), strict=True):
            value = row[name]["value"]
            if _is_known(row[name]) and abs(value) <= limit:
                axes.axhline(value, color=INK, lw=1.1, ls=style)
                axes.annotate(
                    f"{value:+.1f}".replace("-", "−"),
                    (1, value),
                    (-2, 2),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    ha="right",
                    fontsize=8,
                )
        axes.set_title(title)
        axes.set_ylim(-limit, limit)
        axes.set_xlabel(f"mean of predicted and {reference} EF (%)")
    grid[0].set_ylabel(f"predicted − {reference} EF (points)")
    return figure


def _is_known(statistic: Mapping[str, float | None]) -> bool:
    return statistic["value"] is not None and bool(np.isfinite(statistic["value"]))
