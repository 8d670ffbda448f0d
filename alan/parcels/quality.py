"""Quality of parcels without labels, and an upper bound for segments that are unions of parcels.

All measures take parcel maps; :func:`parcel_quality` computes the maps of several models and collects the measures
in one table. The background (outside the ultrasound sector) is not a parcel and is excluded from every measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from alan.bounds import NonNegativeFloat, PositiveInt, bounded
from alan.data.store.reader import FrameStore
from alan.errors import ParameterError
from alan.parcels.model import ParcelModel
from alan.parcels.regions import parcel_pixels
from alan.parcels.usage import parcel_usage

Maps = NDArray[np.integer]
#: Number of pixels, at 112 x 112, from which a parcel counts as present in a frame.
PRESENT = 8
_BASE = 112


class ParcelAgreement(NamedTuple):
    """Agreement of two models on the same frames, whatever the ids of their parcels.

    Attributes:
        ami: Adjusted mutual information of the ids of the pixels, 1 for equal parcels, about 0 for unrelated ones.
        ari: Adjusted Rand index of the ids of the pixels, with the same scale.
        dice: Mean Dice over the used parcels, each matched with one parcel of the other model (Hungarian
            algorithm); a parcel without a match counts as 0.
    """

    ami: float
    ari: float
    dice: float


class Consistency(NamedTuple):
    """Consistency of parcels between neighbouring frames of a sequence.

    Attributes:
        overlap: Share of pixels whose parcel occurs within the slack of the same place in the neighbouring frame.
        parcels: Jaccard index of the sets of parcels that are present (at least 8 pixels at 112 x 112).
    """

    overlap: float
    parcels: float


class Oracle(NamedTuple):
    """Highest Dice that a union of parcels can reach, given the masks.

    Attributes:
        image: Mean over images of the Dice of the best union, chosen for each image: the limit set by the borders
            between parcels (over-segmentation quality).
        list_: Dice of the best single list of parcels, over the pixels of all images: the limit of a readable
            list.
    """

    image: float
    list_: float


def _maps(maps: ArrayLike, name: str = "maps") -> Maps:
    array = np.asarray(maps)
    if array.ndim != 3 or array.size == 0 or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise ParameterError(f"{name} are {array.dtype} {array.shape}: give ids from 0, (N, H, W), N at least 1")
    return array


def parcel_agreement(
    first: ArrayLike,
    second: ArrayLike,
    *,
    background: Sequence[int | None] = (None, None),
    max_pixels: int = 20_000,
) -> ParcelAgreement:
    """Compare the parcels of two models on the same frames.

    Args:
        first: (N, H, W) ids.
        second: (N, H, W) ids of the other model, which may have another number of parcels.
        background: Id of the background in each; pixels that are background in either are excluded.
        max_pixels: Largest number of pixels for the mutual information, whose correction for chance is slow; more
            are subsampled (seed 0). The other measures use all pixels.

    Raises:
        ParameterError: The arrays are not ids of one shape (N, H, W), or no pixel is left.
    """
    a, b = _maps(first, "first"), _maps(second, "second")
    if a.shape != b.shape:
        raise ParameterError(f"first is {a.shape}, second {b.shape}: give maps of the same frames and size")
    inside = np.ones(a.shape, bool)
    for ids, outside in zip((a, b), background, strict=True):
        if outside is not None:
            inside &= ids != outside
    a, b = a[inside].astype(np.int64), b[inside].astype(np.int64)
    if not len(a):
        raise ParameterError("every pixel is background in one of the maps: give frames that show the sector")
    few = np.random.default_rng(0).choice(len(a), min(len(a), max_pixels), replace=False)
    joint = _joint(a, b)
    rows, columns = joint.sum(1), joint.sum(0)
    joint = joint[rows > 0][:, columns > 0]
    overlap = 2 * joint / (joint.sum(1)[:, None] + joint.sum(0)[None])
    matched = overlap[linear_sum_assignment(-overlap)].sum() / max(overlap.shape)
    return ParcelAgreement(
        float(adjusted_mutual_info_score(a[few], b[few])), float(adjusted_rand_score(a, b)), float(matched)
    )


def _joint(a: Maps, b: Maps) -> NDArray[np.float64]:
    """Count the pixels of each pair of ids."""
    side = int(b.max()) + 1
    return np.bincount(a * side + b, minlength=(int(a.max()) + 1) * side).reshape(-1, side).astype(np.float64)


@bounded
def consistency(maps: ArrayLike, *, background: int | None = None, slack: NonNegativeFloat = 4.0) -> Consistency:
    """Compare each frame of a sequence with the next, allowing for motion.

    A pixel agrees if its parcel occurs in the other frame at most ``slack`` pixels from the same place, the
    distance by which tissue moves between the frames. Both directions count equally.

    Args:
        maps: (F, H, W) ids of consecutive frames, F at least 2.
        background: Id of the background.
        slack: Radius in pixels at 112 x 112; it scales with the map.

    Raises:
        ParameterError: The maps are not ids (F, H, W) of at least two frames, or the slack is negative.
    """
    ids = _maps(maps).astype(np.int64)
    if len(ids) < 2:
        raise ParameterError(f"maps have {len(ids)} frame: give at least 2")
    scale = min(ids.shape[1:]) / _BASE
    reach = slack * scale
    now, after = ids[:-1], ids[1:]
    found = [_within(a, b, reach)[a != background] for a, b in ((now, after), (after, now))]
    agreeing = np.concatenate(found)
    sets = [_present(frame, background, PRESENT * scale**2) for frame in ids]
    jaccard = [len(a & b) / len(a | b) for a, b in pairwise(sets) if a | b]
    return Consistency(
        float(agreeing.mean()) if len(agreeing) else float("nan"),
        float(np.mean(jaccard)) if jaccard else float("nan"),
    )


def _within(one: NDArray[np.int64], other: NDArray[np.int64], reach: float) -> NDArray[np.bool_]:
    """Return (F, H, W) bool: the id of a pixel occurs in the other frame within ``reach`` pixels."""
    step = int(reach)
    padded = np.pad(other, ((0, 0), (step, step), (step, step)), constant_values=-1)
    height, width = one.shape[1:]
    found = np.zeros(one.shape, bool)
    for dy in range(-step, step + 1):
        for dx in range(-step, step + 1):
            if dy * dy + dx * dx <= reach * reach:
                found |= one == padded[:, step + dy : step + dy + height, step + dx : step + dx + width]
    return found


def _present(frame: NDArray[np.int64], background: int | None, pixels: float) -> set[int]:
    counts = np.bincount(frame.ravel())
    return {int(k) for k in np.flatnonzero(counts >= max(pixels, 1)) if k != background}


def oracle_dice(maps: ArrayLike, masks: ArrayLike, *, background: int | None = None) -> Oracle:
    """Find the highest Dice that unions of parcels reach.

    With n_k pixels of parcel k inside the mask of M pixels, out of s_k, a union has Dice
    ``2 sum n_k / (M + sum s_k)``. The best union takes parcels in the order of their purity n_k / s_k, as long as
    that raises the Dice. This is exact, because a ratio of sums is raised by exactly the terms whose own ratio
    exceeds it.

    Args:
        maps: (N, H, W) ids.
        masks: (N, H, W) bool.
        background: Id of the background, which is never chosen.

    Returns:
        Values from 0 to 1; NaN if no mask has a pixel. Images with an empty mask are excluded from ``image``.

    Raises:
        ParameterError: The shapes differ.
    """
    ids, truth = _maps(maps).astype(np.int64), np.asarray(masks, bool)
    if ids.shape != truth.shape:
        raise ParameterError(f"maps are {ids.shape}, masks {truth.shape}: give one mask per map")
    size, inside = parcel_pixels(ids, truth, int(ids.max()) + 1, background)
    wanted = truth.sum((1, 2))
    each = [_best_union(n, s, m) for n, s, m in zip(inside, size, wanted, strict=True) if m]
    if not each:
        return Oracle(float("nan"), float("nan"))
    return Oracle(float(np.mean(each)), _best_union(inside.sum(0), size.sum(0), wanted.sum()))


def _best_union(inside: NDArray[np.int64], size: NDArray[np.int64], wanted: int) -> float:
    order = np.argsort(-inside / np.maximum(size, 1), kind="stable")
    return float((2 * inside[order].cumsum() / (wanted + size[order].cumsum())).max())


@bounded
def parcel_quality(
    models: Mapping[str, ParcelModel | Sequence[ParcelModel]],
    store: FrameStore,
    *,
    split: str | None = "val",
    structures: Sequence[str] | None = None,
    slack: NonNegativeFloat = 4.0,
    batch_size: PositiveInt = 32,
) -> pd.DataFrame:
    """Measure parcel models on a frame store.

    Args:
        models: Mapping from name to a model, or to the models of several seeds, whose agreement is measured.
        store: The frame store.
        split: Split (train, val or test) to measure on; None uses all.
        structures: Structures whose masks bound the Dice; None uses all of the store, () none (no labels needed).
        slack: Slack of :func:`consistency`.
        batch_size: Number of frames that go through the backbone at a time.

    Returns:
        One row per name: ``parcels`` (K), ``in_use`` (parcels with more than 0.2% of the pixels in the sector;
        mean over seeds), ``perplexity``, ``ami``, ``ari`` and ``matched_dice`` (:func:`parcel_agreement`, mean
        over pairs of seeds; NaN for one seed), ``overlap`` and ``same_parcels`` (:func:`consistency`, mean over
        sequences; NaN if all have one frame), and for each structure ``oracle_<structure>`` and
        ``list_<structure>`` (:func:`oracle_dice`, mean over seeds).

    Raises:
        DataError: The split has no sequence or no annotated frame.
        ParameterError: A structure is unknown, or a name has no model.
    """
    sequences = store.select(split)
    frames = store.choose_frames(split)
    place = {int(frame): i for i, frame in enumerate(frames)}
    named = store.structures if structures is None else structures
    masks, rows = {}, np.zeros(0, np.int64)
    if named:
        table = store.labelled(split, phases=None)
        masks = {name: store.masks(table["label"].to_numpy(), name) for name in named}
        rows = np.array([place[int(frame)] for frame in table["frame"]])
    spans = [slice(place[s.start], place[s.start] + s.length) for s in sequences if s.length > 1]
    measured = {}
    for name, given in models.items():
        seeds = [given] if isinstance(given, ParcelModel) else list(given)
        if not seeds:
            raise ParameterError(f"{name!r} has no model: give one, or one per seed")
        maps = [model.store_maps(store, frames, batch_size) for model in seeds]
        found = [
            _label_free(model, one, spans, slack) | _oracles(one[rows], masks, model.background_id)
            for model, one in zip(seeds, maps, strict=True)
        ]
        line = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
        pairs = [
            parcel_agreement(maps[i], maps[j], background=(seeds[i].background_id, seeds[j].background_id))
            for i, j in combinations(range(len(seeds)), 2)
        ]
        stable = np.mean(pairs, axis=0) if pairs else np.full(3, np.nan)
        line |= dict(zip(("ami", "ari", "matched_dice"), map(float, stable), strict=True))
        measured[name] = line
    columns = ["parcels", "in_use", "perplexity", "ami", "ari", "matched_dice", "overlap", "same_parcels"]
    columns += [f"{kind}_{name}" for name in masks for kind in ("oracle", "list")]
    return pd.DataFrame.from_dict(measured, orient="index", columns=columns).rename_axis("model")


def _label_free(model: ParcelModel, maps: Maps, spans: Sequence[slice], slack: float) -> dict[str, float]:
    inside = maps[maps != model.background_id] if model.background_id is not None else maps
    usage = parcel_usage(torch.from_numpy(np.ascontiguousarray(inside)), model.n_parcels)
    steps = [consistency(maps[span], background=model.background_id, slack=slack) for span in spans]
    mean = np.nanmean(steps, axis=0) if steps else np.full(2, np.nan)
    return {
        "parcels": float(model.n_parcels),
        "in_use": float(usage.in_use),
        "perplexity": usage.perplexity,
        "overlap": float(mean[0]),
        "same_parcels": float(mean[1]),
    }


def _oracles(maps: Maps, masks: Mapping[str, NDArray[np.bool_]], background: int | None) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, truth in masks.items():
        best = oracle_dice(maps, truth, background=background)
        found |= {f"oracle_{name}": best.image, f"list_{name}": best.list_}
    return found
