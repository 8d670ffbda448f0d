"""What an ensemble adds to its members, and what a network gets right pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.data.store.reader import FrameStore
from alan.data.structures import check_structures
from alan.errors import ParameterError
from alan.evaluation.intervals import bootstrap_interval, paired_difference
from alan.evaluation.networks import Supervised, values_of
from alan.supervised.ensemble import EnsembleSegmenter


def ensemble_gains(networks: Sequence[Supervised], cases: pd.DataFrame) -> list[dict[str, Any]]:
    """For each ensemble, the paired difference to each of its members that is measured too.

    The best member is the one with the best score on the cases the weights were searched on, so that the test
    cases have no say in it; without a search there is none.

    Args:
        networks: the networks of the protocol.
        cases: one row per measured case.

    Returns:
        One dictionary for each ensemble: ``method``, ``validation`` (how the weights were found, or None),
        ``members`` (``name``, ``method`` as shown or None where it is not measured, ``weight`` as a share,
        ``best``, ``validation`` score or None), and ``gains``: ``member`` (as shown), ``best``, ``structure``,
        ``phase``, and the intervals ``dice`` and ``iou`` of ensemble minus member.
    """
    shown = {one.network.fingerprint: one.name for one in networks}
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
                "method": shown.get(member.fingerprint),
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
    """Paired differences of two methods by structure and phase, in Dice and IoU."""
    rows = []
    mine, other = cases[cases["method"] == first], cases[cases["method"] == second]
    for (structure, phase), group in mine.groupby(["structure", "phase"], sort=False):
        a = group.set_index("frame")
        b = other[(other["structure"] == structure) & (other["phase"] == phase)].set_index("frame")
        b = b.reindex(a.index)
        metrics = {name: paired_difference(a[name], b[name], a["patient"]).to_dict() for name in ("dice", "iou")}
        rows.append({"structure": structure, "phase": phase, **metrics})
    return rows


def pixel_accuracy(
    networks: Sequence[Supervised], structures: Sequence[str], store: FrameStore, test: pd.DataFrame
) -> list[dict[str, Any]]:
    """Share of pixels with the right class, background included, as the U-Net study on ACDC reports it (6.3).

    Most pixels are background, so it is high where little is right: read it beside the Dice of each structure.

    Args:
        networks: the networks of the protocol.
        structures: structures of the protocol.
        store: the frame store.
        test: the m rows of the test side.

    Returns:
        ``method``, ``kind`` and the interval ``accuracy`` over patients for each network that segments all of the
        structures; empty with fewer than two structures, or where they overlap.
    """
    try:
        check_structures(structures)
    except ParameterError:  # lv beside lv+myo: a pixel has no one class
        return []
    if len(structures) < 2:
        return []
    truth = store.label_maps(test["label"].to_numpy(), structures)
    rows = []
    for one in networks:
        values = [values_of(one.network.structures, structure) for structure in structures]
        if all(values):
            share = (_renumbered(one.labels, values) == truth).mean((1, 2))
            accuracy = bootstrap_interval(share, test["patient"].to_numpy()).to_dict()
            rows.append({"method": one.name, "kind": one.kind, "accuracy": accuracy})
    return rows


def _renumbered(labels: NDArray[np.uint8], values: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """Labels of a network as labels of the protocol; what the protocol does not ask for is background."""
    table = np.zeros(256, np.uint8)
    for label, old in enumerate(values, 1):
        table[list(old)] = label
    return np.asarray(table[labels])
