"""Decoding of DICOM stills and cine loops to grey frames."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

from alan.data.io.base import GET_AGAIN, MAX_BYTES, Cine, check_complete, log_notes, reading
from alan.data.io.dicom_header import attributes, cine_times, number, patient, regions, spacing_of
from alan.data.io.dicom_pixels import read_pixels
from alan.data.io.video import decode_stream
from alan.errors import DataError
from alan.extras import third_party

_DEFLATED = "1.2.840.10008.1.2.1.99"
_VIDEO = "1.2.840.10008.1.2.4.10"  # MPEG-2, MPEG-4 and HEVC have UIDs that begin so
#: Elements that a file without preamble and file meta information begins with, in group 0008.
_FIRST = (0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0016, 0x0018)
_VRS = (b"UL", b"OB", b"UI", b"CS", b"DA", b"SH")


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Check whether a file begins like DICOM, with or without the preamble of 128 bytes (PS3.10, 7.1)."""
    try:
        with Path(path).open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or _begins_at_once(start)


def _begins_at_once(start: bytes) -> bool:
    """Check whether the first bytes are those of an element of group 0002 or 0008."""
    if len(start) < 132:
        return False
    for order in "<>":
        group, element = struct.unpack(f"{order}HH", start[:4])
        if group == 0x0002 or (group == 0x0008 and element in _FIRST):
            if start[4:6] in _VRS:
                return True
            (length,) = struct.unpack(f"{order}I", start[4:8])
            if group == 0x0008 and length % 2 == 0 and 0 < length < 128:  # implicit VR
                return True
    return False


def read_dicom(path: str | os.PathLike[str]) -> Cine:
    """Decode a still or a cine loop.

    Grey values go through modality LUT and VOI window (:func:`alan.data.io.grey.to_grey`), ``MONOCHROME1`` is
    inverted; colour is reduced to luma (ITU-R 601), palettes are applied. Times come from FrameTimeVector,
    FrameTime, CineRate or RecommendedDisplayFrameRate. The pixel size is that of the two-dimensional regions of
    SequenceOfUltrasoundRegions where these agree, else PixelSpacing.

    Args:
        path: The file, with or without preamble.

    Raises:
        ConfigError: pydicom is not installed.
        DataError: The file is missing, damaged or not DICOM, holds no pictures or too few frames, or uses
            a compression that no installed decoder reads.
    """
    third_party("pydicom", "dicom")
    with reading(path, "DICOM file") as source:
        dataset = open_dicom(source)
        if "PixelData" not in dataset:
            raise DataError(f"{source}: a DICOM file without pictures ({dataset.get('Modality', 'no modality')})")
        stated = number(dataset, "NumberOfFrames")
        count = 1 if stated is None else int(stated)
        if count < 1:
            raise DataError(f"{source}: states {count} frames; {GET_AGAIN}")
        if dataset.file_meta.TransferSyntaxUID.startswith(_VIDEO):
            cine = decode_stream(_stream(dataset), source)
            frames, notes = cine.frames, cine.notes
        else:
            cine = None
            frames, notes = read_pixels(dataset, source, count)
        check_complete(source, "frames", count, len(frames))
        if len(frames) > count and stated is not None:
            warnings.warn(f"holds {len(frames)} frames, its header states {count}; all are read", stacklevel=1)
        times, fps, how = cine_times(dataset, len(frames))
        if fps is None and cine is not None:
            times, fps = cine.times, cine.fps
        parts = regions(dataset, frames.shape[1:])
        spacing, unlike = spacing_of(parts, dataset)
        notes = (*notes, *how, *unlike)
        found = Cine(frames, fps, spacing, times, parts, notes, attributes(dataset), patient(dataset))
    log_notes(path, notes)
    return found


class _Clipped(io.BufferedReader):
    """A file whose reads never allocate more than is left of it, whatever a damaged header asks for."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def open_dicom(path: Path) -> Any:
    """Parse a DICOM file; a file without file meta information gets a transfer syntax.

    Raises:
        DataError: The file is not DICOM, or inflates without bound.
    """
    import pydicom

    if not is_dicom(path):
        raise DataError(f"{path}: is no DICOM file; check what wrote it")
    _check_deflated(path)
    with _Clipped(path) as file:
        dataset: Any = pydicom.dcmread(file, force=True)
    meta = dataset.file_meta
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        uid = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        meta.TransferSyntaxUID = uid if little else pydicom.uid.ExplicitVRBigEndian
    return dataset


def _check_deflated(path: Path) -> None:
    """Refuse a deflated file that inflates to too many bytes, before pydicom inflates it."""
    with path.open("rb") as file:
        start = file.read(2**12)
        at = start.find(_DEFLATED.encode())
        if at < 0 or start[128:138] != b"DICM\x02\x00\x00\x00UL":
            return
        file.seek(144 + int.from_bytes(start[140:144], "little"))
        inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflate.eof and (data := inflate.unconsumed_tail or file.read(2**20)):
            total += len(inflate.decompress(data, 2**20))
            if total > MAX_BYTES:
                raise DataError(f"{path}: inflates to more than {MAX_BYTES} bytes; save it uncompressed")


def _stream(dataset: Any) -> bytes:
    """Join the fragments of an encapsulated video."""
    from pydicom.encaps import generate_fragments, parse_basic_offsets

    pixels = io.BytesIO(dataset.PixelData)
    parse_basic_offsets(pixels)
    return b"".join(generate_fragments(pixels))
