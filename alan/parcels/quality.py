"""How good parcels are before any label chooses among them, and how good a choice could be at best.

All measures take parcel maps alone; :func:`parcel_quality` computes maps of several models and puts the measures
into one table. The background (outside the sector) is no parcel and is left out of every measure.
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

from alan.data.store.reader import FrameStore
from alan.errors import ParameterError
from alan.parcels.model import ParcelModel
from alan.parcels.regions import parcel_pixels
from alan.parcels.usage import parcel_usage

Maps = NDArray[np.integer]
#: A parcel is present in a frame when it has at least so many pixels of 112 x 112.
PRESENT = 8
_BASE = 112


class Agreement(NamedTuple):
    """Two models on the same frames, whatever they call their parcels.

    Attributes:
        ami: adjusted mutual information of the pixels' ids, 1 for the same parcels, about 0 for unrelated ones.
        ari: adjusted Rand index of the pixels' ids, likewise.
        dice: mean Dice over the parcels in use when each is matched with one of the other model (Hungarian
            algorithm); a parcel without a partner counts as 0.
    """

    ami: float
    ari: float
    dice: float


class Consistency(NamedTuple):
    """Neighbouring frames of a sequence.

    Attributes:
        overlap: share of pixels whose parcel lies within the slack of the same place in the neighbouring frame.
        parcels: Jaccard index of the sets of parcels that are present (at least 8 pixels of 112 x 112).
    """

    overlap: float
    parcels: float


class Oracle(NamedTuple):
    """The best that choosing parcels can reach, given the masks.

    Attributes:
        image: mean over images of the Dice of the best union of parcels, chosen for each image anew: what the
            borders between parcels allow (over-segmentation quality).
        list_: Dice of the best single list of parcels for all images, over the pixels of all images together: what
            a readable list could reach.
    """

    image: float
    list_: float


def _maps(maps: ArrayLike, name: str = "maps") -> Maps:
    array = np.asarray(maps)
    if array.ndim != 3 or array.size == 0 or not np.issubdtype(array.dtype, np.integer) or array.min() < 0:
        raise ParameterError(f"{name} are {array.dtype} {array.shape}: expected ids from 0, (N, H, W), N above 0")
    return array


def agreement(
    first: ArrayLike,
    second: ArrayLike,
    *,
    background: Sequence[int | None] = (None, None),
    max_pixels: int = 20_000,
) -> Agreement:
    """Compare the parcels of two models on the same frames.

    Args:
        first: (N, H, W) ids.
        second: (N, H, W) ids of the other model; its numbers of parcels may differ.
        background: id of the background in each; pixels that are background in one of them are left out.
        max_pixels: of more pixels so many are drawn (seed 0) for the mutual information, whose correction for
            chance is slow; the others use all.

    Raises:
        ParameterError: not ids of one shape (N, H, W), or no pixel is left.
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
        raise ParameterError("every pixel is background in one of the two: nothing to compare")
    few = np.random.default_rng(0).choice(len(a), min(len(a), max_pixels), replace=False)
    joint = _joint(a, b)
    rows, columns = joint.sum(1), joint.sum(0)
    joint = joint[rows > 0][:, columns > 0]
    overlap = 2 * joint / (joint.sum(1)[:, None] + joint.sum(0)[None])
    matched = overlap[linear_sum_assignment(-overlap)].sum() / max(overlap.shape)
    return Agreement(
        float(adjusted_mutual_info_score(a[few], b[few])), float(adjusted_rand_score(a, b)), float(matched)
    )


def _joint(a: Maps, b: Maps) -> NDArray[np.float64]:
    """Pixels by id in the one and id in the other."""
    side = int(b.max()) + 1
    return np.bincount(a * side + b, minlength=(int(a.max()) + 1) * side).reshape(-1, side).astype(np.float64)


def consistency(maps: ArrayLike, *, background: int | None = None, slack: float = 4.0) -> Consistency:
    """Compare each frame of a sequence with the next, allowing motion.

    A pixel agrees when its parcel appears in the other frame at most ``slack`` pixels from the same place: the
    distance that tissue moves between the frames. Both directions count alike.

    Args:
        maps: (F, H, W) ids of consecutive frames, F 2 or more.
        background: id of the background.
        slack: radius in pixels of 112 x 112; scales with the map.

    Raises:
        ParameterError: not ids (F, H, W) of two frames or more, or a negative slack.
    """
    ids = _maps(maps).astype(np.int64)
    if len(ids) < 2 or slack < 0:
        raise ParameterError(f"{len(ids)} frames, slack {slack}: give two frames or more, and 0 or above")
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
    """(F, H, W) bool: the id of a pixel is found in the other frame within ``reach`` pixels."""
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
    ``2 sum n_k / (M + sum s_k)``. The best union takes the parcels in the order of their purity n_k / s_k, as far
    as that raises the Dice (a ratio of sums is raised by just the terms whose own ratio is above it), so this is
    exact.

    Args:
        maps: (N, H, W) ids.
        masks: (N, H, W) bool.
        background: id of the background, never chosen.

    Returns:
        Values 0 to 1; NaN where no mask has a pixel. Images with an empty mask are left out of ``image``.

    Raises:
        ParameterError: the shapes differ.
    """
    ids, truth = _maps(maps).astype(np.int64), np.asarray(masks, bool)
    if ids.shape != truth.shape:
        raise ParameterError(f"maps are {ids.shape}, masks {truth.shape}: give one mask a map")
    size, inside = parcel_pixels(ids, truth, int(ids.max()) + 1, background)
    wanted = truth.sum((1, 2))
    each = [_best_union(n, s, m) for n, s, m in zip(inside, size, wanted, strict=True) if m]
    if not each:
        return Oracle(float("nan"), float("nan"))
    return Oracle(float(np.mean(each)), _best_union(inside.sum(0), size.sum(0), wanted.sum()))


def _best_union(inside: NDArray[np.int64], size: NDArray[np.int64], wanted: int) -> float:
    order = np.argsort(-inside / np.maximum(size, 1), kind="stable")
    return float((2 * inside[order].cumsum() / (wanted + size[order].cumsum())).max())


def parcel_quality(
    models: Mapping[str, ParcelModel | Sequence[ParcelModel]],
    store: FrameStore,
    *,
    split: str | None = "val",
    structures: Sequence[str] | None = None,
    slack: float = 4.0,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Measure parcel models on a frame store.

    Args:
        models: name to a model, or to the models of several seeds, whose agreement is the stability.
        store: the frame store.
        split: side to measure on; None for all.
        structures: whose masks the oracle takes; None for all that the store has, () for none (no labels needed).
        slack: of :func:`consistency`.
        batch_size: frames that go through the backbone at a time.

    Returns:
        One row a name: ``parcels`` (K), ``in_use`` (more than 0.2% of the pixels in the sector; mean over seeds),
        ``perplexity``, ``ami``, ``ari`` and ``matched_dice`` (:func:`agreement`, mean over pairs of seeds; NaN for
        one seed), ``overlap`` and ``same_parcels`` (:func:`consistency`, mean over sequences; NaN where all have
        one frame), and for each structure ``oracle_<structure>`` and ``list_<structure>`` (:func:`oracle_dice`,
        mean over seeds).

    Raises:
        DataError: no sequence, or no annotated frame, in the split.
        ParameterError: an unknown structure, or a name without a model.
    """
    sequences = store.select(split)
    frames = np.concatenate([np.arange(s.start, s.start + s.length) for s in sequences])
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
            raise ParameterError(f"{name!r} has no model: give one, or one for each seed")
        maps = [model.store_maps(store, frames, batch_size) for model in seeds]
        found = [
            _one(model, one, spans, slack) | _oracles(one[rows], masks, model.background_id)
            for model, one in zip(seeds, maps, strict=True)
        ]
        line = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
        pairs = [
            agreement(maps[i], maps[j], background=(seeds[i].background_id, seeds[j].background_id))
            for i, j in combinations(range(len(seeds)), 2)
        ]
        stable = np.mean(pairs, axis=0) if pairs else np.full(3, np.nan)
        line |= dict(zip(("ami", "ari", "matched_dice"), map(float, stable), strict=True))
        measured[name] = line
    columns = ["parcels", "in_use", "perplexity", "ami", "ari", "matched_dice", "overlap", "same_parcels"]
    columns += [f"{kind}_{name}" for name in masks for kind in ("oracle", "list")]
    return pd.DataFrame.from_dict(measured, orient="index", columns=columns).rename_axis("model")


def _one(model: ParcelModel, maps: Maps, spans: Sequence[slice], slack: float) -> dict[str, float]:
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
