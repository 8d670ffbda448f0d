"""A sample of any archive: a still or a cine loop, its metadata, and its masks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from alan.arrays import BoolArray, ByteArray, IntArray
from alan.data.structures import STRUCTURES, label_value
from alan.errors import DataError

View = Literal["A2C", "A4C", "PLAX", "PSAX"]
#: Views of the heart, in the order of the paper.
VIEWS: tuple[View, ...] = get_args(View)
#: Views through the apex, of which volumes are measured, and parasternal ones, of which diameters and areas are.
APICAL: tuple[View, ...] = ("A4C", "A2C")
PARASTERNAL: tuple[View, ...] = ("PLAX", "PSAX")
#: Attribute of slices: the distance in mm from one slice of a volume to the next.
SLICE_MM = "slice_mm"
#: Names of splits; samples in no split have an empty string.
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Record:
    """Metadata of a sample, known before it is decoded.

    Attributes:
        id: Id of the sample, unique in the archive, such as ``patient0001_4CH``.
        patient: Id of the patient; splits are made by patient.
        split: ``train``, ``val``, ``test`` or ``""``.
        view: One of :data:`VIEWS`, or ``""`` if it is unknown.
        study: Id of the study if patients may have several, otherwise ``""``.
        attributes: Numbers and words of the archive (``EF`` in percent, ``EDV`` and ``ESV`` in ml, ``fps``).
    """

    id: str
    patient: str
    split: str = ""
    view: str = ""
    study: str = ""
    attributes: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A decoded sample.

    Attributes:
        record: Identity, split and view.
        frames: (T, H, W) uint8 in the orientation of a viewer (rows run with depth); T is 1 for a still.
        spacing: (row, column) size of a pixel in mm, or None if the archive does not state it.
        masks: Mapping from the name of a structure to (M, H, W) bool for M annotated frames; empty if nothing is
            annotated.
        mask_frames: (M,) int64, the index into ``frames`` of each annotated frame, ascending.
        ed: Index of the end-diastolic frame, or None.
        es: Index of the end-systolic frame, or None.
        label_names: Names that masks may have, in the order of their values in a label map.

    Raises:
        DataError: The frames are not a non-empty uint8 array (T, H, W), or a mask has an unknown name, another
            shape or another dtype.
    """

    record: Record
    frames: ByteArray
    spacing: tuple[float, float] | None = None
    masks: Mapping[str, BoolArray] = field(default_factory=dict)
    mask_frames: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    ed: int | None = None
    es: int | None = None
    label_names: tuple[str, ...] = STRUCTURES

    def __post_init__(self) -> None:
        where = self.record.id
        if self.frames.ndim != 3 or self.frames.dtype != np.uint8 or 0 in self.frames.shape:
            raise DataError(
                f"{where}: frames are {self.frames.dtype} {self.frames.shape}: give a non-empty uint8 array "
                "(T, H, W)"
            )
        expected = (len(self.mask_frames), *self.frames.shape[1:])
        for name, mask in self.masks.items():
            label_value(name, self.label_names)
            if mask.shape != expected or mask.dtype != np.bool_:
                raise DataError(
                    f"{where}: mask {name!r} is {mask.dtype} {mask.shape}, "
                    f"the frames need bool {expected}: check that image and mask belong together"
                )

    def label_maps(self) -> ByteArray:
        """Join the masks into label maps (M, H, W) uint8 with the values of :func:`label_value` and 0."""
        maps = np.zeros((len(self.mask_frames), *self.frames.shape[1:]), np.uint8)
        for name, mask in self.masks.items():
            maps[mask] = label_value(name, self.label_names)
        return maps
