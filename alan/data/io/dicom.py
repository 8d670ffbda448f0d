"""DICOM cine loops to grey frames."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alan.data.io.base import Cine
from alan.data.pseudonyms import patient_key
from alan.data.sample import ByteArray
from alan.errors import DataError
from alan.extras import third_party

_CM, _TWO_D = 3, 1  # codes of PhysicalUnitsXDirection and RegionSpatialFormat (DICOM PS3.3, C.8.5.5)
# what pydicom's parser raises on damaged files; it has no root of its errors
_DAMAGE = (OSError, EOFError, RuntimeError, LookupError, TypeError, ValueError, struct.error)


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like DICOM: ``DICM`` after 128 bytes (PS3.10, 7.1)."""
    try:
        with Path(path).open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def read_dicom(path: str | os.PathLike[str]) -> Cine:
    """Decode a still or a cine loop.

    Colour is reduced to luma (ITU-R 601), palettes are applied, ``MONOCHROME1`` is inverted, and pixels of other
    than 8 bits are scaled by their range. The pixel size is that of the largest two-dimensional region in
    centimetres of SequenceOfUltrasoundRegions, else PixelSpacing; the frame rate comes from FrameTime,
    FrameTimeVector, CineRate or RecommendedDisplayFrameRate, the first that is there.

    Raises:
        ConfigError: pydicom is not installed.
        DataError: missing, no DICOM file, without pictures, of signed pixels, or of a coding that neither pydicom
            nor its plugins can decode.
    """
    pydicom = third_party("pydicom", "dicom")
    iter_pixels = third_party("pydicom.pixels.utils", "dicom").iter_pixels
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    try:
        dataset: Any = pydicom.dcmread(source)
        if "PixelData" not in dataset:
            raise DataError(f"{source}: a DICOM file without pictures ({dataset.get('Modality', 'no modality')})")
        frames = [_grey(frame, dataset) for frame in iter_pixels(dataset)]
        fps, spacing = _rate(dataset), _spacing(dataset)
    except (pydicom.errors.InvalidDicomError, *_DAMAGE) as error:
        raise DataError(f"{source}: cannot be decoded ({' '.join(str(error).split())[:200]})") from error
    except AttributeError as error:
        raise DataError(f"{source}: lacks an element of a picture ({error})") from error
    if not frames:
        raise DataError(f"{source}: holds no frame")
    return Cine(np.stack(frames), fps, spacing, patient=_patient(dataset))


def _patient(dataset: Any) -> str | None:
    """Pseudonym of the patient, by the PatientID, or else by name and date of birth."""
    name = str(dataset.get("PatientName") or "")
    return patient_key(dataset.get("PatientID"), name and f"{name} {dataset.get('PatientBirthDate')}") or None


def _grey(frame: NDArray[Any], dataset: Any) -> ByteArray:
    """One decoded frame (H, W) or (H, W, 3) to (H, W) uint8."""
    from pydicom.pixels.processing import apply_color_lut

    photometric = dataset.PhotometricInterpretation
    if dataset.get("PixelRepresentation", 0) != 0:
        raise DataError(f"{dataset.filename}: signed pixels; a picture of ultrasound has unsigned ones")
    bits = int(dataset.BitsStored)
    if photometric == "PALETTE COLOR":
        frame = apply_color_lut(frame, dataset)[..., :3]
        bits = 8 * frame.dtype.itemsize
    if bits != 8:
        frame = np.rint((frame & (2**bits - 1)) * (255 / (2**bits - 1)))  # overlays may lie in the bits above
    grey = frame.astype(np.uint8)
    if grey.ndim == 3:
        grey = np.asarray(Image.fromarray(grey).convert("L"))
    return 255 - grey if photometric == "MONOCHROME1" else grey


def _rate(dataset: Any) -> float | None:
    """Frames a second."""
    time, steps = dataset.get("FrameTime"), np.atleast_1d(dataset.get("FrameTimeVector") or ())  # one is no list
    if not time and len(steps) > 1:
        time = np.mean([float(step) for step in steps[1:]])
    if time and float(time) > 0:
        return 1000 / float(time)
    for name in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = dataset.get(name)
        if rate and float(rate) > 0:
            return float(rate)
    return None


def _spacing(dataset: Any) -> tuple[float, float] | None:
    """(row, column) in mm."""
    best, area = None, 0.0
    for region in dataset.get("SequenceOfUltrasoundRegions") or ():
        units = {region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")}
        row, column = (abs(float(region.get(f"PhysicalDelta{axis}") or 0)) * 10 for axis in "YX")
        width = region.get("RegionLocationMaxX1", 0) - region.get("RegionLocationMinX0", 0)
        height = region.get("RegionLocationMaxY1", 0) - region.get("RegionLocationMinY0", 0)
        plane = units == {_CM} and region.get("RegionSpatialFormat") == _TWO_D
        if plane and row > 0 and column > 0 and width * height >= area:
            best, area = (row, column), width * height
    if best is None and dataset.get("PixelSpacing"):
        best = (float(dataset.PixelSpacing[0]), float(dataset.PixelSpacing[1]))
    return best
