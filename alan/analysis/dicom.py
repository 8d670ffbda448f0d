"""Label maps as DICOM Segmentation, and the parts that all DICOM objects of a loop have in common.

Segmentation and report of a loop refer to the source instance of the loop, by its own UIDs or by pseudonyms of
them. A loop in another format gets UIDs that are hashes of the results. Unless the references of the file are
kept, the header contains the pseudonymous key of the patient and no dates, and nothing identifies the file.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan._version import __version__
from alan.analysis.results import LoopResult
from alan.data.io.dicom_header import MAY_BE_EMPTY, DicomReferences
from alan.extras import third_party
from alan.files import atomic, fingerprint
from alan.runs import plain

ULTRASOUND_LOOP = "1.2.840.10008.5.1.4.1.1.3.1"
NAME = "ALAN"
MAKER = {
    "manufacturer": NAME,
    "manufacturer_model_name": "alan-echo",
    "software_versions": __version__,
    "device_serial_number": "none",
}
#: Mapping from structure to its SNOMED CT code and meaning (DICOM PS3.16, context groups 4 and 12305).
_STRUCTURES = {
    "lv": ("87878005", "Left ventricle"),
    "myo": ("49848007", "Left Ventricle Myocardium"),
    "la": ("82471001", "Left atrium"),
    "rv": ("53085002", "Right ventricle"),
    "ra": ("73829009", "Right atrium"),
    "ao": ("15825003", "Aorta"),
}
HEART = ("80891009", "Heart")


def write_segmentation(
    path: Path,
    result: LoopResult,
    labels: NDArray[np.uint8],
    frames: Sequence[int],
    digest: str,
    *,
    references: DicomReferences | None = None,
) -> None:
    """Write label maps as a binary DICOM Segmentation with one segment per structure.

    Each frame refers to its frame of the loop. Frames have a temporal position; their position in space is unknown
    in ultrasound.

    Args:
        path: The file.
        result: The loop; its structures are in the order of the labels.
        labels: (n, H, W) uint8 at the size of the screen.
        frames: Indices of these frames in the loop, ascending.
        digest: Text from which new UIDs are derived.
        references: The source instance of the loop; None derives one from ``digest``.

    Raises:
        ConfigError: The package highdicom is not installed.
    """
    hd, seg = third_party("highdicom", "dicom"), third_party("highdicom.seg", "dicom")
    source = make_source(result, digest, labels.shape[1:], len(frames), references)
    patient = hd.CoordinateSystemNames.PATIENT
    shared, positions = third_party("pydicom", "dicom").Dataset(), []
    shared.PlaneOrientationSequence = hd.PlaneOrientationSequence(patient, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    shared.PixelMeasuresSequence = hd.PixelMeasuresSequence(result.pixel_shape, slice_thickness=1.0)
    for n in range(len(frames)):
        item = third_party("pydicom", "dicom").Dataset()  # highdicom distinguishes frames by their position alone
        item.PlanePositionSequence = hd.PlanePositionSequence(patient, (0.0, 0.0, float(-n)))
        positions.append(item)
    source.SharedFunctionalGroupsSequence, source.PerFrameFunctionalGroupsSequence = [shared], positions
    source.FrameOfReferenceUID = new_uid(digest, "space")
    sop_class = source.SOPClassUID
    source.SOPClassUID = ULTRASOUND_LOOP  # for a class of single frames, highdicom expects a position in space
    algorithm = hd.AlgorithmIdentificationSequence(
        NAME, code("DCM", "123110", "Artificial Intelligence"), __version__
    )
    segments = [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=code("SCT", "91723000", "Anatomical Structure"),
            segmented_property_type=code("SCT", *_STRUCTURES.get(name, HEART)),
            algorithm_type=seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(result.structures, 1)
    ]
    written = seg.Segmentation(
        [source],
        labels,
        seg.SegmentationTypeValues.BINARY,
        segments,
        series_instance_uid=new_uid(digest, "segmentation series"),
        series_number=1,
        sop_instance_uid=new_uid(digest, "segmentation"),
        instance_number=1,
        omit_empty_frames=False,
        content_label="ALAN",
        content_description=None if result.pixel_mm else "The pixel size is unknown.",
        **MAKER,
    )
    files = references.frames if references else ()
    _number_frames(written, frames, files, measured=result.pixel_mm is not None, single=result.n_frames == 1)
    for element in written.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = sop_class
    written.PatientOrientation = ""  # required for images without a position in space, and unknown
    if result.pixel_mm is None and result.pixel_aspect != 1:
        ratio = Fraction(result.pixel_aspect).limit_denominator(1000)
        written.PixelAspectRatio = [ratio.numerator, ratio.denominator]
    save_object(written, path, "Outlines by ALAN")


def _number_frames(
    written: Any, frames: Sequence[int], files: Sequence[str], *, measured: bool, single: bool
) -> None:
    """Replace the positions in space, which were only needed to build the object, by positions in time.

    A source of a single frame is referred to as a whole, because its class may have no numbers of frames; so is
    each file of a loop that was split into files of one frame.
    """
    for item in written.PerFrameFunctionalGroupsSequence:
        content = item.FrameContentSequence[0]
        frame = frames[int(content.DimensionIndexValues[1]) - 1]
        content.TemporalPositionIndex = frame + 1
        reference = item.DerivationImageSequence[0].SourceImageSequence[0]
        reference.ReferencedFrameNumber = frame + 1
        if files:
            reference.ReferencedSOPInstanceUID = files[frame]
        if single or files:
            del reference.ReferencedFrameNumber
        del item.PlanePositionSequence
    series = written.ReferencedSeriesSequence[0]
    if files:
        series.ReferencedInstanceSequence = [
            with_uid(series.ReferencedInstanceSequence[0], "ReferencedSOPInstanceUID", files[frame])
            for frame in frames
        ]
    index = written.DimensionIndexSequence[1]
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00209128, 0x00209111
    index.DimensionDescriptionLabel = "Temporal Position Index"
    shared = written.SharedFunctionalGroupsSequence[0]
    del shared.PlaneOrientationSequence
    if measured:
        shared.PixelMeasuresSequence[0].pop("SpacingBetweenSlices", None)
    else:
        del shared.PixelMeasuresSequence
    for name in ("FrameOfReferenceUID", "PositionReferenceIndicator", "DimensionOrganizationType"):
        written.pop(name, None)


def save_object(written: Any, path: Path, description: str) -> None:
    """Write an object in UTF-8, because names of patients may contain any character."""
    written.SpecificCharacterSet, written.SeriesDescription = "ISO_IR 192", description
    with atomic(path) as temporary:
        written.save_as(temporary)


def with_uid(item: Any, name: str, uid: str) -> Any:
    """Copy a dataset with another UID."""
    other = copy.deepcopy(item)
    setattr(other, name, uid)
    return other


def content_digest(labels: NDArray[np.uint8], result: LoopResult, references: DicomReferences | None) -> str:
    """Compute a fingerprint of everything that the objects of a loop contain, from which their UIDs are derived.

    The same analysis of the same file gives the same UIDs; another file, patient, option or version gives others,
    because two objects with one UID must be equal.

    Args:
        labels: (T, size, size) uint8 label maps.
        result: The measurements.
        references: The source instance of the loop, or None.
    """
    outlines = hashlib.sha256(np.ascontiguousarray(labels).data).hexdigest()
    return fingerprint(plain([outlines, result, references]))


def new_uid(*entropy: str) -> str:
    """Derive a UID from texts."""
    uid: str = third_party("pydicom.uid", "dicom").generate_uid(entropy_srcs=list(entropy))
    return uid


def code(scheme: str, value: str, meaning: str) -> Any:
    """Build a code with its scheme and meaning."""
    return third_party("highdicom.sr", "dicom").CodedConcept(value, scheme, meaning)


def make_source(
    result: LoopResult, digest: str, shape: Sequence[int], n_frames: int, references: DicomReferences | None
) -> Any:
    """Build the header of a loop whose only identifiers are those of its references."""
    pydicom = third_party("pydicom", "dicom")
    source = pydicom.Dataset()
    study, series, loop = (new_uid(digest, level) for level in ("study", "series", "loop"))
    instance = references or DicomReferences(study, series, loop, ULTRASOUND_LOOP)
    source.StudyInstanceUID, source.SeriesInstanceUID = instance.study, instance.series
    source.SOPInstanceUID, source.SOPClassUID = instance.instance, instance.sop_class
    source.PatientID, source.PatientName = result.patient, f"{result.patient}^"
    stated = {name: value for name, value in instance.elements.items() if value}
    for name, value in {**dict.fromkeys(MAY_BE_EMPTY, ""), **stated}.items():
        setattr(source, name, value)
    source.Modality, source.Rows, source.Columns = "US", int(shape[0]), int(shape[1])
    source.NumberOfFrames, source.SamplesPerPixel, source.BitsAllocated = n_frames, 1, 8
    source.file_meta = pydicom.dataset.FileMetaDataset()
    source.file_meta.TransferSyntaxUID = third_party("pydicom.uid", "dicom").ExplicitVRLittleEndian
    return source
