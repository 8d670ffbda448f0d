"""Gain of an ensemble over its members, and pixel accuracy of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.data.store.reader import FrameStore
from alan.data.structures import check_structures, parts
from alan.errors import ParameterError
from alan.evaluation.intervals import bootstrap_interval
from alan.evaluation.networks import NetworkMaps, values_of
from alan.evaluation.results import ALL_STRUCTURES
from alan.evaluation.summary import compare_methods
from alan.supervised.ensemble import EnsembleSegmenter


def ensemble_gains(networks: Sequence[NetworkMaps], cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Compute the paired difference of each ensemble to each of its members that is measured too.

    The best member is the one with the best score on the cases on which the weights were searched, so the test
    cases do not decide it; without a search there is none.

    Args:
        networks: Networks of the protocol.
        cases: One row per measured case.

    Returns:
        One dictionary per ensemble: ``method``, ``validation`` (how the weights were found, or None), ``members``
        (``name``, ``method``: its name in the report, or None if it is not measured, ``weight`` as a share,
        ``best``, ``validation`` score or None), and ``gains``: ``member`` (name in the report), ``best``,
        ``structure``, ``phase``, and the intervals ``dice`` and ``iou`` of ensemble minus member.
    """
    reported = {one.network.fingerprint: one.name for one in networks}
    found = []
    for one in networks:
        if not isinstance(one.network, EnsembleSegmenter):
            continue
        validation = one.network.provenance.get("validation") or None
        scores = (validation or {}).get("members", {})
        best = max(scores, key=lambda name: scores[name]) if scores else None
        members = [
            {
                "name": name,
                "method": reported.get(member.fingerprint),
                "weight": share,
                "best": name == best,
                "validation": scores.get(name),
            }
            for (name, member), share in zip(one.network.members.items(), one.network.shares(), strict=True)
        ]
        gains = [
            {"member": member["method"], "best": member["best"], **row}
            for member in members
            if member["method"] is not None
            for row in _differences(cases, one.name, str(member["method"]))
        ]
        found.append({"method": one.name, "validation": validation, "members": members, "gains": gains})
    return found


def _differences(cases: pd.DataFrame, first: str, second: str) -> list[dict[str, Any]]:
    """Compare two methods in Dice and IoU, by structure and phase and over all of them."""
    mine, other = cases[cases["method"] == first], cases[cases["method"] == second]
    parts = list(mine.groupby(["structure", "phase"], sort=False))
    if mine["structure"].nunique() > 1:  # the mean over structures, as the ensemble study reports it
        parts.append(((ALL_STRUCTURES, "ED and ES"), mine))
    return [
        {"structure": structure, "phase": phase, **compare_methods(part, other, ("dice", "iou"))}
        for (structure, phase), part in parts
    ]


def pixel_accuracy(
    networks: Sequence[NetworkMaps], structures: Sequence[str], store: FrameStore, test: pd.DataFrame
) -> list[dict[str, Any]]:
    """Compute the share of pixels with the right class, background included (U-Net study on ACDC, section 6.3).

    Most pixels are background, so the accuracy is high even for a poor segmentation: read it with the Dice scores.

    Args:
        networks: Networks of the protocol.
        structures: Structures of the protocol.
        store: Frame store.
        test: The m rows of the test split.

    Returns:
        ``method``, ``kind`` and the interval ``accuracy`` over patients, for each network that segments all of the
        structures; empty with fewer than two structures. If they overlap, unions such as ``lv+myo`` are left out.
    """
    try:
        check_structures(structures)
    except ParameterError:  # lv and lv+myo overlap: a pixel has no single class
        structures = [name for name in structures if len(parts(name)) == 1]
    if len(structures) < 2:
        return []
    truth = store.label_maps(test["label"].to_numpy(), structures)
    rows = []
    for one in networks:
        values = [values_of(one.network.structures, structure) for structure in structures]
        if all(values):
            share = (_renumber(one.labels, values) == truth).mean((1, 2))
            accuracy = bootstrap_interval(share, test["patient"].to_numpy()).to_dict()
            rows.append({"method": one.name, "kind": one.kind, "accuracy": accuracy})
    return rows


def _renumber(labels: NDArray[np.uint8], values: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """Map the labels of a network to those of the protocol; structures that it lacks become background."""
    table = np.zeros(256, np.uint8)
    for label, old in enumerate(values, 1):
        table[list(old)] = label
    return np.asarray(table[labels])
