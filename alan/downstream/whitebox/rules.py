"""Selection rules: thresholds on counts (paper, relaxed), the union with the best Dice, or a Beta posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
CountArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class Thresholds(NamedTuple):
    """What a rule asks of an interior parcel, as shares in [0, 1].

    Attributes:
        overlap: of a region that counts as inside.
        consistency: of the images where the parcel is present, those in which it is inside.
        presence: of all images, those in which it is present (or inside, by the other reading).
    """

    overlap: float
    consistency: float
    presence: float


#: Rules by name. ``greedy`` and ``beta`` do not choose by thresholds; they only fill the table.
RULES = {
    "paper": Thresholds(0.75, 0.5, 0.3),
    "relaxed": Thresholds(0.5, 0.5, 0.1),
    "greedy": Thresholds(0.75, 0.5, 0.3),
    "beta": Thresholds(0.75, 0.5, 0.3),
}
#: What guards the greedy union against over-fitting, see :func:`greedy_union`.
GUARDS = ("size", "patients")


def shares(
    counts: CountArray, present: CountArray, n_images: int, presence_of: str
) -> tuple[FloatArray, FloatArray]:
    """Consistency and presence of every parcel in one role.

    Args:
        counts: (K,) images in which the parcel has the role.
        present: (K,) images in which it is present.
        n_images: all images.
        presence_of: ``"present"`` (the paper) or ``"inside"`` (the published code: images in which it has the
            role).

    Returns:
        Two (K,) arrays in [0, 1]; the consistency of a parcel that is never present is NaN.
    """
    consistency = np.divide(counts, present, out=np.full(len(counts), np.nan), where=present > 0)
    return consistency, (present if presence_of == "present" else counts) / max(n_images, 1)


@dataclass(frozen=True)
class Greedy:
    """A greedy union.

    Attributes:
        order: ids in the order in which they were added.
        dice: mean Dice on all labelled images after each of them.
        cv_dice: mean held-out Dice of unions of that size; NaN where there is only one group.
    """

    order: list[int]
    dice: FloatArray
    cv_dice: float


def _guarded(
    area: CountArray,
    overlap: CountArray,
    target: CountArray,
    group: NDArray[np.integer],
    *,
    min_gain: float,
    errors: float,
) -> tuple[list[int], list[float]]:
    """Add the parcel whose gain over patients is surest until none is sure: ids and mean Dice after each."""
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
        sure = gain.mean(0)
        if len(images) > 1:
            sure = sure - errors * gain.std(0, ddof=1) / np.sqrt(len(images))
        parcel = int(np.argmax(np.where(free, sure, -np.inf)))
        if sure[parcel] <= min_gain:
            break
        order.append(parcel)
        dice.append(float(after[:, parcel].mean()))
        free[parcel] = False
        hit, size, now = hit + overlap[:, [parcel]], size + area[:, [parcel]], after[:, [parcel]]
    return order, dice


def _path(area: CountArray, overlap: CountArray, target: CountArray) -> tuple[list[int], list[float]]:
    """Add the parcel that raises the mean Dice most until none does: ids and mean Dice after each."""
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


def greedy_union(
    area: CountArray,
    overlap: CountArray,
    target: CountArray,
    groups: NDArray[np.generic],
    *,
    n_folds: int = 10,
    min_gain: float = 0.001,
    guard: str = "size",
    guard_errors: float = 0.0,
) -> Greedy:
    """Union of parcels with the best mean Dice, guarded against over-fitting on few labels.

    The union grows by the parcel that raises the mean Dice most. With ``guard="size"`` the same growth is
    repeated without each fold of groups (patients), measured on the fold, and the size is the smallest whose
    held-out mean Dice comes within ``min_gain`` of the best; with a single group nothing can be held out, and
    the union grows while each parcel gains more than ``min_gain``. With ``guard="patients"`` each step must hold
    over patients: its mean gain in Dice, less ``guard_errors`` standard errors between patients, must exceed
    ``min_gain``, and the surest step is taken; with a single patient, where there is no error, only parcels that
    lie in the target by more than half are taken.

    Args:
        area: (N, K) pixels of each parcel.
        overlap: (N, K) those inside the target.
        target: (N,) pixels of the target; images without target have no Dice and are left out.
        groups: (N,) whose images must not be parted.
        n_folds: folds at most; with as many groups or fewer, one is left out at a time.
        min_gain: gain in mean Dice below which a parcel is not worth adding.
        guard: one of :data:`GUARDS`.
        guard_errors: standard errors by which a step's gain must exceed ``min_gain``.

    Returns:
        The union; empty where no parcel meets the target.
    """
    labelled = target > 0
    area, overlap, target = area[labelled], overlap[labelled], target[labelled]
    if guard == "patients":
        if not len(target):
            return Greedy([], np.zeros(0), float("nan"))
        group = np.unique(groups[labelled], return_inverse=True)[1]
        steps, gained = _guarded(area, overlap, target, group, min_gain=min_gain, errors=guard_errors)
        return Greedy(steps, np.array(gained), float("nan"))
    order, dice = _path(area, overlap, target) if len(target) else ([], [])
    if not order:
        return Greedy([], np.zeros(0), float("nan"))
    group = np.unique(groups[labelled], return_inverse=True)[1]
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
        path = _path(area[~test], overlap[~test], target[~test])[0][: len(order)]
        if not path:
            continue  # the other groups teach nothing: Dice 0 on this one
        hits = overlap[np.ix_(test, path)].cumsum(1)
        curve = 2 * hits / (area[np.ix_(test, path)].cumsum(1) + target[test, None])
        held_out[test] = curve[:, np.minimum(np.arange(len(order)), len(path) - 1)]
    mean = held_out.mean(0)
    size = int(np.flatnonzero(mean >= mean.max() - min_gain)[0]) + 1
    return Greedy(order[:size], np.array(dice[:size]), float(mean[size - 1]))
