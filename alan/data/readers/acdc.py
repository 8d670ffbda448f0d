"""ACDC: short-axis cine MR at ED and ES, slice by slice, with masks of RV, myocardium and LV."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from alan.arrays import ByteArray
from alan.bounds import Seed, bounded
from alan.data.io.base import MAX_PIXELS, SIDES, Spacing
from alan.data.io.medical import medical_layout, read_labels, read_medical
from alan.data.io.raw import PixelLayout
from alan.data.readers.base import EchoDataset
from alan.data.readers.tables import info_number, read_info, read_number, read_rows
from alan.data.sample import SLICE_MM, Record, Sample
from alan.data.splits import resolve_splits
from alan.data.structures import label_names
from alan.errors import DataError, ParameterError, nearest

_LABELS = {"rv": 1, "myo": 2, "lv": 3}
_VOLUME = re.compile(r"(?P<patient>patient\d+)_frame(?P<frame>\d+)\.nii(\.gz)?")
_SLICE = re.compile(r"(?P<patient>patient\d+)_frame(?P<frame>\d+)_slice_(?P<slice>\d+)\.h5")
_FOLDERS = {"training": "train", "testing": "test"}
#: Table of pixel sizes of HDF5 slices, and percentiles of robust grey values.
_TABLE, _ROBUST = "spacing.csv", (0.5, 99.5)
#: Largest pixel size or distance of slices in mm.
_THICKEST = 50.0


@dataclass(frozen=True)
class _Slice:
    """Location of a slice; ``position`` counts from 0 in a volume and is None for an HDF5 file of one slice."""

    image: Path
    label: Path | None
    position: int | None
    phase: str


@dataclass(frozen=True)
class _Volume:
    """Values and labels (slices, H, W) of a NIfTI volume, and the values that become 0 and 255."""

    path: Path
    array: NDArray[Any]
    limits: tuple[float, float]
    labels: ByteArray | None
    spacing: Spacing | None


@dataclass(frozen=True)
class _Size:
    """Sizes of the HDF5 slices of a patient in mm: (row, column) of a pixel, and the distance of the slices."""

    pixel: tuple[float, float]
    slice_mm: float | None


@bounded
class Acdc(EchoDataset):
    """ACDC, the Automated Cardiac Diagnosis Challenge: its NIfTI volumes, or the widespread HDF5 slices.

    **Format:** ``{training,testing}/patientNNN/patientNNN_frameMM[_gt].nii.gz`` with ``Info.cfg``; or
    ``patientNNN_frameMM_slice_K.h5`` with the arrays ``image`` (0 to 1) and ``label``. Volumes are read where both
    exist. Labels: 1 RV, 2 myocardium, 3 LV cavity.

    **Size:** 150 patients, 100 of them in training; 1,902 slices of those.

    **Licence:** CC BY-NC-SA 4.0.

    **Citation:** Bernard et al., "Deep learning techniques for automatic MRI cardiac multi-structures
    segmentation and diagnosis: is the problem solved?", IEEE Transactions on Medical Imaging 37(11), 2018.

    Each slice along z is a sample of one frame, ``patient001_frame01_slice_3`` (slices count from 1), without a
    view, because short-axis MR is not a view of echocardiography. In the NIfTI layout ED and ES are the frames
    that ``Info.cfg`` names, and its Group, Height and Weight become attributes; without it the phase is unknown.
    In the HDF5 layout frame 01 is ED, frame 02 is ES, and pixel sizes are those of a table ``spacing.csv`` in the
    folder or its parent (columns ``volume``, ``spacing_x``, ``spacing_y``, and perhaps ``spacing_z``, in mm), or
    unknown. The distance of the slices becomes the attribute ``slice_mm``, which volumes in ml need.

    Grey values of a volume are scaled linearly from its minimum and maximum to 0 and 255, or robustly, see
    ``grey``. The HDF5 files hold volumes that were stretched to 0 to 1 in the same way, so that both layouts look
    alike; those are multiplied by 255.

    Args:
        root: A folder of patients, ``database`` or its parent (with ``training`` and ``testing``); or the
            folder of the HDF5 slices or its parent.
        structures: Which of ``rv``, ``myo`` and ``lv`` (the cavity) to read; or new names to the labels that they
            join, such as ``{"lv_epi": ["lv", "myo"]}`` for the binary target of the U-Net paper. No label may
            be used twice.
        split: Mapping from split to patients or to a fraction of them, or a YAML or JSON file of that. Default:
            the folders ``training`` and ``testing`` if they exist, otherwise no split.
        seed: Seed of the draw if ``split`` gives fractions.
        grey: Grey values of a volume that become 0 and 255: its minimum and maximum (``range``), or its
            percentiles 0.5 and 99.5 (``robust``), beyond which values are clipped; a few bright pixels then darken
            nothing.

    Raises:
        ParameterError: A label that ACDC does not have or that is used twice; a malformed split.
        DataError: There is nothing to read.
        SplitLeakError: A patient in two splits.
    """

    name = "ACDC"

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        structures: Sequence[str] | Mapping[str, Sequence[str]] = tuple(_LABELS),
        split: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        seed: Seed = 0,
        grey: Literal["range", "robust"] = "range",
    ) -> None:
        contents = "training/patientNNN/patientNNN_frameMM.nii.gz or patientNNN_frameMM_slice_K.h5"
        super().__init__(root, contents)
        self._joined, self._grey = _joined(structures), grey
        self._limits: dict[tuple[str, str], tuple[float, float]] = {}  # for volumes of HDF5 slices
        self._last: _Volume | None = None
        self.structures = tuple(self._joined)
        table = next((path for base in (self.root, self.root.parent) if (path := base / _TABLE).is_file()), None)
        found, self._sizes = list(self._volumes()), {}
        if not found:
            self._sizes = {} if table is None else _read_sizes(table)
            found = list(self._slices())
        if not found:
            raise DataError(
                f"{self.root}: no ACDC slice found; {self.name} needs the folder that holds {contents}"
            )
        found.sort(key=lambda item: _natural(item[0].id))
        records = [record for record, _ in found]
        if split is not None:
            splits = resolve_splits([record.patient for record in records], split, seed)
            records = [Record(r.id, r.patient, splits[r.patient], attributes=r.attributes) for r in records]
        self._parts = [part for _, part in found]
        files = [[path for path in (part.image, part.label) if path is not None] for part in self._parts]
        infos = sorted({path.parent / "Info.cfg" for paths in files for path in paths})
        shared = [path for path in infos if path.is_file()]
        shared += [table] if table is not None and self._sizes else []
        options: dict[str, Any] = {"structures": list(self._joined.items())}
        if grey != "range":  # the default leaves older fingerprints unchanged
            options["grey"] = grey
        self._set_records(records, files, options, shared)

    def _volumes(self) -> Iterable[tuple[Record, _Slice]]:
        unreadable = []
        for folder in _patient_folders(self.root):
            info = read_info(folder / "Info.cfg")
            attributes = _attributes(info)
            phases = {info_number(info, name): name for name in ("ED", "ES") if name in info}
            split = _FOLDERS.get(folder.parent.name, "")
            for path in sorted(folder.iterdir()):
                match = _VOLUME.fullmatch(path.name)
                if match is None:
                    continue
                header = _header(path)
                if header is None:
                    unreadable.append(path.relative_to(self.root).as_posix())
                    continue
                label = path.with_name(path.name.replace(".nii", "_gt.nii"))
                known = attributes if header.slice_mm is None else {**attributes, SLICE_MM: header.slice_mm}
                for position in range(header.shape[0]):
                    identity = f"{path.name.partition('.')[0]}_slice_{position + 1}"
                    phase = phases.get(int(match["frame"]), "")
                    part = _Slice(path, label if label.is_file() else None, position, phase)
                    yield Record(identity, match["patient"], split, attributes=known), part
        self._skip("volumes that cannot be read", unreadable, "get the files again")

    def _slices(self) -> Iterable[tuple[Record, _Slice]]:
        for path in sorted([*self.root.glob("*.h5"), *self.root.glob("*/*.h5")]):
            match = _SLICE.fullmatch(path.name)
            if match is not None:
                phase = {1: "ED", 2: "ES"}.get(int(match["frame"]), "")
                size = self._sizes.get(match["patient"])
                attributes = {} if size is None or size.slice_mm is None else {SLICE_MM: size.slice_mm}
                yield Record(path.stem, match["patient"], attributes=attributes), _Slice(path, None, None, phase)

    def _load(self, index: int) -> Sample:
        part = self._parts[index]
        labels: ByteArray | None = None
        spacing = None
        if part.position is None:
            image, labels = _read_slice(part.image)
            size = self._sizes.get(self.records[index].patient)
            frame, spacing = _scale(image, *self._slice_limits(part)), None if size is None else size.pixel
        else:
            volume = self._last
            if volume is None or volume.path != part.image:  # the slices of a volume follow each other
                volume = self._last = _read_volume(part, self._grey)
            frame, spacing = _scale(volume.array[part.position], *volume.limits), volume.spacing
            labels = None if volume.labels is None else volume.labels[part.position]
        masks = {}
        if labels is not None:
            masks = {name: np.isin(labels, values)[None] for name, values in self._joined.items()}
        return Sample(
            self.records[index],
            frame[None],
            spacing,
            masks,
            np.zeros(0 if labels is None else 1, np.int64),
            ed=0 if part.phase == "ED" else None,
            es=0 if part.phase == "ES" else None,
            label_names=label_names(self.structures),
        )

    def _slice_limits(self, part: _Slice) -> tuple[float, float]:
        """Return the grey values of the slice's volume that become 0 and 255; a volume's slices are read once."""
        match = _SLICE.fullmatch(part.image.name)
        if self._grey == "range" or match is None:
            return 0.0, 1.0
        key = match["patient"], match["frame"]
        if key not in self._limits:
            names = f"{match['patient']}_frame{match['frame']}_slice_*.h5"
            images = [_read_slice(path)[0] for path in sorted(part.image.parent.glob(names))]
            self._limits[key] = _limits(images, self._grey, part.image)
        return self._limits[key]


def _joined(structures: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """Map each name to the values that it joins."""
    if isinstance(structures, str):
        structures = [structures]
    named = structures if isinstance(structures, Mapping) else {name: [name] for name in structures}
    parts = {name: [part] if isinstance(part, str) else list(part) for name, part in named.items()}
    if not parts or not all(parts.values()):
        raise ParameterError(f"no structure to read: choose from {', '.join(_LABELS)}")
    used: list[str] = []
    for part in (label for labels in parts.values() for label in labels):
        if part not in _LABELS:
            raise ParameterError(f"ACDC has no structure {part!r}: {nearest(str(part), _LABELS)}")
        if part in used:
            raise ParameterError(f"structure {part!r} is used twice; a pixel can belong to one structure only")
        used.append(part)
    return {name: [_LABELS[label] for label in labels] for name, labels in parts.items()}


def _patient_folders(root: Path) -> list[Path]:
    bases = [base / part for base in (root, root / "database") for part in ("", *_FOLDERS)]
    return sorted({path for base in bases for path in base.glob("patient*") if path.is_dir()})


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts slice 10 after slice 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _attributes(info: Mapping[str, str]) -> dict[str, float | int | str]:
    numbers = {name: info_number(info, name) for name in ("Height", "Weight")}
    words = {"Group": info["Group"]} if "Group" in info else {}
    return {**{name: value for name, value in numbers.items() if value is not None}, **words}


def _header(path: Path) -> PixelLayout | None:
    """Read the header of a volume; None if it cannot be read."""
    try:
        return medical_layout(path)
    except DataError:
        return None


def _read_volume(part: _Slice, grey: str) -> _Volume:
    """Read the volume of a slice, and its labels where it has some."""
    volume, labels = read_medical(part.image), None
    limits = _limits([volume.array], grey, part.image)
    if part.label is not None:
        labels = read_labels(part.label, max(_LABELS.values()))
        if labels.shape != volume.array.shape:
            raise DataError(
                f"{part.label} is {labels.shape} but {part.image} is {volume.array.shape}: "
                "check that image and mask belong together"
            )
    return _Volume(part.image, volume.array, limits, labels, volume.spacing)


def _limits(images: Sequence[NDArray[Any]], grey: str, path: Path) -> tuple[float, float]:
    """Return the grey values of a volume that become 0 and 255."""
    values = np.concatenate([image.ravel() for image in images]).astype(np.float64)
    low, high = np.percentile(values, _ROBUST if grey == "robust" else (0, 100))
    if not np.isfinite([low, high]).all():
        raise DataError(f"{path}: holds values that are not finite")
    return float(low), float(high)


def _scale(image: NDArray[Any], low: float, high: float) -> ByteArray:
    scaled = (image.astype(np.float64) - low) * (255 / max(high - low, 1e-12))
    bytes_: ByteArray = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return bytes_


def _read_sizes(path: Path) -> dict[str, _Size]:
    """Read the sizes of the pixels of each patient.

    Raises:
        DataError: A size is missing or not one of cardiac MR, or the volumes of a patient have different ones.
    """
    found: dict[str, _Size] = {}
    for row in read_rows(path, ["volume", "spacing_x", "spacing_y"], ["spacing_z"]):
        patient = row["volume"].partition("_")[0]
        names = ["spacing_y", "spacing_x", *(["spacing_z"] if row.get("spacing_z") else [])]
        given = [read_number(row, name, path, row["volume"]) for name in names]
        if any(size is None or not SIDES[0] <= size <= _THICKEST for size in given):
            raise DataError(
                f"{path}: {row['volume']}: spacings are {given}: give two or three numbers from {SIDES[0]:g} to "
                f"{_THICKEST:g}, in mm"
            )
        numbers = [float(size or 0) for size in given]
        size = _Size((numbers[0], numbers[1]), numbers[2] if len(numbers) > 2 else None)
        if found.setdefault(patient, size) != size:
            raise DataError(
                f"{path}: the volumes of {patient} have different pixel sizes: give the HDF5 layout one"
            )
    return found


def _read_slice(path: Path) -> tuple[NDArray[np.float64], ByteArray]:
    """Read image (H, W), 0 to 1, and label (H, W) of an HDF5 slice."""
    try:
        with h5py.File(path, "r") as file:
            if max(file[name].size for name in ("image", "label")) > MAX_PIXELS:
                raise ValueError(f"more than {MAX_PIXELS} pixels")
            image, label = (np.asarray(file[name], np.float64) for name in ("image", "label"))
    except (OSError, LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: no HDF5 slice with image and label ({' '.join(str(error).split())})") from error
    if image.ndim != 2 or image.shape != label.shape:
        raise DataError(f"{path}: image {image.shape} and label {label.shape} must be one slice of the same shape")
    if not ((image >= 0) & (image <= 1)).all():
        raise DataError(f"{path}: image must be 0 to 1, found {image.min():g} to {image.max():g}")
    if not np.isin(label, [0, *_LABELS.values()]).all():
        wrong = np.setdiff1d(label, [0, *_LABELS.values()])[0]
        raise DataError(f"{path}: labels must be 0 to {max(_LABELS.values())}, found {wrong:g}")
    return image, label.astype(np.uint8)
