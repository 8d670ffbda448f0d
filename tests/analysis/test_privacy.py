"""No identifier reaches the folder of an analysis: not in names, tables, headers, pages, pictures or videos."""

import base64
import gzip
import io
import re
import zipfile

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from alan.analysis import LoopResult
from alan.analysis.loop_analysis import LoopSettings
from alan.analysis.run import analyze_files
from alan.analysis.tables import read_patients
from alan.analysis.worker import AnalysisSettings
from alan.data.simulator import simulate_sequence
from alan.errors import SkippedError
from alan.report import write_analysis_report

WORDS = (
    "DOE^JANE",
    "Jane_Doe",
    "jane doe",
    "MRN0815",
    "19550102",
    "1955-01-02",
    "20240911",
    "St. Elsewhere",
    "ward7",
)
UID = "1.2.826.0.1.77.4711"
#: Place of the sector on the screen, and frames of the loop.
TOP, LEFT, SIDE, N_FRAMES = 40, 60, 160, 24


def inside_words():
    """A name and a date inside the sector, over moving tissue."""
    text = Image.fromarray(np.zeros((240, 320), np.uint8))
    ImageDraw.Draw(text).text((TEXT_AT[1], TEXT_AT[0]), "DOE^JANE 1955", fill=255, font=ImageFont.load_default(12))
    return np.asarray(text)


TEXT_AT = (130, 100)
INSIDE = inside_words()


def screens():
    """A loop on the screen of a machine, with a name and a date around and inside the sector."""
    loop = simulate_sequence("A4C", 3, n_frames=N_FRAMES, size=SIDE, seed=3, acquisition={"margin_depth": 1.0})
    frames = np.zeros((N_FRAMES, 240, 320), np.uint8)
    frames[:, TOP : TOP + SIDE, LEFT : LEFT + SIDE] = loop.frames
    sector = np.zeros((240, 320), bool)
    sector[TOP : TOP + SIDE, LEFT : LEFT + SIDE] = (loop.frames > 0).any(0)
    text = Image.fromarray(np.zeros((240, 320), np.uint8))
    draw, font = ImageDraw.Draw(text), ImageFont.load_default(12)
    for place in ((4, 4), (190, 18), (4, 222), (230, 120)):
        draw.text(place, "DOE^JANE 02.01.1955", fill=255, font=font)
    burnt = np.asarray(text) * ~np.asarray(Image.fromarray(sector).resize((320, 240)))
    return np.maximum(np.maximum(frames, burnt), INSIDE), sector


def write_video(path, frames):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:], "yuvj420p"
        stream.options = {"qscale": "2"}
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray").reformat(format="yuvj420p")))
        file.mux(stream.encode())


def write_dicom(path, frames):
    pydicom = pytest.importorskip("pydicom")
    header = pydicom.Dataset()
    header.PatientName, header.PatientID, header.PatientBirthDate = "DOE^JANE", "MRN0815", "19550102"
    header.StudyDate, header.InstitutionName, header.AccessionNumber = "20240911", "St. Elsewhere", "ward7"
    header.StudyInstanceUID = header.SeriesInstanceUID = header.SOPInstanceUID = UID
    header.SOPClassUID, header.Modality = "1.2.840.10008.5.1.4.1.1.3.1", "US"
    header.NumberOfFrames, header.Rows, header.Columns = frames.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 8
    header.HighBit, header.PixelRepresentation, header.FrameTime = 7, 0, "40"
    header.PixelData = frames.tobytes()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    pytest.importorskip("highdicom")
    ward = tmp_path_factory.mktemp("in") / "ward7" / "Jane_Doe"
    ward.mkdir(parents=True)
    frames, sector = screens()
    write_video(ward / "DOE^JANE 1955-01-02.avi", frames)
    write_dicom(ward / "MRN0815_20240911.dcm", frames)
    (ward / "Jane_Doe_broken.avi").write_bytes((ward / "DOE^JANE 1955-01-02.avi").read_bytes()[:3000])
    (ward / "jane doe.txt").write_text("St. Elsewhere", encoding="utf-8")
    out = tmp_path_factory.mktemp("out") / "results"
    settings = AnalysisSettings(
        loop=LoopSettings(view="A4C", samples=0), spacing=(0.8, 0.8), outputs=("overlay", "png", "nifti", "dicom")
    )
    with pytest.raises(SkippedError):
        analyze_files(
            [ward.parent],
            out,
            settings,
            patient=r"(?P<patient>MRN\d+|Jane_Doe)",
            workers=1,
            finish=lambda found: write_analysis_report(found.folder),
        )
    return out, sector


def contents(path):
    """Bytes of a file as they are, and unpacked."""
    raw = path.read_bytes()
    yield raw
    if path.suffix == ".gz":
        yield gzip.decompress(raw)
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            yield b"".join(archive.read(name) for name in archive.namelist())
    for found in re.findall(rb"base64,([A-Za-z0-9+/=]+)", raw):
        yield base64.b64decode(found)


def test_every_kind_of_output_is_written(analysis):
    files = [path for path in analysis[0].rglob("*") if path.is_file()]
    suffixes = {path.suffix for path in files}
    assert suffixes >= {".csv", ".json", ".html", ".mp4", ".png", ".gz", ".dcm", ".npz", ".yaml"}
    assert len(list(analysis[0].glob("loops/*/result.json"))) == 2


def test_a_patient_has_a_dicom_report_if_something_was_measured(analysis):
    reports = {path.parent.name for path in analysis[0].glob("patients/*/measurements.dcm")}
    assert reports == {patient.patient for patient in read_patients(analysis[0]) if patient.method}
    assert reports


def test_no_file_contains_an_identifier_of_the_patient(analysis):
    out, _ = analysis
    forbidden = [word.lower().encode() for word in (*WORDS, UID)]
    for path in out.rglob("*"):
        where = path.relative_to(out).as_posix()
        assert not any(word.decode() in where.lower() for word in forbidden)
        for content in contents(path) if path.is_file() else ():
            found = [word for word in forbidden if word in content.lower()]
            assert not found, f"{where} contains {found}"


def grey_beyond(picture, allowed):
    """Lit grey pixels outside the sector; outlines are coloured and not counted."""
    spread = picture.max(-1).astype(int) - picture.min(-1)
    return (picture.max(-1) > 40) & (spread < 30) & ~allowed


def allowed_in(result, sector, shape):
    """Mask of the pixels that may be lit: the sector and a margin of 4 pixels."""
    top, left, height, width = result.box
    crop = Image.fromarray(sector[top : top + height, left : left + width])
    grown = np.asarray(crop.resize(shape[::-1])).astype(np.uint8)
    margin = 4 * shape[0] // height
    return np.asarray(Image.fromarray(grown * 255).filter(_grow(2 * margin + 1))) > 0


def letters_in(result, shape):
    """Masks of the letters inside the sector and of the pixels around them."""
    top, left, height, width = result.box
    box = slice(top, top + height), slice(left, left + width)
    letters = Image.fromarray(INSIDE[box]).resize(shape[::-1])
    return np.asarray(letters) > 128, np.asarray(letters.filter(_grow(9))) > 128


def ink(picture, letters, beside):
    """Brightness of the grey pixels under letters inside the sector, relative to their neighbours."""
    grey = picture.max(-1).astype(int) - picture.min(-1) < 30
    value = picture.mean(-1)
    return value[letters & grey].mean() - value[beside & ~letters & grey].mean()


def _grow(size):
    from PIL import ImageFilter

    return ImageFilter.MaxFilter(size)


def test_no_picture_contains_burnt_in_text(analysis):
    out, sector = analysis
    seen = 0
    for path in out.glob("loops/*/result.json"):
        result = LoopResult.from_json(path)
        # pictures of parcels are drawn on the same frames, and have numbers on them
        files = [file for file in sorted(path.parent.glob("*.png")) if "parcels" not in file.name]
        plain = [(np.asarray(Image.open(file)), 0) for file in files]
        with av.open(str(path.parent / "overlay.mp4")) as file:
            # coding makes a few pixels of the outlines grey; one pixel of burnt-in text would be seven here
            plain += [(frame.to_ndarray(format="rgb24")[:-88], 20) for frame in file.decode(video=0)]
        shapes = {picture.shape[:2] for picture, _ in plain}
        masks = {shape: (allowed_in(result, sector, shape), *letters_in(result, shape)) for shape in shapes}
        for picture, most in plain:
            allowed, *letters = masks[picture.shape[:2]]
            assert grey_beyond(picture, allowed).sum() <= most
            assert abs(ink(picture, *letters)) < 25
            seen += 1
    assert seen > 2 * N_FRAMES
    for page in out.rglob("report.html"):
        for found in re.findall(rb"base64,([A-Za-z0-9+/=]+)", page.read_bytes()):
            with Image.open(io.BytesIO(base64.b64decode(found))) as image:
                assert not image.info.keys() & {"exif", "comment", "xmp"}
