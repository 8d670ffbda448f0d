"""Label maps as DICOM Segmentation and measurements as DICOM Structured Report.

Both objects refer to the source instance of the loop, by its own UIDs or by pseudonyms of them. A loop in another
format gets UIDs that are hashes of the results. Unless the references of the file are kept, the header contains
the pseudonymous key of the patient and no dates, and nothing identifies the file.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alan._version import __version__
from alan.analysis.results import Flag, LoopResult, Measure
from alan.data.io.dicom_header import MAY_BE_EMPTY, DicomReferences
from alan.extras import third_party
from alan.files import atomic, fingerprint
from alan.runs import plain

_ULTRASOUND_LOOP = "1.2.840.10008.5.1.4.1.1.3.1"
_NAME = "ALAN"
_MAKER = {
    "manufacturer": _NAME,
    "manufacturer_model_name": "alan-echo",
    "software_versions": __version__,
    "device_serial_number": "none",
}
#: Structure to its SNOMED CT code and meaning (DICOM PS3.16, context groups 4 and 12305).
_STRUCTURES = {
    "lv": ("87878005", "Left ventricle"),
    "myo": ("49848007", "Left Ventricle Myocardium"),
    "la": ("82471001", "Left atrium"),
    "rv": ("53085002", "Right ventricle"),
    "ra": ("73829009", "Right atrium"),
    "ao": ("15825003", "Aorta"),
}
_HEART = ("80891009", "Heart")
#: Coding scheme of the quality flags.
_OWN = "99ALAN"
#: View to measure to its LOINC code and meaning (DICOM PS3.16, context group 12300).
_PLANES = {
    "A4C": {
        "ef_percent": ("79993-2", "Left ventricular ejection fraction single plane 4C (MOD)"),
        "edv_ml": ("79999-9", "Left ventricular end diastolic volume single plane 4C (MOD)"),
        "esv_ml": ("80004-5", "Left ventricular end systolic volume single plane 4C (MOD)"),
    },
    "A2C": {
        "ef_percent": ("79992-4", "Left ventricular ejection fraction single plane 2C (MOD)"),
        "edv_ml": ("79998-1", "Left ventricular end diastolic volume single plane 2C (MOD)"),
        "esv_ml": ("80003-7", "Left ventricular end systolic volume single plane 2C (MOD)"),
    },
}
#: Measure to the scheme, code and meaning of its name, and its unit.
_MEASURES = {
    "ef_percent": ("LN", "18043-0", "Left Ventricular Ejection Fraction by US", "%"),
    "edv_ml": ("LN", "18026-5", "Left Ventricular End Diastolic Volume", "ml"),
    "esv_ml": ("LN", "18148-7", "Left Ventricular End Systolic Volume", "ml"),
    "stroke_volume_ml": ("SCT", "90096001", "Stroke Volume", "ml"),
    "area_change_percent": ("SCT", "399287000", "Left Ventricular Fractional Area Change", "%"),
    "heart_rate_bpm": ("LN", "8867-4", "Heart rate", "{H.B.}/min"),
    "la_volume_ml": ("SCT", "399235004", "Left Atrium Systolic Volume", "ml"),
    "lv_mass_g": ("LN", "18087-7", "Left Ventricle Mass", "g"),
}


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
    source = _source(result, digest, labels.shape[1:], len(frames), references)
    patient = hd.CoordinateSystemNames.PATIENT
    shared, positions = third_party("pydicom", "dicom").Dataset(), []
    shared.PlaneOrientationSequence = hd.PlaneOrientationSequence(patient, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    shared.PixelMeasuresSequence = hd.PixelMeasuresSequence(result.pixel_shape, slice_thickness=1.0)
    for n in range(len(frames)):
        item = third_party("pydicom", "dicom").Dataset()  # highdicom distinguishes frames by their position alone
        item.PlanePositionSequence = hd.PlanePositionSequence(patient, (0.0, 0.0, float(-n)))
        positions.append(item)
    source.SharedFunctionalGroupsSequence, source.PerFrameFunctionalGroupsSequence = [shared], positions
    source.FrameOfReferenceUID = _uid(digest, "space")
    sop_class = source.SOPClassUID
    source.SOPClassUID = _ULTRASOUND_LOOP  # of a class of single frames, highdicom would expect a place in space
    algorithm = hd.AlgorithmIdentificationSequence(
        _NAME, _code("DCM", "123110", "Artificial Intelligence"), __version__
    )
    segments = [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=_code("SCT", "91723000", "Anatomical Structure"),
            segmented_property_type=_code("SCT", *_STRUCTURES.get(name, _HEART)),
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
        series_instance_uid=_uid(digest, "segmentation series"),
        series_number=1,
        sop_instance_uid=_uid(digest, "segmentation"),
        instance_number=1,
        omit_empty_frames=False,
        content_label="ALAN",
        content_description=None if result.pixel_mm else "The pixel size is unknown.",
        **_MAKER,
    )
    files = references.frames if references else ()
    _number_frames(written, frames, files, measured=result.pixel_mm is not None, single=result.n_frames == 1)
    for element in written.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = sop_class
    written.PatientOrientation = ""  # required of images without a position in space, and unknown
    if result.pixel_mm is None and result.pixel_aspect != 1:
        ratio = Fraction(result.pixel_aspect).limit_denominator(1000)
        written.PixelAspectRatio = [ratio.numerator, ratio.denominator]
    _save(written, path, "Outlines by ALAN")


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
            _with_uid(series.ReferencedInstanceSequence[0], "ReferencedSOPInstanceUID", files[frame])
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


def write_measurements(
    path: Path, result: LoopResult, digest: str, references: DicomReferences | None = None
) -> bool:
    """Write the measurements of a loop as a DICOM Structured Report (TID 1500).

    Args:
        path: The file.
        result: The loop.
        digest: Text from which new UIDs are derived.
        references: The source instance of the loop; None derives one from ``digest``.

    Returns:
        Whether a measurement is known and the file was written.

    Raises:
        ConfigError: The package highdicom is not installed.
    """
    measured = [name for name in _MEASURES if getattr(result, name).known]
    if not measured:
        return False
    sr = third_party("highdicom.sr", "dicom")
    source = _source(result, digest, result.screen_shape, result.n_frames, references)
    files = references.frames if references else ()
    sources = [_with_uid(source, "SOPInstanceUID", file) for file in files] or [source]
    observer = sr.ObserverContext(
        _code("DCM", "121007", "Device"),
        sr.DeviceObserverIdentifyingAttributes(_uid("alan-echo", __version__), _NAME, _NAME, "alan-echo"),
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(_uid(digest, "tracking"), result.loop),
        finding_sites=[sr.FindingSite(_code("SCT", *_HEART))],
        algorithm_id=sr.AlgorithmIdentification(_NAME, __version__),
        measurements=[_measurement(name, getattr(result, name), result) for name in measured],
        qualitative_evaluations=[_doubt(flag) for flag in result.flags] or None,
        source_images=[
            sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID) for source in sources
        ],
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_code("SCT", "433236007", "Transthoracic echocardiography"),
        imaging_measurements=[group],
    )
    written = sr.ComprehensiveSR(
        evidence=sources,
        content=content,
        series_instance_uid=_uid(digest, "measurement series"),
        series_number=2,
        sop_instance_uid=_uid(digest, "measurements"),
        instance_number=1,
        is_complete=True,
        **_MAKER,
    )
    if result.flags:
        scheme = third_party("pydicom", "dicom").Dataset()
        scheme.CodingSchemeDesignator, scheme.CodingSchemeName = _OWN, "Quality flags of alan-echo"
        written.CodingSchemeIdentificationSequence = [scheme]
    _save(written, path, "Measurements by ALAN")
    return True


def _save(written: Any, path: Path, description: str) -> None:
    """Write an object in UTF-8, because names of patients may have any letter."""
    written.SpecificCharacterSet, written.SeriesDescription = "ISO_IR 192", description
    with atomic(path) as temporary:
        written.save_as(temporary)


def _measurement(name: str, measure: Measure, result: LoopResult) -> Any:
    sr = third_party("highdicom.sr", "dicom")
    scheme, code, meaning, unit = _MEASURES[name]
    plane = _PLANES.get(result.view.view if result.view else "", {})
    if name in plane:
        code, meaning = plane[name]
    ends = None
    if math.isfinite(measure.low) and math.isfinite(measure.high):
        ends = sr.MeasurementProperties(
            upper_measurement_uncertainty=_short(measure.high - measure.value),
            lower_measurement_uncertainty=_short(measure.value - measure.low),
        )
        for end in ends:  # highdicom states no unit
            end.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [_code("UCUM", unit, unit)]
    return sr.Measurement(
        name=_code(scheme, code, meaning),
        value=_short(measure.value),
        unit=_code("UCUM", unit, unit),
        properties=ends,
    )


def _doubt(flag: Flag) -> Any:
    """Code a quality flag, so that a doubtful measurement is doubtful in an archive too."""
    meaning = flag.code.replace("_", " ").capitalize()
    return third_party("highdicom.sr", "dicom").QualitativeEvaluation(
        name=_code(_OWN, "doubt", "Doubt"), value=_code(_OWN, flag.code[:16], meaning)
    )


def _with_uid(item: Any, name: str, uid: str) -> Any:
    """Copy a dataset with another UID."""
    other = copy.deepcopy(item)
    setattr(other, name, uid)
    return other


def _short(value: float) -> float:
    """Round to six significant digits, which fit into a decimal string of DICOM."""
    return float(f"{value:.6g}")


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


def _uid(*entropy: str) -> str:
    uid: str = third_party("pydicom.uid", "dicom").generate_uid(entropy_srcs=list(entropy))
    return uid


def _code(scheme: str, value: str, meaning: str) -> Any:
    return third_party("highdicom.sr", "dicom").CodedConcept(value, scheme, meaning)


def _source(
    result: LoopResult, digest: str, shape: Sequence[int], n_frames: int, references: DicomReferences | None
) -> Any:
    """Build the header of a loop whose only identifiers are those of its references."""
    pydicom = third_party("pydicom", "dicom")
    source = pydicom.Dataset()
    study, series, loop = (_uid(digest, level) for level in ("study", "series", "loop"))
    instance = references or DicomReferences(study, series, loop, _ULTRASOUND_LOOP)
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
