"""Manifest of a model for analyses: which parcels, white boxes and bank of views belong together."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from alan.analysis.results import Spread
from alan.errors import DataError, damaged, nearest
from alan.shipped import folders
from alan.words import plural

SCHEMA = "alan-model/1"
#: Ending of the name of a manifest.
SUFFIX = ".model.json"


@dataclass(frozen=True)
class Manifest:
    """Names of the files that make up a model.

    A manifest is a JSON file ``NAME.model.json``::

        {"schema": "alan-model/1", "parcels": "alan-sim-parcels", "size": 112,
         "views": {"A4C": {"lv": {"ED": "alan-sim-lv-ED", "ES": "alan-sim-lv-ES"}, "la": "my-la"}},
         "view_bank": "alan-sim-views", "others": ["alan-sim-plax", "alan-sim-psax"],
         "spread": {"ef_percent": [10.0, 0.0], "lv_mass_g": [0.0, 0.3, 0.5]}}

    Names are those of files beside the manifest, without suffix, or of shipped files; those of further models
    are names of manifests, or of folders of models beside this one.

    Attributes:
        folder: Folder of the manifest.
        parcels: Name of the parcel model.
        views: Mapping from view to structure to the names of its white boxes (end-diastole, end-systole).
        size: Side in pixels of the frames of the model.
        view_bank: Name of the bank of labelled frames by which views are recognised; None without one.
        spread: Mapping from measure to the error of the model below and above its value, in points or as a
            fraction of the value, which widens its interval, and the weight of the draws (1 if it is missing); see
            :func:`alan.analysis.calibrate_spread`.
        others: Names of further models, which measure views that this one does not; they name no others.
    """

    folder: Path
    parcels: str
    views: Mapping[str, Mapping[str, tuple[str, str]]]
    size: int = 112
    view_bank: str | None = None
    spread: Mapping[str, Spread] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str]) -> Self:
        """Read a manifest by its path or folder, or a shipped one by its name.

        Raises:
            DataError: The file is missing or damaged, or a folder does not hold one manifest.
        """
        path = Path(path_or_name)
        if path.is_dir():
            found = sorted(path.glob(f"*{SUFFIX}"))
            if len(found) != 1:
                held = plural(len(found), "manifest")
                raise DataError(f"{path}: holds {held} of a model (*{SUFFIX}): give the path of one")
            path = found[0]
        if not path.is_file():
            known = shipped_models()
            if os.fspath(path_or_name) not in known:
                hint = nearest(os.fspath(path_or_name), sorted(known))
                raise DataError(f"{path_or_name}: no such model; {hint}")
            path = known[os.fspath(path_or_name)]
        with damaged(DataError, f"{path} is not a manifest of a model", "see alan.analysis.Manifest"):
            value = json.loads(path.read_text(encoding="utf-8"))
            if value["schema"] != SCHEMA:
                raise ValueError(f"its schema is {value['schema']!r}, not {SCHEMA!r}")
            views = {
                str(view): {str(name): _pair(boxes) for name, boxes in structures.items()}
                for view, structures in value["views"].items()
            }
            if not views or not all(views.values()):
                raise ValueError("it names no white box")
            bank = value.get("view_bank")
            given = {str(name): [float(part) for part in parts] for name, parts in value.get("spread", {}).items()}
            if not all(math.isfinite(part) and part >= 0 for parts in given.values() for part in parts):
                raise ValueError(f"its spread is {given}, not of finite numbers from 0")
            if not all(len(parts) in (2, 3) and max(parts[2:], default=1) <= 1 for parts in given.values()):
                raise ValueError(f"its spread is {given}, not of two numbers and a weight up to 1")
            spread = {name: Spread(*parts) for name, parts in given.items()}
            others = tuple(str(name) for name in value.get("others", []))
            size = int(value.get("size", 112))
            return cls(path.parent, str(value["parcels"]), views, size, bank, spread, others)

    def load_others(self) -> dict[str, Manifest]:
        """Read the manifests of the further models, by their names.

        Raises:
            DataError: One is missing or damaged, or names others itself.
        """
        found = {}
        for name in self.others:
            beside = [path for path in (self.folder / f"{name}{SUFFIX}", self.folder / name) if path.exists()]
            found[name] = other = Manifest.load(beside[0] if beside else name)
            if other.others:
                raise DataError(
                    f"{name} names further models ({', '.join(other.others)}): name them in one manifest"
                )
        return found

    def all_views(self) -> list[str]:
        """List the views that this model and the others measure.

        Raises:
            DataError: A manifest of another model is missing or damaged, or two models measure the same view.
        """
        return list_views({"the model": self, **self.load_others()})

    def box_names(self) -> list[str]:
        """Return the names of all white boxes, each once."""
        return sorted(
            {name for structures in self.views.values() for pair in structures.values() for name in pair}
        )

    def find(self, name: str) -> str:
        """Return the path of a file beside the manifest, or the name itself, which is that of a shipped file."""
        for suffix in ("", ".safetensors", ".json", ".npz"):
            path = self.folder / f"{name}{suffix}"
            if path.is_file():
                return os.fspath(path)
        return name


class HasViews(Protocol):
    """Manifest of a model, or the loaded model."""

    @property
    def views(self) -> Mapping[str, Any]:
        """Mapping from the views that the model measures."""


def list_views(models: Mapping[str, HasViews]) -> list[str]:
    """List the views of several models, each of which is measured by one of them.

    Args:
        models: Mapping from the names of the models.

    Raises:
        DataError: Two models measure the same view.
    """
    first: dict[str, str] = {}
    for name, model in models.items():
        for view in model.views:
            if view in first:
                raise DataError(f"{first[view]} and {name} both measure {view}: leave the view to one of them")
            first[view] = name
    return list(first)


def shipped_models() -> dict[str, Path]:
    """Map the names of the shipped models to their manifests."""
    return {
        file.name.removesuffix(SUFFIX): file
        for folder in reversed(folders("checkpoints"))
        for file in folder.glob(f"*{SUFFIX}")
    }


def _pair(value: Any) -> tuple[str, str]:
    """Return the names at end-diastole and end-systole."""
    if isinstance(value, str):
        return value, value
    return str(value["ED"]), str(value["ES"])
