"""Summaries of measured cases for ``results.json``: means with intervals, differences, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from alan.data.store.reader import FrameStore
from alan.evaluation.intervals import bootstrap_estimates, bootstrap_interval, paired_difference
from alan.evaluation.scoring import METRICS, ejection_fractions
from alan.evaluation.whitebox import WhiteBoxFit

#: First columns of ``per_case.csv``; those of :func:`alan.evaluation.scoring.score` follow.
CASE_COLUMNS = ("method", "kind", "rule", "structure")


class MethodMasks(NamedTuple):
    """Masks of a structure on the test frames by one method.

    Attributes:
        method: Name of the method.
        kind: Kind of the method.
        rule: Selection rule; empty for a network and the atlas.
        masks: (m, S, S) bool, one for each test frame.
        phases: Phases that the method can segment.
    """

    method: str
    kind: str
    rule: str
    masks: NDArray[np.bool_]
    phases: Sequence[str]


def summarise_cases(
    cases: pd.DataFrame, fits: Sequence[WhiteBoxFit], phases: Sequence[str]
) -> list[dict[str, Any]]:
    """Average the metrics with intervals over patients, and list the rules that selected nothing.

    Args:
        cases: One row per measured case.
        fits: All white boxes, including those that selected nothing.
        phases: Phases of the protocol.

    Returns:
        One row per method, rule, structure and phase, in the order of measurement: the four names and ``kind``,
        ``reason`` (empty if something was measured), ``empty`` (number of cases in which nothing was predicted),
        and ``metrics``: name to interval (see :class:`alan.evaluation.intervals.Interval`).
    """
    rows: list[dict[str, Any]] = []
    groups = cases.groupby([*CASE_COLUMNS, "phase"], sort=False) if len(cases) else ()
    for keys, group in groups:
        metrics = {name: bootstrap_interval(group[name], group["patient"]).to_dict() for name in METRICS}
        names = dict(zip((*CASE_COLUMNS, "phase"), keys, strict=True))
        rows.append({**names, "reason": "", "empty": int(group["empty"].sum()), "metrics": metrics})
    for fit in fits:
        for missing, reason in fit.box.reasons.items():
            rows += [
                {**fit.names, "phase": phase, "reason": reason, "empty": 0, "metrics": {}}
                for phase in ([missing] if missing else phases)
            ]
    return rows


def compare_methods(
    first: pd.DataFrame, second: pd.DataFrame, metrics: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Compute the differences of two methods on the same cases, with their intervals over patients.

    Args:
        first: Rows of one method.
        second: Rows of the other one, of these and possibly of further cases.
        metrics: Columns to compare.

    Returns:
        Mapping from metric to the interval of first minus second.
    """
    a, b = (table.set_index(["structure", "phase", "frame"]) for table in (first, second))
    b = b.reindex(a.index)
    return {name: paired_difference(a[name], b[name], a["patient"]).to_dict() for name in metrics}


def compare_with_atlas(cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Compare each method with the atlas in Dice, for the structures and phases that the atlas has."""
    rows = []
    atlas = cases[cases["kind"] == "atlas"]
    known = set(zip(atlas["structure"], atlas["phase"], strict=True))
    for keys, group in cases[cases["kind"] != "atlas"].groupby([*CASE_COLUMNS, "phase"], sort=False):
        names = dict(zip((*CASE_COLUMNS, "phase"), keys, strict=True))
        if (names["structure"], names["phase"]) in known:
            rows.append({**names, **compare_methods(group, atlas, ["dice"])})
    return rows


#: Statistics of the error of the ejection fraction: key in ``results.json`` to its description.
EF_STATISTICS = {
    "mean_bias": "Mean of predicted minus manual ejection fraction",
    "lower_limit_of_agreement": "Mean bias minus 1.96 standard deviations of the error",
    "upper_limit_of_agreement": "Mean bias plus 1.96 standard deviations of the error",
    "mean_absolute_error": "Mean of the absolute error",
    "median_bias": "Median of predicted minus manual ejection fraction",
    "median_absolute_error": "Median of the absolute error",
    "correlation": "Pearson correlation of predicted and manual ejection fraction",
}


def agreement_statistics(predicted: NDArray[np.float64], manual: NDArray[np.float64]) -> list[float]:
    """Compute the values of :data:`EF_STATISTICS` (Bland and Altman, Lancet 1986).

    Args:
        predicted: (n,) predicted values.
        manual: (n,) manual values.

    Returns:
        The statistics in their order. Limits of agreement and correlation are NaN with fewer than two cases, and
        so is the correlation with values that are all equal.
    """
    error = predicted - manual
    bias, spread, correlation = float(error.mean()), float("nan"), float("nan")
    if len(error) > 1:
        spread = 1.96 * float(error.std(ddof=1))
        if predicted.std() > 0 and manual.std() > 0:
            correlation = float(np.corrcoef(predicted, manual)[0, 1])
    absolute = np.abs(error)
    limits = (bias - spread, bias + spread)
    return [
        bias,
        *limits,
        float(absolute.mean()),
        float(np.median(error)),
        float(np.median(absolute)),
        correlation,
    ]


def compare_ejection_fractions(cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Compare the ejection fraction with that of the manual masks, both by the same single-plane formula.

    A tiny mask at ED can make an error of thousands of points; medians are robust against it, means are not.

    Returns:
        For each method and rule measured on the LV in sequences with both phases: ``method``, ``rule``, ``n``
        (sequences), ``undefined`` (sequences with an empty mask), ``reversed`` (sequences whose predicted volume
        at ES is the larger one), the :data:`EF_STATISTICS`, each with ``value``, ``low`` and ``high`` (95%
        interval over patients) in points (the correlation without unit), and ``bias_quartiles`` and
        ``absolute_error_quartiles`` with ``q25``, ``median`` and ``q75``.
    """
    rows = []
    for (method, rule), group in cases[cases["structure"] == "lv"].groupby(["method", "rule"], sort=False):
        table = ejection_fractions(group)
        known = table.dropna(subset=["ef", "ef_manual"])
        if not len(known):
            continue
        rows.append(
            {
                "method": method,
                "rule": rule,
                "n": len(known),
                "undefined": len(table) - len(known),
                "reversed": int((table["ef"] < 0).sum()),
                **agreement(known["ef"], known["ef_manual"], known["patient"]),
            }
        )
    return rows


def agreement(predicted: ArrayLike, manual: ArrayLike, patients: ArrayLike) -> dict[str, dict[str, float]]:
    """Compute the :data:`EF_STATISTICS` of two lists of ejection fractions with their intervals over patients.

    Args:
        predicted: (n,) predicted values in percent.
        manual: (n,) reference values in percent.
        patients: (n,) patient of each case.

    Returns:
        Each statistic with ``value``, ``low`` and ``high``, and ``bias_quartiles`` and
        ``absolute_error_quartiles`` with ``q25``, ``median`` and ``q75``.
    """
    estimates = bootstrap_estimates(agreement_statistics, [predicted, manual], patients)
    error = np.asarray(predicted, np.float64) - np.asarray(manual, np.float64)
    return {
        **{name: one.to_dict() for name, one in zip(EF_STATISTICS, estimates, strict=True)},
        "bias_quartiles": _quartiles(error),
        "absolute_error_quartiles": _quartiles(np.abs(error)),
    }


def _quartiles(values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(("q25", "median", "q75"), np.quantile(values, [0.25, 0.5, 0.75]).tolist(), strict=True))


def choose_examples(
    examples: Mapping[str, MethodMasks],
    cases: pd.DataFrame,
    store: FrameStore,
    test: pd.DataFrame,
    maps: NDArray[np.uint8] | None,
) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Choose the best, the median and the worst case by Dice at the stored size, for each structure and phase.

    Args:
        examples: Mapping from structure to the method whose cases are shown.
        cases: One row per measured case.
        store: Frame store.
        test: The m rows of the test split.
        maps: (m, S, S) parcel maps of the test frames by the source of the examples; None for a network.

    Returns:
        Arrays ``frames`` and, if given, ``maps`` (e, S, S) uint8, ``manual`` and ``predicted`` (e, S, S) bool; and
        e descriptions in the same order: ``structure``, ``phase``, ``rank``, ``id``, ``patient`` and ``dice``.
    """
    position = {int(frame): i for i, frame in enumerate(test["frame"])}
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    predicted: list[NDArray[np.bool_]] = []
    manual: list[NDArray[np.bool_]] = []
    for structure, one in examples.items():
        mine = cases[
            (cases["method"] == one.method) & (cases["rule"] == one.rule) & (cases["structure"] == structure)
        ].dropna(subset=["dice"])
        for phase, group in mine.groupby("phase", sort=True):
            ordered = group.sort_values("dice", kind="stable")
            for rank, at in (("best", len(ordered) - 1), ("median", (len(ordered) - 1) // 2), ("worst", 0)):
                case = ordered.iloc[at]
                place = position[int(case["frame"])]
                names = {"structure": structure, "phase": phase, "rank": rank, "id": case["id"]}
                rows.append({**names, "patient": case["patient"], "dice": float(case["dice"])})
                places.append(place)
                predicted.append(one.masks[place])
                manual.append(store.label_maps([int(test["label"].iloc[place])], [structure])[0] > 0)
    if not rows:
        return {}, []
    arrays = {
        "frames": store.frames(test["frame"].to_numpy()[places]),
        **({} if maps is None else {"maps": maps[places]}),
        "manual": np.stack(manual),
        "predicted": np.stack(predicted),
    }
    return arrays, rows
