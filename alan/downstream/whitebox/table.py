"""Table of a fitted selector: one row per parcel with its counts, its role and the reason for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from alan.arrays import BoolArray, FloatArray
from alan.downstream.whitebox.choice import Choice
from alan.downstream.whitebox.counting import Counts
from alan.downstream.whitebox.prior import EffectivePixels, Posterior
from alan.downstream.whitebox.rules import shares
from alan.errors import ParameterError

#: Columns of the evidence on the share: effective pixels of each source, inside and outside the target.
EVIDENCE = tuple(
    f"{source}_{place}" for source in ("prior", "expert", "labels") for place in ("inside", "outside")
)
_NUMBERS = ("consistency", "mean_overlap", "share", *EVIDENCE)

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
    *EVIDENCE,
    "share",
    "role",
    "why",
)


def build_table(
    counts: Counts, roles: dict[str, BoolArray], why: list[str], known: Posterior, possible: BoolArray
) -> pd.DataFrame:
    """Build the table.

    Args:
        counts: Counts over N labelled images.
        roles: (K,) flags by name of the role.
        why: K reasons.
        known: Posterior of the share of each parcel in the target.
        possible: (K,) bool, the parcel can have a share: it is known and is not the background.

    Returns:
        One row per parcel with the columns :data:`COLUMNS`: number of images in which the parcel is present,
        inside, outside, valve (int); presence = present / N, consistency = inside / present, mean_overlap (float
        in [0, 1]; NaN if the parcel is never present); the evidence on the share, :data:`EVIDENCE`, in effective
        pixels inside and outside the target (the posterior is a Beta distribution of their sums plus one half
        each, see :mod:`alan.downstream.whitebox.prior`); share (its mean in [0, 1]; 0 if the parcel is unknown
        or background); role (one of :data:`ROLES`, or empty); why.
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
        **evidence_columns(known),
        "share": np.where(possible, known.share, 0.0),
        "role": role,
        "why": why,
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(present), name="parcel"))


def evidence_columns(known: Posterior) -> dict[str, FloatArray]:
    """Return the columns :data:`EVIDENCE` of a posterior."""
    sources = (known.prior, known.expert, known.labels)
    return dict(zip(EVIDENCE, (pixels for source in sources for pixels in source), strict=True))


def read_evidence(table: pd.DataFrame) -> Posterior:
    """Read the posterior from a table, the inverse of :func:`evidence_columns`."""
    columns = table[list(EVIDENCE)].to_numpy(np.float64).T
    return Posterior(*(EffectivePixels(*columns[i : i + 2]) for i in (0, 2, 4)))


def revise_table(table: pd.DataFrame, choice: Choice, known: Posterior, possible: BoolArray) -> None:
    """Take another choice and its evidence into a table; the counts over images stay.

    Args:
        table: The table, changed in place.
        choice: The new choice. A parcel that it leaves out has no role any more.
        known: Posterior of the shares.
        possible: (K,) bool, the parcel can have a share.
    """
    for name, values in evidence_columns(known).items():
        table[name] = values
    table["share"] = np.where(possible, known.share, 0.0)
    others = np.where(table["role"] == ROLES[0], "", table["role"])
    table["role"] = np.where(choice.interior, ROLES[0], others)
    table["why"] = choice.why


def read_table(rows: list[dict[str, Any]], n_parcels: int) -> pd.DataFrame:
    """Build the table from rows of a file.

    Args:
        rows: One dictionary per parcel, with its ``id`` and the columns.
        n_parcels: Number of parcels K.

    Raises:
        ParameterError: The ids are not 0 to K - 1, or the evidence on a parcel is missing.
        KeyError: A column is missing.
        ValueError: A value has another type.
    """
    table = pd.DataFrame(rows).set_index("id").rename_axis("parcel")
    if len(table) != n_parcels or sorted(table.index) != list(range(n_parcels)):
        raise ParameterError(f"parcels must have one row for each id from 0 to {n_parcels - 1}")
    for name in EVIDENCE:
        if name not in table or table[name].isna().any():
            raise ParameterError(f"a parcel has no {name}: restore it, or fit the white box again")
    return table[list(COLUMNS)].astype(
        {**dict.fromkeys(_NUMBERS, float), **dict.fromkeys(("role", "why"), object)}
    )


def assign_roles(table: pd.DataFrame, lists: Mapping[str, list[int]], background_id: int | None) -> None:
    """Set the roles in the table to lists of ids; where a role changes, so does the reason.

    Args:
        table: The table, changed in place.
        lists: Mapping from role to its ids.
        background_id: Id that is not a parcel.

    Raises:
        ParameterError: An id is out of range or in two lists.
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
