"""The file of a bank of views: arrays, settings and a check sum."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from alan.data.sample import VIEWS
from alan.errors import DataError
from alan.files import atomic, fingerprint, fingerprint_tensors

#: Class of pictures that show no standard view.
OTHER = "other"
#: Classes of a bank; the file stores their positions.
CLASSES = (*VIEWS, OTHER)
SCHEMA = "alan-view-bank/4"
#: Arrays that a bank may lack.
OPTIONAL = ("shift", "sides", "directions")
#: Key of the check sum in the file.
_SUM = "sha256"


def read_bank(path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Read a bank.

    Args:
        path: File written by :func:`write_bank`.

    Returns:
        The names of its backbone and of the weights (``backbone``, ``weights``), and the arguments of
        :class:`alan.analysis.ViewBank`.

    Raises:
        DataError: The file is missing or damaged, or has another schema.
    """
    try:
        with safe_open(path, "numpy") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if facts.get("schema") != SCHEMA:
            raise DataError(
                f"{path}: schema is {facts.get('schema')!r}, give a file of {SCHEMA!r}: build the bank again with "
                "`alan assemble`"
            )
        if facts.pop(_SUM) != _sum(facts, tensors):
            raise DataError(f"{path}: its content is not what was written: fetch it or build it again")
        known = {name: facts[name] for name in ("backbone", "weights")}
        bank: dict[str, Any] = {name: int(facts[name]) for name in ("n_neighbors", "most_frames")}
        bank |= {"sure_from": float(facts["sure_from"])}
        bank |= {"views": [CLASSES[number] for number in tensors["views"]], "thumbnails": tensors["thumbnails"]}
        bank |= {"pooled": tensors["pooled"].astype(np.float32)}
        bank |= {name: tensors.get(name) for name in ("labelled", *OPTIONAL)}
    except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"{path}: missing, or not a bank of views ({error}): give one, such as alan-sim-views"
        ) from error
    return known, bank


def write_bank(path: str | os.PathLike[str], known: Mapping[str, str], bank: Any) -> None:
    """Write a bank as safetensors, atomically; features are rounded to half precision.

    Args:
        path: File, ending in ``.safetensors``.
        known: ``backbone`` and ``weights``, see :func:`read_bank`.
        bank: The :class:`alan.analysis.ViewBank`.
    """
    settings = {name: str(getattr(bank, name)) for name in ("sure_from", "n_neighbors", "most_frames")}
    facts = {"schema": SCHEMA, **known, **settings}
    tensors: dict[str, NDArray[Any]] = {
        "pooled": bank.pooled.astype(np.float16),
        "thumbnails": np.ascontiguousarray(bank.thumbnails),
        "views": np.array([CLASSES.index(view) for view in bank.views], np.uint8),
    }
    tensors |= {name: array for name in OPTIONAL if (array := getattr(bank, name)) is not None}
    if bank.labelled.any():
        tensors["labelled"] = bank.labelled
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={**facts, _SUM: _sum(facts, tensors)})


def _sum(facts: Mapping[str, str], tensors: Mapping[str, NDArray[Any]]) -> str:
    """Compute the check sum of a bank."""
    content = fingerprint_tensors({name: torch.from_numpy(x) for name, x in tensors.items()})
    return fingerprint([dict(facts), content])
