"""Decoding of DICOM stills and cine loops to grey frames."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alan.data.io.base import GET_AGAIN, MAX_BYTES, ClippedReader, Header, check_complete, first_bytes
from alan.data.io.dicom_header import (
    attribute_number,
    attributes,
    cine_times,
    patient,
    screen_regions,
    spacing_of,
    stated_aspect,
)
from alan.data.io.dicom_pixels import PixelFrames, pixel_bytes
from alan.data.io.frames import DecodedFrame, GreyMapping
from alan.data.io.grey import GreyRange
from alan.data.io.video import VideoFrames
from alan.errors import DataError
from alan.extras import third_party

_DEFLATED = "1.2.840.10008.1.2.1.99"
#: Size in bytes from which elements are read only when they are needed.
_DEFERRED = 2**20
_VIDEO = "1.2.840.10008.1.2.4.10"  # prefix of the UIDs of MPEG-2, MPEG-4 and HEVC
#: Elements that a file without preamble and file meta information begins with, in group 0008.
_FIRST = (0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0016, 0x0018)
_VRS = (b"UL", b"OB", b"UI", b"CS", b"DA", b"SH")


class NoPicturesError(DataError):
    """A DICOM file is whole, but its class has no pictures: a report, a presentation state, a document.

    Attributes:
        modality: Modality in its header.
    """

    def __init__(self, path: Path, modality: str) -> None:
        super().__init__(f"{path}: a DICOM file without pictures ({modality})")
        self.modality = modality


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Check whether a file begins like DICOM, with or without the preamble of 128 bytes (PS3.10, 7.1)."""
    start = first_bytes(path, 132)
    return start[128:] == b"DICM" or _begins_at_once(start)


def _is_image(dataset: Any) -> bool:
    """Return whether a file should hold pixels, by its elements and SOP class; True if it states no class.

    A private class, such as that of the raw data of a machine, has pixels only if the file states their size.
    """
    sop_class = str(dataset.get("SOPClassUID") or "")
    return "Rows" in dataset or not sop_class or "Image" in third_party("pydicom.uid", "dicom").UID(sop_class).name


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


class DicomFrames:
    """The frames of a DICOM file.

    Grey values go through modality LUT and VOI window (:func:`alan.data.io.grey.grey_mapping`), ``MONOCHROME1`` is
    inverted; colour is reduced to luma (ITU-R 601), palettes are applied. Times are those of
    :func:`alan.data.io.dicom_header.cine_times`. The pixel size is that of the two-dimensional regions of
    SequenceOfUltrasoundRegions where these agree, else PixelSpacing; without a size, PixelAspectRatio gives the
    shape of a pixel.

    Args:
        path: The file, with or without preamble.
        whole: Whether all frames must fit into memory at once.

    Attributes:
        dataset: The header, once the first frame is decoded.

    Raises:
        ConfigError: The package pydicom is not installed.
    """

    kind = "DICOM file"

    def __init__(self, path: Path, *, whole: bool = True) -> None:
        third_party("pydicom", "dicom")
        self.path, self._whole = path, whole
        self.dataset: Any = None
        self._frames: VideoFrames | PixelFrames | None = None

    def _open(self) -> VideoFrames | PixelFrames:
        path = self.path
        self.dataset = dataset = open_dicom(path)
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise DataError(f"{path}: holds pixels of floating point; export them as integers")
        if "PixelData" not in dataset:
            if not _is_image(dataset):
                raise NoPicturesError(path, str(dataset.get("Modality") or "no modality"))
            raise DataError(f"{path}: a DICOM file without pictures, perhaps cut off; {GET_AGAIN}")
        self._stated = attribute_number(dataset, "NumberOfFrames")
        self._count = 1 if self._stated is None else int(self._stated)
        if self._count < 1:
            raise DataError(f"{path}: states {self._count} frames; {GET_AGAIN}")
        _check_whole(dataset, path, self._count)
        if dataset.file_meta.TransferSyntaxUID.startswith(_VIDEO):
            return VideoFrames(path, _stream(dataset, path), whole=self._whole)
        return PixelFrames(dataset, path, self._count, whole=self._whole)

    def __iter__(self) -> Iterator[DecodedFrame]:
        """Decode the frames from the first on."""
        self._frames = self._frames or self._open()
        done = 0
        for frame in self._frames:
            done += 1
            yield frame
        check_complete(self.path, "frames", self._count, done)

    def header(self, count: int, found: GreyRange) -> tuple[Header, GreyMapping]:
        """Return the metadata of the file."""
        dataset, frames = self.dataset, self._frames
        if count > self._count and self._stated is not None:
            warnings.warn(
                f"holds {count} frames where its header states {self._count}; all are read", stacklevel=1
            )
        times, fps, how = cine_times(dataset, count)
        mapping: GreyMapping = None
        aspect = stated_aspect(dataset)
        if isinstance(frames, VideoFrames):
            video, _ = frames.header(count, found)
            notes, aspect = video.notes, aspect or video.aspect
            if fps is None:
                times, fps = video.times, video.fps
        else:
            assert frames is not None, "header() comes after the last frame"
            mapping, notes = frames.mapping(found)
        parts = screen_regions(dataset, (dataset.Rows, dataset.Columns))
        spacing, unlike = spacing_of(parts, dataset)
        notes = (*notes, *how, *unlike)
        return Header(fps, spacing, times, parts, notes, attributes(dataset), patient(dataset), aspect), mapping


def _check_whole(dataset: Any, path: Path, count: int) -> None:
    """Refuse several frames of an object that is spread over files (concatenation, PS3.3, C.7.6.16.2.2.4)."""
    number, total = (attribute_number(dataset, f"InConcatenation{name}") for name in ("Number", "TotalNumber"))
    if dataset.get("ConcatenationUID") and count > 1 and (total is None or total > 1):
        part = "a part" if number is None or total is None else f"part {number:.0f} of {total:.0f}"
        raise DataError(f"{path}: is {part} of a loop in several files (a concatenation); export it as one file")


def open_dicom(path: Path) -> Any:
    """Parse a DICOM file; a file without file meta information gets a transfer syntax.

    Raises:
        DataError: The file is not DICOM, or inflates without bound.
    """
    import pydicom
    from pydicom.filereader import read_partial

    if not is_dicom(path):
        raise DataError(f"{path}: is not a DICOM file; check the program that wrote it")
    _check_begin(path)
    with ClippedReader(path) as file:
        dataset: Any = read_partial(file, _is_filler, defer_size=_DEFERRED, force=True)
    if dataset.file_meta.get("TransferSyntaxUID") == _DEFLATED:
        with path.open("rb") as file:
            dataset = read_partial(file, _is_filler)  # positions in a deflated file are not byte offsets
    meta = dataset.file_meta
    if "TransferSyntaxUID" not in meta:
        implicit, little = dataset.original_encoding
        uid = pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
        meta.TransferSyntaxUID = uid if little else pydicom.uid.ExplicitVRBigEndian
    return dataset


def _is_filler(tag: Any, vr: str | None, length: int) -> bool:
    """Check for zeros in place of an element, each eight of which would be read as one."""
    return int(tag) == length == 0


def _check_begin(path: Path) -> None:
    """Refuse a deflated file that inflates to too many bytes, and zeros in place of the first element."""
    with path.open("rb") as file:
        start = file.read(2**12)
        with_length = start[128:138] == b"DICM\x02\x00\x00\x00UL"
        begin = 144 + int.from_bytes(start[140:144], "little") if with_length else 132
        file.seek(begin)
        if file.read(8) == bytes(8):
            raise DataError(f"{path}: holds zeros in place of its elements; {GET_AGAIN}")
        if not with_length or _DEFLATED.encode() not in start:
            return
        file.seek(begin)
        inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not inflate.eof and (data := inflate.unconsumed_tail or file.read(2**20)):
            total += len(inflate.decompress(data, 2**20))
            if total > MAX_BYTES:
                raise DataError(f"{path}: inflates to more than {MAX_BYTES} bytes; save it uncompressed")


def _stream(dataset: Any, path: Path) -> bytes:
    """Join the fragments of an encapsulated video."""
    from pydicom.encaps import generate_fragments, parse_basic_offsets

    with pixel_bytes(dataset, path) as (pixels, _):
        parse_basic_offsets(pixels)
        return b"".join(generate_fragments(pixels))
