"""Discovery of loops among files and folders, and pseudonyms of patients."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from alan.analysis import find_sources, open_loops
from alan.analysis import loop as loop_module
from alan.analysis.sources import Source
from alan.data.fan import enclosing
from alan.data.io.base import MAKE_READABLE
from alan.data.pseudonyms import patient_key
from alan.errors import AlanWarning, DataError, ParameterError
from alan.runs import config_text

from .screens import FAN, dicom, metaimage, pages, screen, steady, video

pydicom = pytest.importorskip("pydicom")
LOOP = screen(FAN, text=True)
#: Identifiers that may not appear in any output.
SECRETS = ("DOE", "JANE", "1955", "0123456", "hospital", "19550102", "Smith", "wardseven")


def still(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pages(array[None], "PNG"))


@pytest.fixture
def folder(tmp_path):
    for name in ("p1/a4c.avi", "p1/a2c.avi", "p2/deep/er/a4c.mp4", ".hidden/a.avi", "results/old.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    for number in (1, 2, 9, 10):
        still(tmp_path / "p3" / f"frame_{number}.png", LOOP[0])
    still(tmp_path / "p3" / "single.png", LOOP[0])
    (tmp_path / "p1" / "a4c_gt.nii.gz").write_bytes(b"labels")
    (tmp_path / "p1" / "notes.txt").write_text("text")
    return tmp_path


def test_loops_of_a_folder_are_found(folder):
    sources, left_out = find_sources([folder], leave_out=folder / "results")
    found = {source.path.relative_to(folder).as_posix(): source for source in sources}
    assert set(found) == {"p1/a2c.avi", "p1/a4c.avi", "p2/deep/er/a4c.mp4", "p3/frame_1.png", "p3/single.png"}
    assert [path.name for path in found["p3/frame_1.png"].stills] == [f"frame_{n}.png" for n in (2, 9, 10)]
    assert sorted(reason for _, reason in left_out) == [
        "a label map according to its name, not a loop",
        "neither a video nor a picture: if it is one, give it the suffix of its format",
    ]
    assert len({source.name for source in sources}) == len({source.patient for source in sources}) == 5
    assert all(re.fullmatch(r"p[0-9a-f]{16}_[0-9a-f]{8}", source.name) for source in sources)


def test_key_frames_are_one_loop_of_two_frames(tmp_path):
    for name, frame in (("ED", LOOP[0]), ("ES", LOOP[3]), ("other", LOOP[5])):
        (tmp_path / f"p1_4CH_{name}.mha").write_bytes(metaimage(frame[None]))
    sources, _ = find_sources([tmp_path])
    pair, still = sources
    assert [path.stem for path in (pair.path, *pair.stills)] == ["p1_4CH_ED", "p1_4CH_ES"]
    assert (pair.key_frames, still.key_frames) == ((0, 1), None)
    (loop,) = open_loops(pair, stills=True, frame_rate=25)
    assert (loop.n_frames, loop.key_frames, loop.times_s) == (2, (0, 1), None)
    assert "two frames, at end-diastole and at end-systole according to the names of its files" in loop.notes


def test_results_of_an_earlier_run_are_no_input(folder):
    (folder / "old" / "loops").mkdir(parents=True)
    (folder / "old" / "loops" / "overlay.mp4").touch()
    (folder / "old" / "config.yaml").write_text(config_text({}, "analyze"), encoding="utf-8")
    sources, left_out = find_sources([folder], leave_out=folder / "results")
    assert len(sources) == 5
    assert [reason for _, reason in left_out if "earlier" in reason] == [
        "the results of an earlier `alan analyze`"
    ]
    assert len(left_out) == 3
    assert find_sources([folder / "old"])[0] == []
    assert len(find_sources([folder], leave_out=folder / "old")[1]) == 2
    (folder / "new").mkdir()
    (folder / "new" / "config.yaml").write_text("a: 1\n", encoding="utf-8")  # of another program
    (folder / "new" / "a.avi").write_bytes(b"new")
    assert len(find_sources([folder], leave_out=folder / "results")[0]) == 6


def test_stills_of_loops_are_no_input_beside_the_loops(folder):
    (folder / "stills" / "images").mkdir(parents=True)
    (folder / "stills" / "images" / "a.png").write_bytes(pages(screen(FAN)[:1], "PNG"))
    (folder / "stills" / "config.yaml").write_text(config_text({}, "frames"), encoding="utf-8")
    sources, left_out = find_sources([folder], leave_out=folder / "results")
    assert len(sources) == 5
    assert "the results of an earlier `alan frames`" in [reason for _, reason in left_out]
    for given in (folder / "stills", folder / "stills" / "images"):
        assert [source.path.name for source in find_sources([given])[0]] == ["a.png"]


def test_views_are_those_whose_text_is_in_the_path(folder):
    views = {"a4c": "A4C", "p1/a2c": "A2C", "deep": "A4C"}
    sources, _ = find_sources([folder], views=views)
    found = {source.path.relative_to(folder).as_posix(): source.view for source in sources}
    assert found["p1/a4c.avi"] == found["p2/deep/er/a4c.mp4"] == "A4C"
    assert found["p1/a2c.avi"] == "A2C"
    assert found["p3/single.png"] is None
    message = "view gives A4C and A2C for p1/a2c.avi, which holds 'p1' and 'a2c': give one of them"
    with pytest.raises(ParameterError, match=message):
        find_sources([folder], views={"p1": "A4C", "a2c": "A2C"})


def test_names_are_stable_and_no_loop_appears_twice(folder):
    once, _ = find_sources([folder])
    twice, _ = find_sources([folder, folder / "p1", folder / "p1" / "a4c.avi"])
    assert {source.name for source in once} == {source.name for source in twice}
    (single,), _ = find_sources([folder / "p1" / "a4c.avi"])
    assert single.path == folder / "p1" / "a4c.avi"


def test_files_of_the_same_name_are_different_patients(folder):
    sources, _ = find_sources([folder / "p1" / "a4c.avi", folder / "p2" / "deep"])
    assert len({source.patient for source in sources}) == 2


def test_names_that_differ_in_spaces_or_in_the_form_of_unicode_are_different_patients(tmp_path):
    names = ("a b.avi", "a  b.avi", "\u00e9.avi", "e\u0301.avi", "  .avi", "a\nb.avi")
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(b"RIFF%d" % number)
    sources, _ = find_sources([tmp_path])
    assert len({source.patient for source in sources}) == len({source.name for source in sources}) == len(names)
    assert all(source.patient for source in sources)
    sources, _ = find_sources([tmp_path], "(?P<patient>.)")
    assert len({source.name for source in sources}) == len(names)


def test_a_patient_rule_groups_loops_under_a_pseudonym(folder):
    with pytest.warns(AlanWarning, match="matches the path of 5 of 6 loops"):
        sources, _ = find_sources([folder], patient=r"(?P<patient>p\d)/")
    patients = {source.path.relative_to(folder).parts[0]: source.patient for source in sources}
    assert patients["p1"] == patient_key("p1")
    assert sum(source.patient == patient_key("p1") for source in sources) == 2
    assert len(set(patients.values())) == 4


@pytest.mark.parametrize("rule", ["(", "p1", "(?P<name>p1)"])
def test_rules_without_a_patient_group_are_refused(folder, rule):
    with pytest.raises(ParameterError, match=r"patient is .*: give a regular expression"):
        find_sources([folder], patient=rule)


def test_an_empty_input_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        find_sources([tmp_path / "none"])


def test_patients_come_from_dicom_headers(tmp_path):
    for n, (name, key) in enumerate((("a.dcm", "17"), ("b.dcm", "17"), ("c.dcm", "18"))):
        dicom(tmp_path / name, np.roll(LOOP, n, 0), PatientID=key)
    a, b, c = (source.patient for source in find_sources([tmp_path])[0])
    assert a == b == patient_key("17")
    assert c == patient_key("18")


def test_a_split_loop_equals_the_loop_of_one_file(tmp_path):
    for name in ("split", "whole"):
        (tmp_path / name).mkdir()
    uids = {"SeriesInstanceUID": "1.2.3", "PatientID": "17", "regions": [((0, 0, 96, 128),)]}
    loop = screen(FAN, length=9, text=True)
    dicom(tmp_path / "whole" / "loop.dcm", loop, **uids)
    for n in range(9):
        dicom(tmp_path / "split" / f"{7 * n % 10}", loop[n : n + 1], InstanceNumber=n, **uids)
    ((whole,), (split,)) = (open_loops(find_sources([tmp_path / name])[0][0]) for name in ("whole", "split"))
    assert split.patient == whole.patient
    assert (next(split.chunks(100)) == next(whole.chunks(100))).all()
    assert (split.times_s == whole.times_s).all()
    assert split.pixel_mm == whole.pixel_mm == (0.5, 0.5)
    (tmp_path / "split" / "z").write_bytes((tmp_path / "split" / "5").read_bytes())
    (source,), ((_, reason),) = find_sources([tmp_path / "split"])
    assert reason == f"a copy of the file of loop {source.name}"
    (tmp_path / "split" / "z").unlink()
    (tmp_path / "split" / "8").unlink()
    (source,), _ = find_sources([tmp_path / "split"])
    with pytest.raises(DataError, match=rf"{source.name}: a loop in 8 files .* lacks InstanceNumber 4"):
        open_loops(source)


def test_a_study_without_a_patient_counts_as_one(tmp_path):
    """A placeholder such as ANONYMOUS is shared by many patients, so loops of two studies are kept apart."""
    loop = screen(FAN)
    for n, study in enumerate(("1.2.3", "1.2.3", "1.2.4")):
        frames = np.roll(loop, n, 0)
        named = {"PatientID": "ANONYMOUS", "PatientName": "Anon^"}
        dicom(tmp_path / f"{n}.dcm", frames, StudyInstanceUID=study, **(named if n else {}))
    first, second, third = find_sources([tmp_path])[0]
    assert first.patient == second.patient != third.patient


def test_copies_links_and_archives_are_listed_as_left_out(tmp_path):
    video(tmp_path / "a.avi", screen(FAN))
    (tmp_path / "copy.avi").write_bytes((tmp_path / "a.avi").read_bytes())
    (tmp_path / "link.avi").symlink_to(tmp_path / "a.avi")  # the same file, no copy
    (tmp_path / "dead.avi").symlink_to(tmp_path / "moved.avi")
    (tmp_path / "study.tar.gz").write_bytes(b"packed")
    assert find_sources([tmp_path / "study.tar.gz"])[1][0][1] == "an archive of files: unpack it"
    for name in ("empty.avi", "empty2.avi"):
        (tmp_path / name).touch()
    sources, left_out = find_sources([tmp_path])
    assert [source.path.name for source in sources] == ["a.avi", "empty.avi", "empty2.avi"]
    reasons = [f"a copy of the file of loop {sources[0].name}", "a link to a file that is missing"]
    assert sorted(reason.partition(": get")[0] for _, reason in left_out) == sorted(
        [*reasons, "an archive of files: unpack it"]
    )


def test_formats_that_are_not_read_are_named(tmp_path):
    """FFmpeg would call them damaged."""
    for name, reason in {
        "a.nrrd": "in a format that is not read: save it as NIfTI",
        "A.MGZ": "in a format that is not read: save it as NIfTI",
        "a.dcm.gz": "compressed as a whole: unpack it",
    }.items():
        (tmp_path / name).write_bytes(b"whatever")
        for given in (tmp_path, tmp_path / name):
            sources, [left_out] = find_sources([given])
            assert not sources
            assert left_out[1].startswith(reason)
        (tmp_path / name).unlink()
    (tmp_path / "a.nii.gz").write_bytes(b"whatever")
    assert [source.path.name for source in find_sources([tmp_path])[0]] == ["a.nii.gz"]


def write_index(path, names):
    index = pydicom.Dataset()
    index.file_meta = pydicom.dataset.FileMetaDataset()
    index.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    index.file_meta.MediaStorageSOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    records = [("PATIENT", None), ("PRIVATE", ["OTHER", "X"]), *(("IMAGE", name) for name in names)]
    index.DirectoryRecordSequence = [pydicom.Dataset() for _ in records]
    for record, (kind, name) in zip(index.DirectoryRecordSequence, records, strict=True):
        record.DirectoryRecordType = kind
        record.ReferencedFileID = name
    index.save_as(path, enforce_file_format=True)


def test_images_that_an_index_lists_and_that_are_missing_are_counted(tmp_path):
    write_index(tmp_path / "DICOMDIR", [["IMAGES", "IM1"], ["IMAGES", "IM2"], "IM3"])
    (tmp_path / "images").mkdir()
    for n, name in enumerate(("images/im1", "images/IM2.DCM", "IM3")):
        dicom(tmp_path / name, np.roll(LOOP, n, 0))
    sources, [left_out] = find_sources([tmp_path])  # warnings are errors
    assert len(sources) == 3
    assert left_out[1] == "an index of DICOM files, not a loop: give its folder"
    (tmp_path / "images" / "im1").unlink()
    with pytest.warns(AlanWarning, match="1 of the 3 images that it lists is missing: copy the medium again"):
        sources, [left_out] = find_sources([tmp_path])
    assert len(sources) == 2
    assert "1 of the 3 images that it lists is missing" in left_out[1]
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "DICOMDIR").read_bytes()[:300])
    assert find_sources([tmp_path])[1][0][1] == "an index of DICOM files, not a loop: give its folder"


def test_a_link_to_itself_is_listed_as_dead(tmp_path):
    video(tmp_path / "a.avi", screen(FAN))
    (tmp_path / "self.avi").symlink_to("self.avi")
    (tmp_path / "round").symlink_to(tmp_path)
    sources, ((_, reason),) = find_sources([tmp_path], leave_out=tmp_path / "out")
    assert [source.path.name for source in sources] == ["a.avi"]
    assert reason.startswith("a link to a file that is missing")


def test_files_of_pixels_belong_to_their_headers(tmp_path):
    """Two patients whose headers have the same bytes are no copies of each other."""
    for name, seed in (("p1", 0), ("p2", 1), ("p3", 1)):
        (tmp_path / name).mkdir()
        frames = screen(FAN, seed=seed)
        (tmp_path / name / "a.mhd").write_bytes(metaimage(frames, "a.raw"))
        (tmp_path / name / "a.raw").write_bytes(frames.tobytes())
    (tmp_path / "b.raw").write_bytes(b"no header")
    sources, left_out = find_sources([tmp_path])
    assert [source.path.parent.name for source in sources] == ["p1", "p2"]
    assert sorted(reason for _, reason in left_out) == [
        f"a copy of the file of loop {sources[1].name}",
        "neither a video nor a picture: if it is one, give it the suffix of its format",
        *["the pixels of a file that is read by its header, which has the same name"] * 3,
    ]


@pytest.mark.parametrize("numbers", [(1, 2, 3, 4), (5, 10, 15, 20), (1, 2, 3, 5)])
def test_missing_numbers_of_stills_are_noted(tmp_path, numbers):
    for number, frame in zip(numbers, steady(LOOP), strict=False):
        still(tmp_path / f"a4c ({number}).png", frame)
    (source,) = find_sources([tmp_path])[0]
    (loop,) = open_loops(source)
    assert loop.n_frames == 4
    noted = "the numbers of its pictures step by 1 to 2: some seem to be missing" in loop.notes
    assert noted == (numbers == (1, 2, 3, 5))


def test_numbered_pictures_of_different_patients_are_stills(tmp_path):
    for number, frame in enumerate(steady(LOOP)):
        still(tmp_path / f"p{number:02d}.png", frame)
    assert len(find_sources([tmp_path])[0]) == 1
    assert len(find_sources([tmp_path], patient=r"(?P<patient>p\d+)")[0]) == len(LOOP)
    for number in range(len(LOOP)):
        still(tmp_path / f"p{number:02d}.png", np.rot90(LOOP[number], 2 * number))
    with pytest.warns(AlanWarning, match="6 numbered pictures are analyzed as stills.*p00.png"):
        sources, _ = find_sources([tmp_path])
    (loop,) = open_loops(sources[0], stills=True)
    assert len({source.patient for source in sources}) == len(LOOP)
    assert "one of 6 numbered pictures that do not resemble one another as those of a loop do" in loop.notes


def test_quoted_values_of_headers_are_removed_from_messages():
    text = "the value 'O'Neil^Ann' of the image's header is \"O'Neil\", not 'RGB'"
    assert loop_module._unquoted(text) == "the value ... of the image's header is ..., not ..."
    assert loop_module._unquoted("b'Doe^Ann' is no name") == "... is no name"
    assert "Doe" not in loop_module._unquoted("the value'Doe^Ann'is no name")


@pytest.mark.parametrize("name", ["a.avi", "a.gif", "a_1.tif", "a.dcm", "a.nii.gz", "a", "a.h5", "a.csv"])
def test_files_without_read_permission_do_not_stop_the_others(tmp_path, monkeypatch, name):
    """An unreadable file with the suffix of a loop fails later; any other one is omitted."""
    video(tmp_path / "b.avi", screen(FAN))
    (tmp_path / name).write_bytes(b"secret")
    opened = Path.open

    def refuse(path, *args, **options):
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    sources, left_out = find_sources([tmp_path])
    if name.endswith((".h5", ".csv")):
        assert [reason for _, reason in left_out] == [f"cannot be read (Permission denied); {MAKE_READABLE}"]
        assert [source.path.name for source in sources] == ["b.avi"]
    else:
        assert not left_out
        assert {source.path.name for source in sources} == {"b.avi", name}


def test_a_file_name_that_is_not_utf8_is_read(tmp_path):
    import os

    path = tmp_path / os.fsdecode(b"M\xfcller.avi")
    try:
        video(tmp_path / "a.avi", screen(FAN)).rename(path)
    except OSError:
        pytest.skip("the file system has text names only")
    (source,) = find_sources([tmp_path])[0]
    (loop,) = open_loops(source)
    assert loop.n_frames == 6


def test_sequences_of_a_frame_store_are_found(tiny, tmp_path):
    store = tiny.store("echonet")
    sources, left_out = find_sources([store])
    assert not left_out
    assert [source.sequence for source in sources] == list(range(len(sources)))
    (loop,) = open_loops(sources[0])
    assert loop.n_frames == 16
    assert loop.times_s is not None
    (tmp_path / "a.h5").write_bytes(b"no store")
    assert find_sources([tmp_path / "a.h5"])[1][0][1].startswith("an HDF5 file that is not a frame store")


def test_names_notes_and_reasons_contain_no_identifier(tmp_path):
    ward = tmp_path / "hospital_wardseven" / "DOE_JANE_19550102"
    ward.mkdir(parents=True)
    header = {
        "PatientName": "DOE^JANE",
        "PatientID": "ID0123456",
        "PatientBirthDate": "19550102",
        "InstitutionName": "hospital",
        "ReferringPhysicianName": "Smith",
        "StudyDescription": "DOE JANE 1955",
        "CineRate": 25,
    }
    dicom(ward / "DOE_JANE.dcm", LOOP, **header)
    dicom(ward / "DOE_JANE_spectrum.dcm", LOOP, regions=[((48, 0, 96, 128), 3, 4, 4.0, (4, 7))], **header)
    dicom(ward / "DOE_JANE_bad.dcm", LOOP, stated=99, **header)
    dicom(ward / "DOE_JANE_odd.dcm", LOOP, **{**header, "HeartRate": 70}, Modality="DOEJANE1955")
    video(ward / "JANE_DOE 0123456.avi", LOOP)
    (ward / "DOE_0123456.mp4").write_bytes(b"DOE^JANE 1955")
    (ward / "DOE.mhd").write_bytes(
        b"NDims = 3\nDimSize = 9 9 3\nElementType = MET_UCHAR\nElementDataFile = JANE.raw\n"
    )
    (ward / "Smith 1955.txt").write_text("DOE")
    sources, left_out = find_sources([tmp_path], patient=r"(?P<patient>DOE_JANE|JANE_DOE|DOE)")
    told = [*(word for pair in left_out for word in pair), *(source.name for source in sources)]
    told += [source.patient for source in sources]
    kept = []
    for source in sources:
        try:
            loops = open_loops(source)
        except DataError as error:
            told.append(str(error))
            continue
        for loop in loops:
            kept.append(np.concatenate(list(loop.chunks(4))))
            told += [loop.name, loop.patient, *loop.notes, str(loop.pixel_origin)]
    words = "\n".join(told).lower()
    assert not [secret for secret in SECRETS if secret.lower() in words], words
    assert len(kept) == 2
    for frames in kept:
        assert not (frames == 255).any()  # the text in the upper left corner
        outside = ~FAN.mask(2.0)
        rows, columns = enclosing(~outside)
        height, width = frames.shape[1:]
        trimmed = outside[rows, columns]
        assert abs(trimmed.shape[0] - height) <= 4
        assert abs(trimmed.shape[1] - width) <= 4


def test_a_path_in_a_message_becomes_one_pseudonym(tmp_path):
    source = Source(tmp_path / "ward" / "jane" / "short.mhd", "p", "p_1")
    message = f"{tmp_path / 'ward' / 'jane' / 'short.raw'}: ends early, 5400 of 10800 bytes are there"
    assert source.redact(message) == "p_1.raw: ends early, 5400 of 10800 bytes are there"


def test_names_that_are_words_of_messages_leave_the_message_readable(tmp_path):
    source = Source(tmp_path / "Doe" / "frames" / "MRN7 data" / "empty.dcm", "p", "p_1")
    assert source.redact("is empty; 3 frames of MRN7 data") == "is empty; 3 frames of p_1"
    source = Source(tmp_path / "Jane Doe" / "frames" / "MRN7" / "empty.mhd", "p", "p_1")
    message = f"{tmp_path / 'Jane Doe' / 'frames' / 'MRN7' / 'empty.raw'}: ends early"
    assert source.redact(message) == "p_1.raw: ends early"
    source = Source(Path("doe/mrn.mhd"), "p", "p_1")  # short names
    assert source.redact("doe/mrn.raw: ends early") == "p_1.raw: ends early"


JANE, JOHN = {"PatientName": "DOE^JANE", "PatientBirthDate": "19550102"}, {"PatientName": "ROE^JOHN"}


@pytest.mark.parametrize(
    ("headers", "patients", "doubts"),
    [
        ([JANE, {**JOHN, "PatientBirthDate": "19610304"}], 2, 2),
        ([JANE, {**JANE, "PatientBirthDate": "19610304"}, JOHN], 3, 3),
        ([JANE, JOHN], 1, 1),
        ([JANE, {"PatientName": "Jane Doe=山田^太郎", "PatientBirthDate": "19550102"}], 1, 0),
        ([JANE, {**JANE, "PatientName": "ROE^JANE"}], 1, 0),
        ([JANE, {"PatientBirthDate": "19000101"}, {"PatientName": "ANON^"}, {}], 1, 0),
    ],
)
def test_people_who_share_a_patient_id_are_not_one_patient_without_a_word(tmp_path, headers, patients, doubts):
    for n, header in enumerate(headers):
        text = {"SpecificCharacterSet": "ISO_IR 192", **header}
        dicom(tmp_path / f"{n}.dcm", np.roll(LOOP, n, 0), PatientID="17", **text)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        sources, _ = find_sources([tmp_path])
    assert len({source.patient for source in sources}) == patients
    assert len({source.patient for source in sources if source.doubt}) == doubts
    assert len(told) == bool(doubts)
    decided, _ = find_sources([tmp_path], patient=r"(?P<patient>\d)")
    assert not [source.doubt for source in decided if source.doubt]
    words = [*(str(one.message) for one in told), *(source.doubt for source in sources)]
    assert not [word for word in words if any(secret in word for secret in SECRETS)]
    assert (sources[0].patient == patient_key("17")) == (patients == 1)
