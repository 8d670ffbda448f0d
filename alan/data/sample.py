"""One sample for every archive: a still or a cine loop, what is known about it, and its masks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alan.data.structures import STRUCTURES, label_value
from alan.errors import DataError

BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]

#: The views of the field, in the paper's order.
VIEWS = ("A2C", "A4C", "PLAX", "PSAX")
#: The sides of a split; an empty string means that the archive has no split.
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Record:
    """What is known of a sample before anything is decoded.

    Attributes:
        id: unique in the archive, e.g. ``patient0001_4CH``.
        patient: the patient's id; splits are made by it.
        split: ``train``, ``val``, ``test`` or ``""``.
        view: one of :data:`VIEWS` or ``""`` where it is not known.
        study: the study's id where a patient has several, else ``""``.
        attributes: numbers and words of the archive (``EF`` in percent, ``EDV`` and ``ESV`` in ml, ``fps``).
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
        record: identity, split and view.
        frames: (T, H, W) uint8, display orientation (rows run with depth); T is 1 for a still.
        spacing: (row, column) size of a pixel in mm, or None where the archive does not know it.
        masks: name of a structure to (M, H, W) bool, M annotated frames; empty where nothing is annotated.
        mask_frames: (M,) int64, the index into ``frames`` of each annotated frame, ascending.
        ed: index of the end-diastolic frame, or None.
        es: index of the end-systolic frame, or None.
        label_names: names that masks may have, in the order of their values in a label map.
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
                f"{where}: frames must be a non-empty uint8 array (T, H, W), "
                f"got {self.frames.dtype} {self.frames.shape}"
            )
        expected = (len(self.mask_frames), *self.frames.shape[1:])
        for name, mask in self.masks.items():
            label_value(name, self.label_names)
            if mask.shape != expected or mask.dtype != np.bool_:
                raise DataError(
                    f"{where}: mask {name!r} is {mask.dtype} {mask.shape}, "
                    f"the frames ask for bool {expected}: check that image and mask belong together"
                )

    def label_maps(self) -> ByteArray:
        """Masks as one label map a frame: (M, H, W) uint8, values as :func:`label_value`, 0 background."""
        maps = np.zeros((len(self.mask_frames), *self.frames.shape[1:]), np.uint8)
        for name, mask in self.masks.items():
            maps[mask] = label_value(name, self.label_names)
        return maps
