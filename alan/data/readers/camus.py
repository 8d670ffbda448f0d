"""CAMUS: A2C and A4C at ED and ES, half sequences, masks of LV, myocardium and left atrium."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alan.data.io.medical import read_grey, read_labels
from alan.data.readers.base import EchoDataset
from alan.data.sample import BoolArray, ByteArray, Record, Sample
from alan.data.splits import assign_splits, resolve_splits
from alan.data.structures import masks_from_labels
from alan.errors import DataError, ParameterError, nearest

_CODES = {"A2C": "2CH", "A4C": "4CH"}
_LISTS = {"train": "training", "val": "validation", "test": "testing"}
_NUMBERS = {"EF": "EF", "LVef": "EF", "LVedv": "EDV", "LVesv": "ESV", "FrameRate": "fps"}
_WORDS = ("Sex", "Age", "ImageQuality")


@dataclass(frozen=True)
class _Files:
    """The files of a patient in one view; None for what is not there."""

    stem: str
    images: Mapping[str, Path]  # "ED", "ES" or "sequence"
    labels: Mapping[str, Path]
    info: Mapping[str, str]
    every: tuple[Path, ...]


class Camus(EchoDataset):
    """The official NIfTI release or the older MHD release, or whatever part of either is there.

    A sample is a patient in one view. With a half sequence its frames are the sequence, and the masks are those
    of the sequence where it is annotated, else of ED and ES; without one the frames are ED and ES, as far as
    they exist. The patients of the older release's ``testing`` folder, whose numbers start again at 1, are
    named ``test-patientNNNN``.

    Args:
        root: the folder of the release or ``database_nifti`` itself; for the older release the folder that
            holds ``training`` and ``testing``.
        views: which of A2C and A4C to read.
        sequences: read half sequences; otherwise ED and ES stills only.
        split: ``official`` for the release's lists (older release: its folders), a mapping of side to patients
            such as ``{"train": "1-300", "test": "351-400, 7"}``, or the path of a YAML or JSON file of such a
            mapping. Patients that it does not name are on no side. Default: official where the lists are, else
            no split.

    Raises:
        ParameterError: a view that CAMUS does not have.
        DataError: nothing to read, or the split asked for is not there.
        SplitLeakError: a patient on two sides.
    """

    name: ClassVar[str] = "CAMUS"
    structures = ("lv", "myo", "la")

    def __init__(
        self,
        root: str | os.PathLike[str],
        views: Sequence[str] = ("A2C", "A4C"),
        sequences: bool = True,
        split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> None:
        contents = "database_nifti/patientNNNN or training/patientNNNN"
        super().__init__(root, contents)
        if not views:
            raise ParameterError(f"no view to read: choose from {', '.join(_CODES)}")
        for view in views:
            if view not in _CODES:
                raise ParameterError(f"CAMUS has no view {view!r}: {nearest(view, _CODES)}")
        folders = _patient_folders(self.root)
        if not folders:
            raise DataError(
                f"{self.root}: no patient folder found; CAMUS asks for the folder that holds {contents}"
            )
        sides = _sides(self.root, folders, split)
        records: list[Record] = []
        self._parts: list[_Files] = []
        for patient, folder in folders.items():
            for view in (name for name in _CODES if name in views):
                files = _find(folder, _CODES[view], sequences)
                if files.images:
                    attributes = _attributes(files.info)
                    records.append(
                        Record(f"{patient}_{_CODES[view]}", patient, sides[patient], view, attributes=attributes)
                    )
                    self._parts.append(files)
        options = {"views": sorted(views), "sequences": sequences}
        self._set_records(records, [files.every for files in self._parts], options)

    def _load(self, index: int) -> Sample:
        files = self._parts[index]
        pictures = {name: read_grey(path) for name, path in files.images.items()}
        spacing = next(iter(pictures.values())).spacing
        labels = {name: read_labels(path, len(self.structures)) for name, path in files.labels.items()}
        shape = next(iter(pictures.values())).frames.shape[1:]
        for paths, arrays in ((files.images, {n: p.frames for n, p in pictures.items()}), (files.labels, labels)):
            for name, array in arrays.items():
                if name != "sequence" and len(array) != 1:
                    raise DataError(f"{paths[name]} holds {len(array)} frames; a still has one")
                if array.shape[1:] != shape:
                    first = next(iter(files.images.values()))
                    raise DataError(
                        f"{paths[name]} is {array.shape[1:]} pixels but {first} is {shape}: "
                        "check that image and mask belong together"
                    )
        if "sequence" in pictures:
            frames = pictures["sequence"].frames
            phases = {phase: self._phase(files, phase, frames) for phase in ("ED", "ES")}
        else:
            stills = [phase for phase in ("ED", "ES") if phase in pictures]
            frames = np.concatenate([pictures[phase].frames for phase in stills])
            phases = {phase: stills.index(phase) if phase in stills else None for phase in ("ED", "ES")}
        maps, where = _place(files, labels, phases, len(frames))
        masks: dict[str, BoolArray] = masks_from_labels(maps, self.structures) if len(maps) else {}
        return Sample(
            self.records[index], frames, spacing, masks, np.asarray(where, np.int64), phases["ED"], phases["ES"]
        )

    @staticmethod
    def _phase(files: _Files, phase: str, frames: ByteArray) -> int | None:
        """Frame of a phase in a sequence: from the Info file, else where the still of that phase reappears."""
        if phase in files.info:
            value = files.info[phase]
            if not value.isdecimal() or not 1 <= int(value) <= len(frames):
                raise DataError(
                    f"{files.stem}: Info says {phase}: {value!r}, the sequence has frames 1 to {len(frames)}"
                )
            return int(value) - 1
        still = files.images["sequence"].parent / f"{files.stem}_{phase}{_suffix(files.images['sequence'])}"
        if not still.is_file():
            return None
        picture = read_grey(still).frames
        same = [index for index, frame in enumerate(frames) if np.array_equal(frame, picture[0])]
        return same[0] if same else None


def _place(
    files: _Files, labels: Mapping[str, ByteArray], phases: Mapping[str, int | None], length: int
) -> tuple[ByteArray, list[int]]:
    """Label maps in order of time and the frames that they belong to."""
    if "sequence" in labels:
        if len(labels["sequence"]) != length:
            raise DataError(
                f"{files.labels['sequence']} has {len(labels['sequence'])} frames but "
                f"{files.images['sequence']} has {length}: check that image and mask belong together"
            )
        return labels["sequence"], list(range(length))
    placed = {frame: labels[phase][0] for phase, frame in phases.items() if phase in labels and frame is not None}
    where = sorted(placed)
    return np.stack([placed[frame] for frame in where]) if where else np.zeros((0, 0, 0), np.uint8), where


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.endswith(".nii.gz") else ".mhd"


def _patient_folders(root: Path) -> dict[str, Path]:
    """Patient to folder; NIfTI first, then the older release."""
    for base in (root / "database_nifti", root):
        found = sorted(path for path in base.glob("patient*") if path.is_dir())
        if found:
            return {path.name: path for path in found}
    return {
        prefix + path.name: path
        for prefix, part in (("", "training"), ("test-", "testing"))
        for path in sorted((root / part).glob("patient*"))
        if path.is_dir()
    }


def _find(folder: Path, code: str, sequences: bool) -> _Files:
    """Look for the files of one view; a sequence comes before stills."""
    stem = f"{folder.name}_{code}"
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for suffix, sequence in ((".nii.gz", "half_sequence"), (".mhd", "sequence")):
        for key, part in (("sequence", sequence), ("ED", "ED"), ("ES", "ES")):
            image, label = (folder / f"{stem}_{part}{end}{suffix}" for end in ("", "_gt"))
            if image.is_file() and (sequences or key != "sequence"):
                images[key] = image
                if label.is_file():
                    labels[key] = label
        if images:
            break
    if "sequence" in images:
        images = {"sequence": images["sequence"]}
        labels = {"sequence": labels["sequence"]} if "sequence" in labels else labels
    info = folder / f"Info_{code}.cfg"
    every = [*images.values(), *labels.values(), *([info] if info.is_file() else [])]
    return _Files(stem, images, labels, read_info(info), tuple(every))


def read_info(path: Path) -> dict[str, str]:
    """Lines of ``key: value``; empty where there is no such file."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _attributes(info: Mapping[str, str]) -> dict[str, float | int | str]:
    attributes: dict[str, float | int | str] = {}
    for key, name in _NUMBERS.items():
        if re.fullmatch(r"[-+]?\d+(\.\d*)?", info.get(key, "")):
            attributes[name] = float(info[key])
    attributes.update({key: info[key] for key in _WORDS if key in info})
    return attributes


def _sides(
    root: Path, folders: Mapping[str, Path], split: str | os.PathLike[str] | Mapping[str, Any] | None
) -> dict[str, str]:
    """Patient to side, ``""`` for none."""
    if split is not None and (isinstance(split, Mapping) or str(split) != "official"):
        return resolve_splits(folders, split)
    if not all(path.parent.name in ("training", "testing") for path in folders.values()):
        return _official(root, folders, required=split is not None)
    return {name: "test" if path.parent.name == "testing" else "train" for name, path in folders.items()}


def _official(root: Path, folders: Mapping[str, Path], *, required: bool) -> dict[str, str]:
    """Sides out of ``database_split``, which lies in the release's folder beside ``database_nifti``."""
    bases = [root, root.parent] if root.name == "database_nifti" else [root]
    names: dict[str, list[str]] = {}
    for side, word in _LISTS.items():
        for path in (base / "database_split" / f"subgroup_{word}.txt" for base in bases):
            if side not in names and path.is_file():
                names[side] = path.read_text(encoding="utf-8").split()
    here = {side: ids for side, ids in names.items() if set(ids) & set(folders)}
    if here:
        return assign_splits(folders, here)
    if required:
        raise DataError(
            f"{root}: database_split/subgroup_*.txt, the official split, does not name its patients; "
            "add the lists or give a mapping such as {'train': '1-300', 'test': '351-400'}"
        )
    return dict.fromkeys(folders, "")
