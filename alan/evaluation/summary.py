"""From measured cases to the figures of the report: means with intervals, differences, examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.data.store.reader import FrameStore
from alan.evaluation.intervals import bootstrap_interval, paired_difference
from alan.evaluation.scoring import METRICS, ejection_fractions
from alan.evaluation.whitebox import Fitted

#: The first columns of ``per_case.csv``; what :func:`alan.evaluation.scoring.score` measures follows.
CASE_COLUMNS = ("method", "kind", "rule", "structure")


class Shown(NamedTuple):
    """The method whose examples the report shows for a structure.

    Attributes:
        method: its name.
        kind: its kind.
        rule: its selection rule, empty for a network.
        masks: (m, S, S) bool of the test frames.
        label_dice: mean Dice on the labelled frames; NaN for a network.
    """

    method: str
    kind: str
    rule: str
    masks: NDArray[np.bool_]
    label_dice: float


def summarise(cases: pd.DataFrame, fitted: Sequence[Fitted], phases: Sequence[str]) -> list[dict[str, Any]]:
    """Means with intervals over patients, and a row for every rule that chose nothing.

    Args:
        cases: one row per measured case.
        fitted: all white boxes, also those that chose nothing.
        phases: the phases of the protocol.

    Returns:
        One dictionary for each method, rule, structure and phase, in the order of measurement: the four names,
        ``reason`` (empty where something was measured), ``empty`` (cases in which nothing was predicted), and
        ``metrics``: name to interval (see :class:`alan.evaluation.intervals.Interval`).
    """
    rows: list[dict[str, Any]] = []
    groups = cases.groupby([*CASE_COLUMNS, "phase"], sort=False) if len(cases) else ()
    for keys, group in groups:
        metrics = {name: bootstrap_interval(group[name], group["patient"]).to_dict() for name in METRICS}
        names = dict(zip((*CASE_COLUMNS, "phase"), keys, strict=True))
        rows.append({**names, "reason": "", "empty": int(group["empty"].sum()), "metrics": metrics})
    for one in fitted:
        if one.segmenter is None:
            names = {"method": one.method, "kind": one.kind, "rule": one.rule, "structure": one.structure}
            rows += [
                {**names, "phase": phase, "reason": one.reason, "empty": 0, "metrics": {}}
                for phase in ([one.phase] if one.phase else phases)
            ]
    return rows


def compare_with_atlas(cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Paired difference in Dice to the atlas, on the same cases, with its interval over patients."""
    rows = []
    atlas = cases[cases["kind"] == "atlas"]
    for keys, group in cases[cases["kind"] != "atlas"].groupby([*CASE_COLUMNS, "phase"], sort=False):
        names = dict(zip((*CASE_COLUMNS, "phase"), keys, strict=True))
        mine = group.set_index("frame")
        other = atlas[(atlas["structure"] == names["structure"]) & (atlas["phase"] == names["phase"])]
        if len(other):
            paired = other.set_index("frame")["dice"].reindex(mine.index)
            rows.append({**names, "dice": paired_difference(mine["dice"], paired, mine["patient"]).to_dict()})
    return rows


def compare_ejection_fractions(cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Error of the ejection fraction (points) against that of the manual masks, by the same single-plane formula.

    Medians, since one tiny ED mask makes an error of thousands of points.

    Returns:
        For each method and rule measured on the LV in sequences with both phases: quartiles ``absolute`` and
        ``bias`` (25%, 50%, 75%), ``n``, ``undefined`` (a mask is empty), and ``reversed`` (the predicted ES volume
        is the larger one).
    """
    rows = []
    for (method, rule), group in cases[cases["structure"] == "lv"].groupby(["method", "rule"], sort=False):
        table = ejection_fractions(group)
        error = table["ef"] - table["ef_manual"]
        if error.notna().any():
            quartiles = {
                name: [float(q) for q in np.nanquantile(values, [0.25, 0.5, 0.75])]
                for name, values in (("absolute", error.abs()), ("bias", error))
            }
            counts = {
                "n": int(error.notna().sum()),
                "undefined": int(error.isna().sum()),
                "reversed": int((table["ef"] < 0).sum()),
            }
            rows.append({"method": method, "rule": rule, **quartiles, **counts})
    return rows


def choose_examples(
    shown: Mapping[str, Shown],
    cases: pd.DataFrame,
    store: FrameStore,
    test: pd.DataFrame,
    maps: NDArray[np.uint8] | None,
) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Best, median and worst case of the shown method, by Dice at the stored size, for each structure and phase.

    Args:
        shown: structure to the method that the report shows.
        cases: one row per measured case.
        store: the frame store.
        test: the m rows of the test side.
        maps: (m, S, S) parcel maps of the test frames by the shown source; None where a network is shown.

    Returns:
        Arrays ``frames``, ``maps`` (where given) (e, S, S) uint8, ``manual``, ``predicted`` (e, S, S) bool, and e
        descriptions in the same order: ``structure``, ``phase``, ``rank``, ``id``, ``patient`` and ``dice``.
    """
    position = {int(frame): i for i, frame in enumerate(test["frame"])}
    rows: list[dict[str, Any]] = []
    places: list[int] = []
    predicted: list[NDArray[np.bool_]] = []
    manual: list[NDArray[np.bool_]] = []
    for structure, one in shown.items():
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
