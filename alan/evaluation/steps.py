"""What each post-processing step is worth: Dice with the step, without it, and the difference."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone

from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.errors import AlanWarning, ParameterError
from alan.evaluation.metrics import dice

#: A change of parameters for each step: what switches it off where it is on, and on where it is off.
STEPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "main component": ({"component": False}, {"component": True}),
    "enclaves": ({"enclaves": False}, {"enclaves": True}),
    "closing": ({"closing_radius": None}, {"closing_radius": 10}),
    "fill": ({"fill": False}, {"fill": True}),
    "active contour": ({"contour": False}, {"contour": True}),
    "median": ({"median_radius": None}, {"median_radius": 3}),
    "snap": ({"snap_width": None}, {"snap_width": 2}),
    "soft": ({"soft": None}, {"soft": "share"}),
}


def ablate_steps(
    segmenter: ParcelSegmenter,
    parcel_maps: ArrayLike,
    masks: ArrayLike,
    *,
    frames: ArrayLike | None = None,
    scores: ArrayLike | None = None,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """Change one step at a time of a fitted segmenter and measure.

    Args:
        segmenter: fitted; it is left as it is.
        parcel_maps: (N, H, W) integer ids, of patients that gave no label.
        masks: (N, H, W) bool, the truth.
        frames: (N, H, W) uint8, for the step that needs them.
        scores: (N, K, h, w), for the step that needs them.
        changes: name to the parameters that are changed; None: each step of :data:`STEPS` is switched (those
            without their input are left out).

    Returns:
        One row a step (index ``step``): ``change`` (the parameters in words), ``dice`` with the change (mean over
        frames, in 0..1, an empty mask counts 0), and ``gain``: what the change adds. The first row,
        ``as it is``, changes nothing.

    Raises:
        ParameterError: an unknown parameter, or an array that is not as described.
    """
    trials: dict[str, Mapping[str, Any]] = {"as it is": {}}
    trials |= _switches(segmenter, frames, scores) if changes is None else dict(changes)
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
            found = dice(trial.predict(parcel_maps, frames, scores), np.asarray(masks))
        words = ", ".join(f"{key}={value}" for key, value in change.items())
        rows.append({"step": name, "change": words, "dice": float(np.nanmean(found))})
    table = pd.DataFrame(rows).set_index("step")
    table["gain"] = table["dice"] - table["dice"].iloc[0]
    return table


def _switches(
    segmenter: ParcelSegmenter, frames: ArrayLike | None, scores: ArrayLike | None
) -> dict[str, Mapping[str, Any]]:
    lacking = {name for name, given in (("snap", frames), ("soft", scores)) if given is None}
    out: dict[str, Mapping[str, Any]] = {}
    for name, (off, on) in STEPS.items():
        if name not in lacking:
            is_on = bool(getattr(segmenter, next(iter(off))))
            out[f"{name} {'off' if is_on else 'on'}"] = off if is_on else on
    return out
