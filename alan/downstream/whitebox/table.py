"""Table of a fitted selector: one row per parcel with its counts, its role and the reason for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from alan.arrays import BoolArray, FloatArray
from alan.downstream.whitebox.counting import Counts
from alan.downstream.whitebox.thresholds import shares
from alan.errors import ParameterError

_NUMBERS = ("consistency", "mean_overlap", "share")

#: Roles; if a parcel qualifies for several, the first one counts.
ROLES = ("interior", "valve", "exterior")
#: Columns of the table. The index is the id of the parcel.
COLUMNS = (
    "present",
    "inside",
    "outside",
    "valve",
    "presence",
    "consistency",
    "mean_overlap",
    "share",
    "role",
    "why",
)


def build_table(counts: Counts, roles: dict[str, BoolArray], why: list[str], share: FloatArray) -> pd.DataFrame:
    """Build the table.

    Args:
        counts: Counts over N labelled images.
        roles: (K,) flags by name of the role.
        why: K reasons.
        share: (K,) posterior mean of the share in the target.

    Returns:
        One row per parcel with the columns :data:`COLUMNS`: number of images in which the parcel is present,
        inside, outside, valve (int); presence = present / N, consistency = inside / present, mean_overlap (float
        in [0, 1]; NaN if the parcel is never present); share (float in [0, 1], see
        :mod:`alan.downstream.whitebox.posterior`); role (one of :data:`ROLES`, or empty); why.
    """
    present = counts.present.sum(0)
    consistency, presence = shares(counts.inside.sum(0), present, len(counts.target), "present")
    role = np.full(len(present), "", dtype=object)
    for name in reversed(ROLES):
        role[roles[name]] = name
    columns = {
        "present": present,
        "inside": counts.inside.sum(0),
        "outside": counts.outside.sum(0),
        "valve": counts.valve.sum(0),
        "presence": presence,
        "consistency": consistency,
        "mean_overlap": counts.mean_overlap,
        "share": share,
        "role": role,
        "why": why,
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(present), name="parcel"))


def read_table(rows: list[dict[str, Any]], n_parcels: int) -> pd.DataFrame:
    """Build the table from rows of a file.

    Args:
        rows: One dictionary per parcel, with its ``id`` and the columns.
        n_parcels: Number of parcels K.

    Raises:
        ParameterError: the ids are not 0 to K - 1.
        KeyError: a column is missing.
        ValueError: a value has another type.
    """
    table = pd.DataFrame(rows).set_index("id").rename_axis("parcel")
    if len(table) != n_parcels or sorted(table.index) != list(range(n_parcels)):
        raise ParameterError(f"parcels must have one row for each id from 0 to {n_parcels - 1}")
    return table[list(COLUMNS)].astype(
        {**dict.fromkeys(_NUMBERS, float), **dict.fromkeys(("role", "why"), object)}
    )


def assign_roles(table: pd.DataFrame, lists: Mapping[str, list[int]], background_id: int | None) -> None:
    """Set the roles in the table to lists of ids; where a role changes, the reason says so.

    Args:
        table: The table, changed in place.
        lists: Role to its ids.
        background_id: Id that is no parcel.

    Raises:
        ParameterError: an id is out of range or in two lists.
    """
    role_of: dict[int, str] = {}
    for role, ids in lists.items():
        for k in ids:
            if type(k) is not int or not 0 <= k < len(table) or k == background_id:
                raise ParameterError(f"{role} contains {k!r}: give ids of parcels, 0 to {len(table) - 1}")
            if k in role_of:
                raise ParameterError(f"parcel {k} is listed as {role_of[k]} and as {role}: keep one")
            role_of[k] = role
    for parcel in range(len(table)):
        old, new = str(table.loc[parcel, "role"]), role_of.get(parcel, "")
        if new != old:
            table.loc[parcel, ["role", "why"]] = [
                new,
                f"set by hand to {new or 'no role'} (was {old or 'no role'})",
            ]
