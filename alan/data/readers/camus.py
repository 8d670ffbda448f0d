"""CAMUS: A2C and A4C at ED and ES, half sequences, masks of LV, myocardium and left atrium."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alan.arrays import BoolArray, ByteArray
from alan.bounds import bounded
from alan.data.io.base import Spacing
from alan.data.io.medical import medical_files, read_grey, read_labels
from alan.data.readers.base import EchoDataset
from alan.data.readers.tables import info_number, read_info, read_text
from alan.data.sample import Record, Sample, View
from alan.data.splits import assign_splits, resolve_splits
from alan.data.structures import masks_from_labels
from alan.errors import DataError, ParameterError

#: Names of views in file names. Only simulated archives have parasternal views.
_CODES: Mapping[View, str] = {"A2C": "2CH", "A4C": "4CH", "PLAX": "PLAX", "PSAX": "PSAX"}
_FOLDER = "database_nifti"
_LISTS = {"train": "training", "val": "validation", "test": "testing"}
_NUMBERS = {"EF": "EF", "LVef": "EF", "LVedv": "EDV", "LVesv": "ESV", "FrameRate": "fps"}
_WORDS = ("Sex", "Age", "ImageQuality")
#: Suffixes of the two releases (the first also unpacked), and their names of a sequence.
_KINDS = ((".nii.gz", "half_sequence"), (".nii", "half_sequence"), (".mhd", "sequence"))


@dataclass(frozen=True)
class _Files:
    """The files of a patient in one view; None for missing ones."""

    stem: str
    images: Mapping[str, Path]  # "ED", "ES" or "sequence"
    stills: Mapping[str, Path]  # "ED" or "ES", also if there is a sequence
    labels: Mapping[str, Path]
    info: Path
    every: tuple[Path, ...]


@bounded
class Camus(EchoDataset):
    """CAMUS: the NIfTI release, the older MHD release, or any part of either.

    **Format:** ``database_nifti/patientNNNN/patientNNNN_{2CH,4CH}_{ED,ES,half_sequence}[_gt].nii.gz`` with
    ``Info_{2CH,4CH}.cfg`` and ``database_split/subgroup_*.txt``; the older release has
    ``{training,testing}/patientNNNN/patientNNNN_4CH_ED[_gt].mhd`` with ``.raw`` files. Labels: 1 LV, 2 myocardium,
    3 left atrium.

    **Size:** 500 patients in two views.

    **Licence:** CC BY-NC-SA 4.0.

    **Citation:** Leclerc et al., "Deep learning for segmentation using an open large-scale dataset in 2D
    echocardiography", IEEE Transactions on Medical Imaging 38(9), 2019.

    A sample is a patient in one view. With a half sequence its frames are the sequence, and the masks are those of
    the sequence if it is annotated, otherwise those of ED and ES; without one the frames are ED and ES, as far as
    they exist. The patients in the folder ``testing`` of the older release, whose numbers start again at 1, are
    named ``test-patientNNNN``.

    Args:
        root: Folder of the release, or ``database_nifti`` itself; of the older release, the folder that contains
            ``training`` and ``testing``.
        views: Views to read, A2C, A4C or both; archives simulated in this layout may have PLAX and PSAX too.
        sequences: Whether to read half sequences; otherwise only ED and ES stills are read.
        split: ``official`` for the lists of the release (older release: its folders), a mapping of split to
            patients such as ``{"train": "1-300", "test": "351-400, 7"}``, or the path of a YAML or JSON file of
            such a mapping. Patients that it does not name are in no split. Default: official if the lists
            exist, otherwise no split.

    Raises:
        ParameterError: An unknown view.
        DataError: There is nothing to read, or the split does not exist.
        SplitLeakError: A patient in two splits.
    """

    name = "CAMUS"
    structures = ("lv", "myo", "la")

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        views: Sequence[View] = ("A2C", "A4C"),
        sequences: bool = True,
        split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> None:
        contents = "database_nifti/patientNNNN or training/patientNNNN"
        super().__init__(root, contents)
        if not views:
            raise ParameterError(f"views is empty: choose from {', '.join(_CODES)}")
        folders = _patient_folders(self.root)
        if not folders:
            raise DataError(
                f"{self.root}: no patient folder found; {self.name} needs the folder that holds {contents}"
            )
        splits = _splits(self.root, folders, split)
        records: list[Record] = []
        self._parts: list[_Files] = []
        empty: list[str] = []
        for patient, folder in folders.items():
            every = [_find(folder, code, sequences) for code in _CODES.values()]
            if not any(files.images for files in every):
                empty.append(self._relative(folder))
            for view, files in zip(_CODES, every, strict=True):
                if view not in views:
                    continue
                if files.images:
                    info = read_info(files.info)
                    attributes = self._keep_possible(files.stem, files.info.name, _attributes(info))
                    if files.info.is_file() and not info:
                        self._note("Info files without a field", files.stem, "get the file again, or remove it")
                    records.append(
                        Record(f"{patient}_{_CODES[view]}", patient, splits[patient], view, attributes=attributes)
                    )
                    self._parts.append(files)
        self._skip("patient folders without an image", empty, "get the files of these patients again")
        options = {"views": sorted(views), "sequences": sequences}
        self._set_records(records, [files.every for files in self._parts], options)

    def _relative(self, path: Path) -> str:
        """Return the path below the release, so that its folder and ``database_nifti`` are the same archive."""
        inside = path.is_relative_to(self.root) and self.root.absolute().name == _FOLDER
        return f"{_FOLDER}/{super()._relative(path)}" if inside else super()._relative(path)

    def _load(self, index: int) -> Sample:
        files = self._parts[index]
        pictures = {name: read_grey(path) for name, path in files.images.items()}
        spacing = self._spacing(files, [picture.spacing for picture in pictures.values()])
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
        blank = [files.stem for labelled in maps if not labelled.any()]
        if blank:
            self._note("empty label maps", blank[0], f"{len(blank)} of {len(maps)}; export the labels again")
        masks: dict[str, BoolArray] = masks_from_labels(maps, self.structures) if len(maps) else {}
        return Sample(
            self.records[index], frames, spacing, masks, np.asarray(where, np.int64), phases["ED"], phases["ES"]
        )

    def _spacing(self, files: _Files, sizes: Sequence[Spacing | None]) -> Spacing | None:
        """Find the pixel size of all pictures of a sample; None if they differ."""
        first = sizes[0]
        for name, size in zip(files.images, sizes, strict=True):
            if first is not None and size is not None and not np.allclose(size, first, rtol=1e-3):
                reason = (
                    f"{name} states {size[0]:g} x {size[1]:g} mm, the first picture {first[0]:g} x {first[1]:g} mm"
                )
                self._note("pixel sizes that contradict each other", files.stem, f"{reason}; none is used")
                return None
        return first

    @staticmethod
    def _phase(files: _Files, phase: str, frames: ByteArray) -> int | None:
        """Find the frame of a phase in a sequence: by Info, otherwise by equality with the still of the phase."""
        info = read_info(files.info)
        if phase in info:
            value = info_number(info, phase) or 0
            if value % 1 or not 1 <= value <= len(frames):
                raise DataError(
                    f"{files.stem}: Info gives {phase}: {info[phase]!r}, but the sequence has frames 1 to "
                    f"{len(frames)}; correct Info, or remove its line"
                )
            return int(value) - 1
        if phase not in files.stills:
            return None
        picture = read_grey(files.stills[phase]).frames
        same = [index for index, frame in enumerate(frames) if np.array_equal(frame, picture[0])]
        return same[0] if same else None


def _place(
    files: _Files, labels: Mapping[str, ByteArray], phases: Mapping[str, int | None], length: int
) -> tuple[ByteArray, list[int]]:
    """Return label maps in temporal order with the frames to which they belong."""
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


def _patient_folders(root: Path) -> dict[str, Path]:
    """Map patients to folders, of the NIfTI release first, then of the older release."""
    for base in (root / _FOLDER, root):
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
    """Find the files of one view; a sequence is preferred to stills."""
    stem = f"{folder.name}_{code}"
    wanted = ("sequence", "ED", "ES") if sequences else ("ED", "ES")
    images, labels = ({key: _file(folder, stem, key, end) for key in wanted} for end in ("", "_gt"))
    there = {key: path for key, path in images.items() if path is not None}
    stills = {key: path for key, path in there.items() if key != "sequence"}
    masks = {key: path for key, path in labels.items() if path is not None}
    if "sequence" in there:
        there = {"sequence": there["sequence"]}
        masks = {"sequence": masks["sequence"]} if "sequence" in masks else masks
    else:
        masks = {key: path for key, path in masks.items() if key in there}
    info = folder / f"Info_{code}.cfg"
    pictures = (*there.values(), *stills.values(), *masks.values())
    every = [file for path in pictures for file in medical_files(path)]
    every += [info] if info.is_file() else []
    return _Files(stem, there, stills, masks, info, tuple(dict.fromkeys(every)))


def _file(folder: Path, stem: str, key: str, end: str) -> Path | None:
    names = (f"{stem}_{long if key == 'sequence' else key}{end}{suffix}" for suffix, long in _KINDS)
    every = (folder / variant for name in names for variant in (name, name.replace(".nii.gz", ".NII.GZ")))
    return next((path for path in every if path.is_file()), None)


def _attributes(info: Mapping[str, str]) -> dict[str, float | int | str]:
    attributes: dict[str, float | int | str] = {}
    for key, name in _NUMBERS.items():
        value = info_number(info, key)
        if value is not None and math.isfinite(value):
            attributes[name] = value
    attributes.update({key: info[key] for key in _WORDS if key in info})
    return attributes


def _splits(
    root: Path, folders: Mapping[str, Path], split: str | os.PathLike[str] | Mapping[str, Any] | None
) -> dict[str, str]:
    """Map patients to splits, ``""`` for none."""
    if split is not None and (isinstance(split, Mapping) or str(split) != "official"):
        return resolve_splits(folders, split)
    if not all(path.parent.name in ("training", "testing") for path in folders.values()):
        return _official(root, folders, required=split is not None)
    return {name: "test" if path.parent.name == "testing" else "train" for name, path in folders.items()}


def _official(root: Path, folders: Mapping[str, Path], *, required: bool) -> dict[str, str]:
    """Read the splits from ``database_split``, beside ``database_nifti``."""
    bases = [root, root.parent] if root.name == _FOLDER else [root]
    names: dict[str, list[str]] = {}
    for split, word in _LISTS.items():
        for path in (base / "database_split" / f"subgroup_{word}.txt" for base in bases):
            if split not in names and path.is_file():
                names[split] = read_text(path).split()
    here = {split: ids for split, ids in names.items() if set(ids) & set(folders)}
    if here:
        return assign_splits(folders, here)
    if required:
        raise DataError(
            f"{root}: database_split/subgroup_*.txt, the official split, does not name its patients; "
            "add the lists or give a mapping such as {'train': '1-300', 'test': '351-400'}"
        )
    return dict.fromkeys(folders, "")
