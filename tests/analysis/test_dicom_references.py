"""DICOM objects refer to the instance that a loop comes from, by its UIDs or by pseudonyms of them."""

import shutil
import subprocess
from dataclasses import replace

import pytest

from alan.analysis import Measure, PatientResult, Source, ViewEvidence, export_loop, find_sources
from alan.analysis.dicom_report import write_patient_measurements
from alan.data.pseudonyms import SECRET, uid_key

from .made import MadeLoop, made_labels, made_patient, made_result
from .screens import FAN, dicom, screen

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")
srread = pytest.importorskip("highdicom.sr").srread

CLASS = "1.2.840.10008.5.1.4.1.1.3.1"
STUDY, SERIES = "1.2.826.0.1.77.1", "1.2.826.0.1.77.2"
PATIENT = {"PatientID": "MRN0815", "PatientName": "Müller^Jane^山田", "PatientBirthDate": "19550102"}


def made_source(folder, number, **elements):
    """A DICOM file of one study and series."""
    uids = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPInstanceUID": f"1.2.826.0.1.77.3.{number}"}
    uids["SOPClassUID"] = CLASS
    path = folder / f"{number}.dcm"
    dicom(path, screen(FAN)[:2], **{**uids, **PATIENT, "SpecificCharacterSet": "ISO_IR 192", **elements})
    return Source(path, "p1", f"loop{number}")


def exported(folder, source, *, keep):
    """Segmentation and report of a loop."""
    loop = MadeLoop(name=source.name)
    references = source.references(keep=keep)
    result = made_result(loop, name=source.name)
    export_loop(folder, loop, made_labels(), result, ["dicom"], references=references)
    return objects_of(folder, source.name)


def objects_of(folder, name):
    """Segmentation and report of a loop whose files were written."""
    return [pydicom.dcmread(folder / "loops" / name / f"{n}.dcm") for n in ("segmentation", "measurements")]


def referenced(segmentation, report):
    """Study, series and instance that each object refers to."""
    item = segmentation.ReferencedSeriesSequence[0]
    yield segmentation.StudyInstanceUID, item.SeriesInstanceUID, item.ReferencedInstanceSequence[0]
    study = report.CurrentRequestedProcedureEvidenceSequence[0]
    item = study.ReferencedSeriesSequence[0]
    yield study.StudyInstanceUID, item.SeriesInstanceUID, item.ReferencedSOPSequence[0]
    frame = segmentation.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    yield segmentation.StudyInstanceUID, item.SeriesInstanceUID, frame


def test_references_can_keep_the_identifiers_of_the_file(tmp_path):
    source = made_source(tmp_path, 1, StudyDate="20240911")
    objects = exported(tmp_path, source, keep=True)
    for study, series, instance in referenced(*objects):
        assert (study, series) == (STUDY, SERIES)
        assert instance.ReferencedSOPInstanceUID == "1.2.826.0.1.77.3.1"
        assert instance.ReferencedSOPClassUID == CLASS
    for written in objects:
        assert written.SpecificCharacterSet == "ISO_IR 192"
        assert {name: str(written.get(name)) for name in PATIENT} == PATIENT
        assert written.StudyDate == "20240911"
        assert written.SeriesInstanceUID != SERIES


def test_pseudonymous_references_are_equal_within_a_study(tmp_path, monkeypatch):
    monkeypatch.setenv(SECRET, "secret of a test")
    loops = [exported(tmp_path, made_source(tmp_path, number), keep=False) for number in (1, 2)]
    found = [reference for objects in loops for reference in referenced(*objects)]
    assert {study for study, _, _ in found} == {uid_key(STUDY)}
    assert {series for _, series, _ in found} == {uid_key(SERIES)}
    instances = [instance.ReferencedSOPInstanceUID for *_, instance in found]
    assert instances == [uid_key("1.2.826.0.1.77.3.1")] * 3 + [uid_key("1.2.826.0.1.77.3.2")] * 3
    for number in (1, 2):
        for path in (tmp_path / "loops" / f"loop{number}").iterdir():
            content = path.read_bytes()
            assert not any(
                word in content
                for word in (b"1.2.826.0.1.77", b"MRN0815", b"ller^Jane", "山田".encode(), b"19550102")
            )
    monkeypatch.setenv(SECRET, "another secret")
    assert uid_key(STUDY) not in {study for study, _, _ in found}


@pytest.mark.parametrize("keep", [True, False])
def test_objects_of_a_split_loop_refer_to_each_of_its_files(tmp_path, keep):
    more = {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SERIES, "SOPClassUID": CLASS}
    loop = MadeLoop()
    for n in range(loop.n_frames):
        uid = f"1.2.826.0.1.77.3.{n}"
        dicom(tmp_path / f"{n}.dcm", screen(FAN)[:1], InstanceNumber=n, SOPInstanceUID=uid, **more)
    (source,), _ = find_sources([tmp_path])
    references = source.references(keep=keep)
    export_loop(tmp_path, loop, made_labels(), made_result(loop), ["dicom"], references=references)
    segmentation, report = objects_of(tmp_path, "loop1")
    uids = [f"1.2.826.0.1.77.3.{n}" for n in range(loop.n_frames)]
    uids = uids if keep else list(map(uid_key, uids))
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        time = frame.FrameContentSequence[0].TemporalPositionIndex
        assert reference.ReferencedSOPInstanceUID == uids[time - 1]
        assert "ReferencedFrameNumber" not in reference
    listed = segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert [item.ReferencedSOPInstanceUID for item in listed] == uids
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert sorted(item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence) == sorted(uids)


def test_pseudonyms_of_uids_are_valid():
    keys = {uid_key(f"1.2.3.{n}") for n in range(50)}
    assert len(keys) == 50
    assert all(pydicom.uid.UID(key).is_valid for key in keys)


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"])
def test_a_file_without_uids_is_treated_like_other_formats(tmp_path, missing):
    assert made_source(tmp_path, 1, **{missing: ""}).references(keep=True) is None
    (tmp_path / "a.avi").write_bytes(b"RIFF")
    assert Source(tmp_path / "a.avi", "p1", "loop1").references(keep=True) is None


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")
def test_a_class_that_is_no_uid_reaches_no_object(tmp_path):
    assert made_source(tmp_path, 1, SOPClassUID="DOE^JANE").references(keep=False) is None


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.5.1.4.1.1.6.1",
        "1.2.840.10008.5.1.4.1.1.7",
        "1.2.840.10008.5.1.4.1.1.6",  # retired
        "1.3.46.670589.2.5.1.9",  # private
        CLASS,
    ],
)
def test_a_still_of_any_class_gets_objects_that_refer_to_it_as_a_whole(tmp_path, sop_class):
    source = made_source(tmp_path, 1, SOPClassUID=sop_class)
    loop = MadeLoop(n_frames=1)
    result = made_result(loop, beats=())
    references = source.references(keep=True)
    export_loop(tmp_path, loop, made_labels(1), result, ["dicom"], references=references)
    objects = objects_of(tmp_path, "loop1")
    for study, series, instance in referenced(*objects):
        assert (study, series) == (STUDY, SERIES)
        assert instance.ReferencedSOPClassUID == sop_class
        assert "ReferencedFrameNumber" not in instance
    (group,) = srread(tmp_path / "loops" / "loop1" / "measurements.dcm").content.get_image_measurement_groups()
    assert {image.referenced_sop_class_uid for image in group.source_images} == {sop_class}
    paths = [tmp_path / "loops" / "loop1" / f"{name}.dcm" for name in ("measurements", "segmentation")]
    write_patient_measurements(tmp_path / "patient.dcm", made_patient(loops=("loop1",)), paths)
    (study,) = pydicom.dcmread(tmp_path / "patient.dcm").CurrentRequestedProcedureEvidenceSequence
    classes = {i.ReferencedSOPClassUID for s in study.ReferencedSeriesSequence for i in s.ReferencedSOPSequence}
    assert classes == {sop_class, *(one.SOPClassUID for one in objects)}
    assert objects[0].pixel_array.any()


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dicom3tools is not installed")
@pytest.mark.parametrize(
    ("name", "loop", "changes"),
    [
        ("whole", {}, {}),
        ("still", {"n_frames": 1}, {"beats": (), "flags": ()}),
        ("no size", {"pixel_mm": None, "pixel_aspect": 1.5}, {"flags": ()}),
    ],
)
@pytest.mark.parametrize("keep", [True, False, None])
def test_a_validator_finds_no_error(tmp_path, name, loop, changes, keep):
    """The check of each object against the standard by dciodvfy of dicom3tools."""
    references = None if keep is None else made_source(tmp_path, 1, StudyDate="20240911").references(keep=keep)
    made = MadeLoop(**loop)
    result = made_result(made, **changes)
    export_loop(tmp_path, made, made_labels(made.n_frames), result, ["dicom"], references=references)
    for path in (tmp_path / "loops" / "loop1").glob("*.dcm"):
        found = subprocess.run(["dciodvfy", path], capture_output=True, check=False, encoding="latin-1")
        assert found.returncode == 0, found.stderr
        assert "Error" not in found.stdout + found.stderr


def made_pair(folder, keep):
    """Report of a patient by two loops, and the objects of the loops."""
    loops = []
    for number, view in ((1, "A4C"), (2, "A2C")):
        source = made_source(folder, number, StudyDate="20240911")
        references = None if keep is None else source.references(keep=keep)
        loop = MadeLoop(name=source.name)
        result = made_result(loop, name=source.name, view=ViewEvidence(view, 0.9))
        export_loop(folder, loop, made_labels(), result, ["dicom"], references=references)
        loops += [folder / "loops" / source.name / f"{name}.dcm" for name in ("measurements", "segmentation")]
    patient = made_patient(method="biplane", loops=("loop1", "loop2"), esv_ml=Measure(40.0, 36.0, 46.0))
    write_patient_measurements(folder / "patient.dcm", patient, loops)
    return patient, [pydicom.dcmread(path) for path in loops]


@pytest.mark.parametrize("keep", [True, False, None])
def test_a_patient_has_a_report_of_biplane_measures_that_refers_to_both_loops(tmp_path, keep):
    patient, objects = made_pair(tmp_path, keep)
    report = srread(tmp_path / "patient.dcm")
    (group,) = report.content.get_image_measurement_groups()
    numbers = {item.name.value: item for item in group.get_measurements()}
    codes = {"ef_percent": "79991-6", "edv_ml": "79996-5", "esv_ml": "80001-1"}
    assert set(numbers) == set(codes.values())
    for name, code in codes.items():
        measure = getattr(patient, name)
        assert numbers[code].value == measure.value
        ends = [float(item.MeasuredValueSequence[0].NumericValue) for item in numbers[code][0].ContentSequence]
        assert sorted(ends) == sorted([measure.high - measure.value, measure.value - measure.low])
    images = {
        image.ReferencedSOPInstanceUID
        for loop in objects[::2]
        for image in loop.CurrentRequestedProcedureEvidenceSequence[0]
        .ReferencedSeriesSequence[0]
        .ReferencedSOPSequence
    }
    assert len(images) == 2
    assert {item.referenced_sop_instance_uid for item in group.source_images} == images
    listed = {
        item.ReferencedSOPInstanceUID
        for name in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(name, ())
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert listed == images | {str(one.SOPInstanceUID) for one in objects}
    assert report.StudyInstanceUID == objects[0].StudyInstanceUID
    assert report.PatientID == ("MRN0815" if keep else "p1")
    assert len({str(one.SOPInstanceUID) for one in (report, *objects)}) == 5
    if keep is not True:
        assert b"MRN0815" not in (tmp_path / "patient.dcm").read_bytes()
    if shutil.which("dciodvfy"):
        found = subprocess.run(
            ["dciodvfy", tmp_path / "patient.dcm"], capture_output=True, check=False, encoding="latin-1"
        )
        assert "Error" not in found.stdout + found.stderr


def test_the_report_of_a_patient_has_another_uid_if_it_changes_and_is_missing_without_a_measure(tmp_path):
    patient, _ = made_pair(tmp_path, keep=False)
    loops = [tmp_path / "loops" / "loop1" / "measurements.dcm"]
    found = set()
    for changed in (
        patient,
        patient,
        replace(patient, ef_percent=Measure(61.0)),
        replace(patient, method="single plane A4C"),
    ):
        write_patient_measurements(tmp_path / "patient.dcm", changed, loops)
        found.add(pydicom.dcmread(tmp_path / "patient.dcm").SOPInstanceUID)
    assert len(found) == 3
    write_patient_measurements(tmp_path / "none.dcm", PatientResult("p1", "", (), 1, 0), [])
    assert not (tmp_path / "none.dcm").exists()


def test_intervals_have_the_unit_of_their_measurement(tmp_path):
    export_loop(tmp_path, MadeLoop(), made_labels(), made_result(), ["dicom"])
    numbers = [
        item for item in objects_of(tmp_path, "loop1")[1].iterall() if item.keyword == "MeasuredValueSequence"
    ]
    units = [item.value[0].MeasurementUnitsCodeSequence[0].CodeValue for item in numbers]
    assert units == [*["%"] * 3, *["ml"] * 6, "{H.B.}/min"]


def uids(folder, result, labels, references=None):
    """UIDs of the segmentation and the report of a loop."""
    export_loop(folder, MadeLoop(), labels, result, ["dicom"], references=references)
    return tuple(written.SOPInstanceUID for written in objects_of(folder, "loop1"))


def test_objects_have_the_same_uids_if_and_only_if_their_content_is_the_same(tmp_path):
    labels = made_labels()
    first = uids(tmp_path, made_result(), labels)
    assert uids(tmp_path, made_result(), labels) == first
    others = [
        uids(tmp_path, made_result(), labels, made_source(tmp_path, 1).references(keep=True)),
        uids(tmp_path, made_result(), labels, made_source(tmp_path, 2).references(keep=True)),
        uids(tmp_path, made_result(patient="p2"), labels),
        uids(tmp_path, made_result(pixel_mm=(0.4, 0.4)), labels),
        uids(tmp_path, made_result(ef_percent=Measure(61.0)), labels),
        uids(tmp_path, made_result(), labels[::-1]),
    ]
    every = [uid for pair in [first, *others] for uid in pair]
    assert len(set(every)) == len(every)
