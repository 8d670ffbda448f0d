"""Exported files of a loop, read back with common libraries."""

from dataclasses import replace

import av
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image, ImageColor

from alan.analysis import BeatResult, Flag, Measure, export_loop
from alan.analysis.exports import key_frames, median_beat
from alan.analysis.overlay import Painter, display_shape, outline
from alan.data.io.cine import read_cine
from alan.data.preprocessing import Preprocessing
from alan.data.structures import label_colour
from alan.errors import DataError

from .made import MadeLoop, made_labels, made_result

ALL = ("overlay", "png", "nifti", "dicom")


def expected(loop, labels):
    """Label maps in the pixels of the file."""
    screen = np.zeros((len(labels), *loop.screen_shape), np.uint8)
    screen[:, 10 : 10 + loop.shape[0], 20 : 20 + loop.shape[1]] = Preprocessing(112).restore(labels, loop.shape)
    return screen


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    loop, labels = MadeLoop(), made_labels()
    export_loop(folder, loop, labels, made_result(loop), ALL)
    return folder / "loops" / "loop1", loop, labels


def test_a_loop_is_exported_in_constant_memory(exported):
    out, loop, _ = exported
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    assert names == [
        "ed.png", "es.png", "labels.nii.gz", "masks/ed.png", "masks/es.png", "measurements.dcm", "overlay.mp4",
        "segmentation.dcm",
    ]  # fmt: skip
    assert loop.longest == 16


def test_video_has_every_frame_at_the_original_rate(exported):
    with av.open(str(exported[0] / "overlay.mp4")) as file:
        stream = file.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
        assert len(frames) == 20
        assert stream.average_rate == 25
    assert frames[0].shape == (360 + 88, 480, 3)
    cursors = [int(frame[380:, 54:].min(0).min(-1).argmax()) for frame in frames]
    assert cursors == sorted(cursors)
    assert len(set(cursors)) == 20


def test_video_of_a_variable_frame_rate_keeps_its_times(tmp_path):
    loop = MadeLoop()
    result = made_result(loop)
    times = np.cumsum(np.where(np.arange(20) % 2, 0.02, 0.06))
    times -= times[0]
    frames = tuple(replace(frame, time_s=time) for frame, time in zip(result.frames, times.tolist(), strict=True))
    export_loop(tmp_path, loop, made_labels(), replace(result, frames=frames), ("overlay",))
    with av.open(str(tmp_path / "loops" / "loop1" / "overlay.mp4")) as file:
        assert [frame.time for frame in file.decode(video=0)] == pytest.approx(times.tolist(), abs=1e-3)


def test_pictures_have_outlines_in_the_colours_of_the_structures(exported):
    out, _, labels = exported
    picture = np.asarray(Image.open(out / "ed.png"))
    painter = Painter((360, 480), 112)
    maps = painter.labels(labels[2:3])[0]
    edge = outline(maps, 2)
    for value in (1, 2):
        assert (picture[edge & (maps == value)] == ImageColor.getrgb(label_colour(value))).all()
    assert (picture[~edge] == 90).all()
    assert 500 < edge.sum() < 5000


def test_masks_are_label_maps_in_the_pixels_of_the_file(exported):
    out, loop, labels = exported
    for name, frame in (("ed", 2), ("es", 8)):
        with Image.open(out / "masks" / f"{name}.png") as image:
            assert image.mode == "P"
            assert image.info.keys() <= {"transparency"}
            np.testing.assert_array_equal(np.array(image), expected(loop, labels)[frame])
            assert tuple(image.getpalette()[3:6]) == ImageColor.getrgb(label_colour(1))


def test_nifti_is_read_by_nibabel_simpleitk_and_alan(exported):
    out, loop, labels = exported
    maps = expected(loop, labels)
    image = nibabel.load(out / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, 0].transpose(2, 1, 0), maps)
    np.testing.assert_allclose(image.header.get_zooms(), (0.5, 0.5, 1, 0.04), rtol=1e-6)
    np.testing.assert_allclose(image.affine, np.diag([-0.5, -0.5, 1, 1]))
    other = sitk.ReadImage(str(out / "labels.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(other)[:, 0], maps)
    assert other.GetDirection()[0] == 1
    assert other.GetDirection()[5] == 1
    cine = read_cine(out / "labels.nii.gz")
    assert cine.spacing == (0.5, 0.5)
    assert cine.fps == pytest.approx(25)


def test_nifti_is_the_same_from_run_to_run(exported, tmp_path):
    out, loop, labels = exported
    export_loop(tmp_path, loop, labels, made_result(loop), ["nifti"])
    again = tmp_path / "loops" / "loop1"
    assert [path.name for path in again.iterdir()] == ["labels.nii.gz"]
    assert (again / "labels.nii.gz").read_bytes() == (out / "labels.nii.gz").read_bytes()


def test_unknown_pixel_size_is_not_invented(tmp_path):
    hd = pytest.importorskip("highdicom")
    loop = MadeLoop(pixel_mm=None)
    export_loop(tmp_path, loop, made_labels(), made_result(loop, frame_rate_hz=None), ["nifti", "dicom"])
    out = tmp_path / "loops" / "loop1"
    assert nibabel.load(out / "labels.nii.gz").header.get_xyzt_units() == ("unknown", "unknown")
    segmentation = hd.seg.segread(out / "segmentation.dcm")
    assert "PixelMeasuresSequence" not in segmentation.SharedFunctionalGroupsSequence[0]
    assert segmentation.ContentDescription == "The pixel size is unknown."


def test_segmentation_is_read_by_highdicom(exported):
    hd = pytest.importorskip("highdicom")
    out, loop, labels = exported
    segmentation = hd.seg.segread(out / "segmentation.dcm")
    source = segmentation.SourceImageSequence[0].ReferencedSOPInstanceUID
    maps = segmentation.get_pixels_by_source_frame(source, list(range(1, 21)), combine_segments=True)
    np.testing.assert_array_equal(maps, expected(loop, labels))
    assert [segmentation.get_segment_description(n).segment_label for n in (1, 2)] == ["lv", "la"]
    measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == [0.5, 0.5]
    assert "SpacingBetweenSlices" not in measures
    assert not any("PlanePositionSequence" in item for item in segmentation.PerFrameFunctionalGroupsSequence)
    assert "FrameOfReferenceUID" not in segmentation


def test_segmentation_of_a_long_loop_holds_the_frames_of_its_beats(tmp_path, monkeypatch):
    hd = pytest.importorskip("highdicom")
    loop, labels = MadeLoop(), made_labels()
    monkeypatch.setattr("alan.analysis.exports._MOST_PIXELS", 5 * 120 * 160)
    export_loop(tmp_path, loop, labels, made_result(loop), ["dicom"])
    segmentation = hd.seg.segread(tmp_path / "loops" / "loop1" / "segmentation.dcm")
    source = segmentation.SourceImageSequence[0].ReferencedSOPInstanceUID
    frames = [2, 8, 14, 19]
    assert segmentation.NumberOfFrames == 2 * len(frames)
    maps = segmentation.get_pixels_by_source_frame(source, [n + 1 for n in frames], combine_segments=True)
    np.testing.assert_array_equal(maps, expected(loop, labels)[frames])


def test_report_is_read_by_highdicom(exported):
    hd = pytest.importorskip("highdicom")
    report = hd.sr.srread(exported[0] / "measurements.dcm")
    (group,) = report.content.get_image_measurement_groups()
    found = {item.name.meaning: item for item in group.get_measurements()}
    ef = found["Left ventricular ejection fraction single plane 4C (MOD)"]
    assert ef.value == 60
    assert ef.unit.value == "%"
    assert found["Left ventricular end diastolic volume single plane 4C (MOD)"].value == 100
    assert found["Left ventricular end systolic volume single plane 4C (MOD)"].value == 40
    assert found["Heart rate"].value == 125
    assert len(found) == 4
    ends = [float(item.MeasuredValueSequence[0].NumericValue) for item in ef[0].ContentSequence]
    assert ends == [5, 5]
    assert report.PatientID == "p1"
    assert report.StudyDate == ""
    assert report.PatientBirthDate == ""


def test_the_report_contains_the_doubts(tmp_path):
    hd = pytest.importorskip("highdicom")
    doubts = (Flag("irregular_beats", "2 of 3 beats differ"), Flag("low_frame_rate", "12 frames per second"))
    for name, flags in (("loop1", doubts), ("loop2", ())):
        result = made_result(name=name, flags=flags)
        export_loop(tmp_path, MadeLoop(name=name), made_labels(), result, ["dicom"])
        report = hd.sr.srread(tmp_path / "loops" / name / "measurements.dcm")
        (group,) = report.content.get_image_measurement_groups()
        found = [evaluation.value for evaluation in group.get_qualitative_evaluations()]
        assert [(code.value, code.meaning, code.scheme_designator) for code in found] == [
            (flag.code, flag.code.replace("_", " ").capitalize(), "99ALAN") for flag in flags
        ]


def test_report_and_segmentation_refer_to_one_loop(exported):
    pydicom = pytest.importorskip("pydicom")
    one, other = (pydicom.dcmread(exported[0] / f"{name}.dcm") for name in ("segmentation", "measurements"))
    assert one.StudyInstanceUID == other.StudyInstanceUID
    assert one.SOPInstanceUID != other.SOPInstanceUID
    evidence = other.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    referenced = evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert referenced == one.SourceImageSequence[0].ReferencedSOPInstanceUID


def test_a_loop_without_measurements_has_no_report(tmp_path):
    pytest.importorskip("highdicom")
    loop = MadeLoop()
    nothing = dict.fromkeys(("ef_percent", "edv_ml", "esv_ml", "heart_rate_bpm"), Measure())
    export_loop(tmp_path, loop, made_labels(), made_result(loop, beats=(), **nothing), ALL)
    names = {path.name for path in (tmp_path / "loops" / "loop1").rglob("*.*")}
    assert "measurements.dcm" not in names
    assert {"segmentation.dcm", "frame.png"} <= names
    assert not names & {"ed.png", "es.png"}


@pytest.mark.parametrize("lacking", [3, -3])
def test_a_loop_with_fewer_frames_than_declared_leaves_no_file(tmp_path, lacking):
    with pytest.raises(DataError, match=r"loop1: .* 20 frames"):
        export_loop(tmp_path, MadeLoop(lacking=lacking), made_labels(), made_result(), ["overlay", "nifti"])
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".mp4", ".gz", ".part")]


def test_the_beat_with_the_median_ejection_fraction_is_shown():
    def beat(ef, *, end=9, regular=True):
        return BeatResult(1, 5, end, regular, ef_percent=Measure(ef))

    beats = (beat(90.0, regular=False), beat(50.0), beat(56.0), beat(70.0), beat(20.0, end=None))
    assert median_beat(made_result(beats=beats)) is beats[2]
    assert median_beat(made_result(beats=beats[4:])) is beats[4]
    assert median_beat(made_result(beats=())) is None
    assert key_frames(made_result(beats=())) == {"frame": 19}


def test_display_shape_has_square_pixels_and_even_sides():
    assert display_shape((112, 112), 1.0) == (480, 480)
    assert display_shape((600, 800), 1.0) == (600, 800)
    assert display_shape((500, 300), 0.5) == (500, 600)
    assert display_shape((1201, 1601), 1.0) == (720, 960)


def test_outline_is_the_inner_edge():
    labels = np.zeros((9, 9), np.uint8)
    labels[2:7, 2:7] = 1
    inner = np.zeros((9, 9), bool)
    inner[2:7, 2:7] = True
    inner[3:6, 3:6] = False
    np.testing.assert_array_equal(outline(labels, 1), inner)
    inner[2:7, 2:7], inner[4, 4] = True, False
    np.testing.assert_array_equal(outline(labels, 2), inner)
