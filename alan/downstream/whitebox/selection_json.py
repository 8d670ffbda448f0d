"""A fitted selection as plain values, for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from alan.downstream.whitebox.choice import Thresholds
from alan.downstream.whitebox.opinion import ExpertOpinion, read_opinion
from alan.downstream.whitebox.prior import ParcelPrior, read_prior
from alan.downstream.whitebox.table import ROLES
from alan.errors import ParameterError, nearest

SCHEMA = "alan-parcel-selector/1"


def selection_to_dict(selector: Any, thresholds: Thresholds) -> dict[str, Any]:
    """Return a fitted selector as plain values.

    Args:
        selector: A fitted :class:`alan.downstream.ParcelSelector`.
        thresholds: The thresholds that it used.
    """
    held = {
        "prior": read_prior(selector.prior, selector.provenance),
        "opinion": read_opinion(selector.opinion, selector.provenance),
    }
    parameters: dict[str, Any] = selector.get_params() | thresholds._asdict()
    parameters |= {name: None if one is None else one.to_dict() for name, one in held.items()}
    rows = selector.table_.reset_index().rename(columns={"parcel": "id"}).to_dict("records")
    return {
        "schema": SCHEMA,
        "n_parcels": selector.n_parcels_,
        "images": selector.n_images_,
        **{role: [int(k) for k in getattr(selector, f"{role}_")] for role in ROLES},
        "cv_dice": None if np.isnan(selector.cv_dice_) else selector.cv_dice_,
        "provenance": selector.provenance_,
        "parameters": parameters,
        "parcels": [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in r.items()} for r in rows],
    }


def read_parameters(known: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a file, with prior and opinion built from their dictionaries.

    Args:
        known: Parameters that exist.
        values: Parameters of the file.

    Raises:
        ParameterError: A parameter does not exist.
    """
    for name in values:
        if name not in known:
            raise ParameterError(f"unknown parameter {name!r}: {nearest(name, known)}")
    parameters = dict(values)
    for name, kind in (("prior", ParcelPrior), ("opinion", ExpertOpinion)):
        if isinstance(parameters.get(name), dict):
            parameters[name] = kind.from_dict(parameters[name])
    return parameters
