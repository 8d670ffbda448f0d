"""Greedy selection: the union of parcels with the best mean Dice, guarded against over-fitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alan.arrays import BoolArray, FloatArray, IntArray
from alan.downstream.whitebox.choice import BACKGROUND, Choice, RuleEvidence

#: Guards against over-fitting, see :func:`greedy_union`.
Guard = Literal["size", "patients"]


@dataclass(frozen=True)
class Greedy:
    """A greedy union.

    Attributes:
        order: Ids in the order in which they were added.
        dice: Mean Dice on all labelled images after each addition.
        cv_dice: Mean held-out Dice of unions of that size; NaN if there is only one group.
    """

    order: list[int]
    dice: FloatArray
    cv_dice: float


def choose_greedily(evidence: RuleEvidence) -> Choice:
    """Choose the union with the best mean Dice, see :func:`greedy_union`."""
    counts, settings = evidence.counts, evidence.settings
    options = {name: settings[name] for name in ("n_folds", "min_gain", "guard", "guard_errors")}
    greedy = greedy_union(counts.area, counts.overlap, counts.target, evidence.groups, **options)
    why = [_sentence(k, evidence, greedy) for k in range(evidence.n_parcels)]
    interior = np.isin(range(evidence.n_parcels), greedy.order)
    return Choice(interior, why, evidence.ranking, _nothing(evidence.ranking, why), greedy.cv_dice)


def _sentence(parcel: int, evidence: RuleEvidence, greedy: Greedy) -> str:
    """Describe when a parcel was added and how far it raised the Dice, or that it was left out."""
    counts = evidence.counts
    if parcel == evidence.background_id:
        return BACKGROUND
    if parcel in greedy.order:
        step = greedy.order.index(parcel)
        before = greedy.dice[step - 1] if step else 0.0
        return f"added in step {step + 1}: raises the mean Dice from {before:.3f} to {greedy.dice[step]:.3f}"
    if not counts.present[:, parcel].any():
        return f"absent from all {len(counts.target)} images"
    return (
        f"left out: mean overlap with the target {counts.mean_overlap[parcel]:.0%}, no reliable gain in mean Dice"
    )


def _nothing(ranking: list[int], why: list[str]) -> str:
    """Name the parcel that came closest, in one line with the remedy."""
    if not ranking:
        return "rule 'greedy' chose no parcel: none overlaps the target in any image; check masks and parcel maps"
    return (
        f"rule 'greedy' chose no parcel; parcel {ranking[0]} came closest: {why[ranking[0]]}; lower min_gain or "
        "guard_errors, or set min_parcels=1 to take the best"
    )


def greedy_union(
    area: IntArray,
    overlap: IntArray,
    target: IntArray,
    groups: NDArray[np.generic],
    *,
    n_folds: int = 10,
    min_gain: float = 0.001,
    guard: Guard = "size",
    guard_errors: float = 0.0,
) -> Greedy:
    """Find the union of parcels with the best mean Dice, guarded against over-fitting on few labels.

    The union grows by the parcel that raises the mean Dice most. With ``guard="size"`` the growth is repeated
    without each fold of groups (patients) and measured on that fold; the size is the smallest whose mean held-out
    Dice comes within ``min_gain`` of the best. With a single group nothing can be held out, and the union grows
    while each parcel gains more than ``min_gain``. With ``guard="patients"`` each step must hold over patients:
    its mean gain in Dice, minus ``guard_errors`` standard errors between patients, must exceed ``min_gain``, and
    the most certain step is taken. With a single patient, for whom there is no standard error, only parcels that
    lie in the target by more than half are taken.

    Args:
        area: (N, K) pixels of each parcel.
        overlap: (N, K) pixels of each parcel inside the target.
        target: (N,) pixels of the target; images without target have no Dice and are left out.
        groups: (N,) group of each image; images of a group are never split between folds.
        n_folds: Largest number of folds; with as many groups or fewer, one group is left out at a time.
        min_gain: Gain in mean Dice below which a parcel is not added.
        guard: ``"size"`` or ``"patients"``.
        guard_errors: Standard errors by which the gain of a step must exceed ``min_gain``.

    Returns:
        The union; empty if no parcel overlaps the target.
    """
    labelled = target > 0
    area, overlap, target = area[labelled], overlap[labelled], target[labelled]
    if not len(target):
        return Greedy([], np.zeros(0), float("nan"))
    group = np.unique(groups[labelled], return_inverse=True)[1]
    if guard == "patients":
        steps, gained = _grow_guarded(area, overlap, target, group, min_gain=min_gain, errors=guard_errors)
        return Greedy(steps, np.array(gained), float("nan"))
    order, dice = _grow(area, overlap, target)
    if not order:
        return Greedy([], np.zeros(0), float("nan"))
    n_groups = int(group.max()) + 1
    if n_groups < 2:
        gains = np.diff(dice, prepend=0.0)
        stop = np.flatnonzero(gains <= min_gain)
        size = max(int(stop[0]) if len(stop) else len(order), 1)
        return Greedy(order[:size], np.array(dice[:size]), float("nan"))
    fold = group % min(n_groups, n_folds)
    held_out = np.zeros((len(target), len(order)))
    for left_out in np.unique(fold):
        test = fold == left_out
        path = _grow(area[~test], overlap[~test], target[~test])[0][: len(order)]
        if not path:
            continue  # the other groups support no union: Dice 0 on this fold
        hits = overlap[np.ix_(test, path)].cumsum(1)
        curve = 2 * hits / (area[np.ix_(test, path)].cumsum(1) + target[test, None])
        held_out[test] = curve[:, np.minimum(np.arange(len(order)), len(path) - 1)]
    mean = held_out.mean(0)
    size = int(np.flatnonzero(mean >= mean.max() - min_gain)[0]) + 1
    return Greedy(order[:size], np.array(dice[:size]), float(mean[size - 1]))


def _grow(area: IntArray, overlap: IntArray, target: IntArray) -> tuple[list[int], list[float]]:
    """Add the parcel that raises the mean Dice most until none does: ids and mean Dice after each step."""
    order: list[int] = []
    dice: list[float] = []
    hit, size = np.zeros((len(target), 1)), target[:, None].astype(np.float64)
    free: BoolArray = np.any(area, axis=0, keepdims=True)[0]
    best = 0.0
    while free.any():
        mean = np.where(free, (2 * (hit + overlap) / (size + area)).mean(0), -1.0)
        parcel = int(np.argmax(mean))
        if mean[parcel] <= best:
            break
        best = float(mean[parcel])
        order.append(parcel)
        dice.append(best)
        free[parcel] = False
        hit, size = hit + overlap[:, [parcel]], size + area[:, [parcel]]
    return order, dice


def _grow_guarded(
    area: IntArray,
    overlap: IntArray,
    target: IntArray,
    group: NDArray[np.integer],
    *,
    min_gain: float,
    errors: float,
) -> tuple[list[int], list[float]]:
    """Add the parcel whose gain over patients is most certain until none is: ids and mean Dice after each step."""
    images = np.bincount(group)
    share = overlap.sum(0) / np.maximum(area.sum(0), 1)
    likely = share > (0.0 if len(images) > 1 else 0.5)
    free: BoolArray = np.asarray(area.any(0) & likely)
    member = (group == np.arange(len(images))[:, None]) / images[:, None]  # (patients, images): mean over each
    order: list[int] = []
    dice: list[float] = []
    hit, size, now = np.zeros((len(target), 1)), target[:, None].astype(np.float64), np.zeros((len(target), 1))
    while free.any():
        after = 2 * (hit + overlap) / (size + area)
        gain = member @ (after - now)
        lower = gain.mean(0)
        if len(images) > 1:
            lower = lower - errors * gain.std(0, ddof=1) / np.sqrt(len(images))
        parcel = int(np.argmax(np.where(free, lower, -np.inf)))
        if lower[parcel] <= min_gain:
            break
        order.append(parcel)
        dice.append(float(after[:, parcel].mean()))
        free[parcel] = False
        hit, size, now = hit + overlap[:, [parcel]], size + area[:, [parcel]], after[:, [parcel]]
    return order, dice
