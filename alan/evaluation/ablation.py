"""Ablation of post-processing steps: Dice with and without each step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone

from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import AlanWarning, ParameterError
from alan.evaluation.metrics import dice

#: Step to the parameter that controls it, the value that switches it off, and the value that switches it on.
STEPS: dict[str, tuple[str, Any, Any]] = {
    "main component": ("steps__component", False, True),
    "enclaves": ("steps__enclaves", False, True),
    "closing": ("steps__closing_radius", 0, PostProcessing().closing_radius),
    "fill": ("steps__fill", False, True),
    "active contour": ("steps__contour", False, True),
    "median": ("steps__median_radius", 0, 3),
    "soft": ("soft", None, "share"),
}


def ablate_steps(
    segmenter: ParcelSegmenter,
    parcel_maps: ArrayLike,
    masks: ArrayLike,
    *,
    scores: ArrayLike | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """Measure a fitted segmenter with one step changed at a time.

    Args:
        segmenter: Fitted segmenter; it is not changed.
        parcel_maps: (N, H, W) integer ids, of patients whose labels were not used in the fit.
        masks: (N, H, W) bool, manual masks.
        scores: (N, K, h, w) soft scores of the parcels, for soft segments.
        changes: Name to the parameters that are changed. None switches each step of :data:`STEPS` on or off (soft
            segments only if ``scores`` are given).

    Returns:
        One row per step (index ``step``): ``change`` (the parameters in words), ``dice`` with the change (mean
        over frames in which it is defined, from 0 to 1), and ``gain``, the difference to the first row, ``as it
        is``, which changes nothing.

    Raises:
        ParameterError: A parameter is unknown, or an array is not as described.
    """
    trials: dict[str, Mapping[str, Any]] = {"as it is": {}}
    trials |= _switches(segmenter, scores) if changes is None else dict(changes)
    known = segmenter.get_params()
    rows = []
    for name, change in trials.items():
        unknown = [key for key in change if key not in known]
        if unknown:
            raise ParameterError(f"{name}: the segmenter has no parameter {unknown[0]!r}")
        trial = clone(segmenter).set_params(**change)
        trial.selector_ = segmenter.selector_
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AlanWarning)
            found = dice(trial.predict(parcel_maps, scores), np.asarray(masks))
        words = ", ".join(f"{key}={value}" for key, value in change.items())
        rows.append({"step": name, "change": words, "dice": float(np.nanmean(found))})
    table = pd.DataFrame(rows).set_index("step")
    table["gain"] = table["dice"] - table["dice"].iloc[0]
    return table


def _switches(segmenter: ParcelSegmenter, scores: ArrayLike | None) -> dict[str, Mapping[str, Any]]:
    known = segmenter.get_params()
    out: dict[str, Mapping[str, Any]] = {}
    for name, (parameter, off, on) in STEPS.items():
        if name != "soft" or scores is not None:
            is_on = bool(known[parameter])
            out[f"{name} {'off' if is_on else 'on'}"] = {parameter: off if is_on else on}
    return out
