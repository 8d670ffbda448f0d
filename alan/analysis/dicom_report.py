"""Measurements of a loop or a patient as DICOM Structured Report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alan._version import __version__
from alan.analysis.dicom import (
    HEART,
    MAKER,
    NAME,
    ULTRASOUND_LOOP,
    code,
    make_source,
    new_uid,
    save_object,
    with_uid,
)
from alan.analysis.measures import PARASTERNAL_MEASURES
from alan.analysis.results import (
    PARASTERNAL_METHOD,
    SIMULATED_ONLY,
    Flag,
    LoopResult,
    Measure,
    Measurements,
    PatientResult,
)
from alan.data.io.dicom_header import MAY_BE_EMPTY, DicomReferences
from alan.extras import third_party
from alan.files import fingerprint
from alan.runs import plain
from alan.words import capitalised

#: Coding scheme of the quality flags.
_OWN = "99ALAN"
#: Measures that no apical view has, and the note on them.
_PARASTERNAL_ONLY = {name for names in PARASTERNAL_MEASURES.values() for name in names} - {"area_change_percent"}
_SIMULATED_ONLY = capitalised(SIMULATED_ONLY)
#: Mapping from view, or ``biplane``, to measure to its LOINC code and meaning (DICOM PS3.16, context group 12300).
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
    "biplane": {
        "ef_percent": ("79991-6", "Left ventricular ejection fraction biplane (MOD)"),
        "edv_ml": ("79996-5", "Left ventricular end diastolic volume biplane (MOD)"),
        "esv_ml": ("80001-1", "Left ventricular end systolic volume biplane (MOD)"),
    },
}
#: Mapping from measure to the scheme, code and meaning of its name, and its unit.
_MEASURES = {
    "ef_percent": ("LN", "18043-0", "Left Ventricular Ejection Fraction by US", "%"),
    "edv_ml": ("LN", "18026-5", "Left Ventricular End Diastolic Volume", "ml"),
    "esv_ml": ("LN", "18148-7", "Left Ventricular End Systolic Volume", "ml"),
    "stroke_volume_ml": ("SCT", "90096001", "Stroke Volume", "ml"),
    "area_change_percent": ("SCT", "399287000", "Left Ventricular Fractional Area Change", "%"),
    "heart_rate_bpm": ("LN", "8867-4", "Heart rate", "{H.B.}/min"),
    "la_volume_ml": ("SCT", "399235004", "Left Atrium Systolic Volume", "ml"),
    "lv_mass_g": ("LN", "18087-7", "Left Ventricle Mass", "g"),
    "lvidd_cm": ("LN", "29436-3", "Left Ventricle Internal End Diastolic Dimension", "cm"),
    "lvids_cm": ("LN", "29438-9", "Left Ventricle Internal Systolic Dimension", "cm"),
    "fractional_shortening_percent": ("LN", "18051-3", "Left Ventricular Fractional Shortening", "%"),
    "ivsd_cm": ("LN", "18154-5", "Interventricular Septum Diastolic Thickness", "cm"),
    "lvpwd_cm": ("LN", "18152-9", "Left Ventricle Posterior Wall Diastolic Thickness", "cm"),
    "lv_mass_linear_g": ("LN", "80019-3", "Left ventricular mass (dimension method) 2D", "g"),
    "la_diameter_cm": ("LN", "29469-4", "Left Atrium Antero-posterior Systolic Dimension", "cm"),
    "wall_thickness_cm": ("DCM", "122445", "Wall Thickness", "cm"),
}


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
    if not _measured(result):
        return False
    source = make_source(result, digest, result.screen_shape, result.n_frames, references)
    files = references.frames if references else ()
    sources = [with_uid(source, "SOPInstanceUID", file) for file in files] or [source]
    plane = result.view.view if result.view else ""
    _write_report(path, result, result.loop, plane=plane, images=sources, digest=digest)
    return True


def write_patient_measurements(path: Path, patient: PatientResult, loops: Sequence[Path]) -> None:
    """Write the measurements of a patient, biplane ones too, as a DICOM Structured Report (TID 1500).

    The report has the study and series of the first loop. Its measurements refer to the images of all loops that
    contributed, and it lists their segmentations and reports as evidence.

    Args:
        path: The file.
        patient: The patient; without a measurement no file is written.
        loops: Files of the reports and segmentations of the loops that contributed, the report of a loop first.

    Raises:
        ConfigError: The package highdicom is not installed.
    """
    if not _measured(patient):
        return
    read = third_party("pydicom", "dicom").dcmread
    objects = [read(file, stop_before_pixels=True) for file in loops]
    images = [
        _instance(report, study, series, image)
        for report in objects
        for study in report.get("CurrentRequestedProcedureEvidenceSequence", ())
        for series in study.ReferencedSeriesSequence
        for image in series.ReferencedSOPSequence
    ]
    digest = fingerprint(plain([patient, [str(one.SOPInstanceUID) for one in objects]]))
    plane = patient.method.split()[-1]
    _write_report(path, patient, patient.patient, plane=plane, images=images, others=objects, digest=digest)


def _measured(result: Measurements) -> list[str]:
    return [name for name in _MEASURES if getattr(result, name).known]


def _instance(report: Any, study: Any, series: Any, image: Any) -> Any:
    """Build the header of an image that a report refers to."""
    source = third_party("pydicom", "dicom").Dataset()
    for name in ("PatientID", "PatientName", *MAY_BE_EMPTY):
        setattr(source, name, report.get(name, ""))
    source.StudyInstanceUID, source.SeriesInstanceUID = study.StudyInstanceUID, series.SeriesInstanceUID
    source.SOPClassUID, source.SOPInstanceUID = image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID
    return source


def _write_report(
    path: Path,
    result: LoopResult | PatientResult,
    tracked: str,
    *,
    plane: str,
    images: Sequence[Any],
    others: Sequence[Any] = (),
    digest: str,
) -> None:
    """Write the known measures of a loop or a patient as a Structured Report (TID 1500).

    Args:
        path: The file.
        result: The loop or the patient.
        tracked: Its name.
        plane: View, or ``biplane``.
        images: Images that were measured.
        others: Other objects that the report lists as evidence.
        digest: Text from which new UIDs are derived.
    """
    sr = third_party("highdicom.sr", "dicom")
    classes = {image.SOPInstanceUID: image.SOPClassUID for image in images}
    images = [with_uid(image, "SOPClassUID", ULTRASOUND_LOOP) for image in images]  # highdicom refuses old classes
    observer = sr.ObserverContext(
        code("DCM", "121007", "Device"),
        sr.DeviceObserverIdentifyingAttributes(new_uid("alan-echo", __version__), NAME, NAME, "alan-echo"),
    )
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(new_uid(digest, "tracking"), tracked),
        finding_sites=[sr.FindingSite(code("SCT", *HEART))],
        algorithm_id=sr.AlgorithmIdentification(NAME, __version__),
        measurements=[_measurement(name, getattr(result, name), plane) for name in _measured(result)],
        qualitative_evaluations=[*map(_doubt, result.flags), *_notes(result)] or None,
        source_images=[
            sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID) for image in images
        ],
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=code("SCT", "433236007", "Transthoracic echocardiography"),
        imaging_measurements=[group],
    )
    written = sr.ComprehensiveSR(
        evidence=[*images, *others],
        content=content,
        series_instance_uid=new_uid(digest, "measurement series"),
        series_number=2,
        sop_instance_uid=new_uid(digest, "measurements"),
        instance_number=1,
        is_complete=True,
        **MAKER,
    )

    def restore(dataset: Any, element: Any) -> None:
        if element.keyword == "ReferencedSOPClassUID":
            element.value = classes.get(dataset.ReferencedSOPInstanceUID, element.value)

    written.walk(restore)
    if result.flags or _notes(result):
        scheme = third_party("pydicom", "dicom").Dataset()
        scheme.CodingSchemeDesignator, scheme.CodingSchemeName = _OWN, "Quality flags of alan-echo"
        written.CodingSchemeIdentificationSequence = [scheme]
    save_object(written, path, "Measurements by ALAN")


def _measurement(name: str, measure: Measure, plane: str) -> Any:
    sr = third_party("highdicom.sr", "dicom")
    scheme, value, meaning, unit = _MEASURES[name]
    value, meaning = _PLANES.get(plane, {}).get(name, (value, meaning))
    ends = None
    if math.isfinite(measure.low) and math.isfinite(measure.high):
        ends = sr.MeasurementProperties(
            upper_measurement_uncertainty=_short(measure.high - measure.value),
            lower_measurement_uncertainty=_short(measure.value - measure.low),
        )
        for end in ends:  # highdicom states no unit
            end.MeasuredValueSequence[0].MeasurementUnitsCodeSequence = [code("UCUM", unit, unit)]
    return sr.Measurement(
        name=code(scheme, value, meaning),
        value=_short(measure.value),
        unit=code("UCUM", unit, unit),
        properties=ends,
    )


def _doubt(flag: Flag) -> Any:
    """Code a quality flag, so that an archive too shows which measurements are doubtful."""
    meaning = flag.code.replace("_", " ").capitalize()
    return third_party("highdicom.sr", "dicom").QualitativeEvaluation(
        name=code(_OWN, "doubt", "Doubt"), value=code(_OWN, flag.code[:16], meaning)
    )


def _notes(result: LoopResult | PatientResult) -> list[Any]:
    """Code the note on parasternal views where the report has measures of them."""
    if isinstance(result, LoopResult):
        noted = SIMULATED_ONLY in result.notes
    else:
        noted = result.method == PARASTERNAL_METHOD or not _PARASTERNAL_ONLY.isdisjoint(_measured(result))
    if not noted:
        return []
    evaluation = third_party("highdicom.sr", "dicom").QualitativeEvaluation
    return [evaluation(name=code(_OWN, "note", "Note"), value=code(_OWN, "simulated_only", _SIMULATED_ONLY))]


def _short(value: float) -> float:
    """Round to six significant digits, which fit into a decimal string of DICOM."""
    return float(f"{value:.6g}")
