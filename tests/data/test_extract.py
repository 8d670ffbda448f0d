"""Stills extracted from cine loops, and ``alan frames``."""

import csv
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from alan.cli.main import main
from alan.data import extract
from alan.data.extract import extract_frames
from alan.data.io.cine import read_cine
from alan.data.io.frames import read_all
from alan.data.readers.folder import FrameFolder
from alan.errors import AlanWarning, ConfigError, DataError, ParameterError

from ..analysis.screens import dicom

data = pytest.importorskip("pydicom.data")
CINE = data.get_testdata_file("examples_ybr_color.dcm", download=False)


@pytest.fixture
def frames():
    return np.random.default_rng(1).integers(0, 256, (7, 24, 32), np.uint8)


@pytest.fixture
def root(tmp_path, archives, frames):
    """A video, a NIfTI sequence, a DICOM file without suffix, and files that are no cine loops."""
    archives.video(tmp_path / "in" / "p1" / "a4c.avi", frames, codec="ffv1", pixels="gray", fps=25)
    archives.medical(tmp_path / "in" / "p1" / "a2c.nii.gz", frames, (0.5, 0.25))
    (tmp_path / "in" / "p2").mkdir()
    (tmp_path / "in" / "p2" / "1.2.840").write_bytes(open(CINE, "rb").read())  # noqa: PTH123, SIM115
    (tmp_path / "in" / "notes.txt").write_text("x")
    (tmp_path / "in" / ".hidden.avi").write_text("x")
    return tmp_path / "in"


def rows(out):
    with (out / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def failures(out):
    with (out / "failures.csv").open(newline="") as file:
        return [(row["file"], row["reason"]) for row in csv.DictReader(file)]


def contents(out):
    """Bytes of all files but those that say when a run was made."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in ("config.yaml", "run.json"))
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_every_kind_of_cine_loop_is_extracted(root, frames):
    video = read_cine(root / "p1" / "a4c.avi")
    assert (video.fps, video.spacing) == (25, None)
    assert np.array_equal(video.frames, frames)
    volume = read_cine(root / "p1" / "a2c.nii.gz")
    assert (volume.fps, volume.spacing) == (None, (0.5, 0.25))
    assert np.array_equal(volume.frames, frames)
    assert read_cine(root / "p2" / "1.2.840").frames.shape == (30, 240, 320)


def test_stills_are_listed_in_a_manifest(tmp_path, root, frames):
    extract_frames(str(root), str(tmp_path / "out"), every=3)
    table = rows(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == sorted(
        r["image"] for r in table
    )
    assert [r["image"] for r in table[:3]] == ["p1_a2c_0001.png", "p1_a2c_0004.png", "p1_a2c_0007.png"]
    assert [r["image"] for r in table[3:6]] == ["p1_a4c_0001.png", "p1_a4c_0004.png", "p1_a4c_0007.png"]
    assert len(table) == 3 + 3 + 10
    assert table[4] == {
        "image": "p1_a4c_0004.png",
        "source": "p1/a4c.avi",
        "frame": "4",
        "time_s": "0.12",
        "row_mm": "",
        "column_mm": "",
        "height": str(frames.shape[1]),
        "width": str(frames.shape[2]),
        "patient": "",
    }
    assert (table[0]["time_s"], table[0]["row_mm"], table[0]["column_mm"]) == ("", "0.5", "0.25")
    assert table[-1]["image"] == "p2_1.2.840_0028.png"
    assert float(table[-1]["time_s"]) == pytest.approx(27 * 0.033333)
    for index, name in enumerate(("p1_a4c_0001.png", "p1_a4c_0004.png", "p1_a4c_0007.png")):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "images" / name)), frames[3 * index])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.yaml",
        "images",
        "manifest.csv",
        "run.json",
    }


def test_the_folder_reader_reads_extracted_stills(tmp_path, root):
    extract_frames(str(root), str(tmp_path / "out"), every=5)
    stills = FrameFolder(tmp_path / "out", unlabelled=True)
    patients = [r.patient for r in stills.records]
    assert patients[:4] == ["p1"] * 4
    assert set(patients[4:]) == {rows(tmp_path / "out")[-1]["patient"]}  # the pseudonym of the DICOM header
    assert patients[4] not in {"", "p1", "p2"}
    assert stills[0].spacing == (0.5, 0.25)
    assert stills[2].spacing is None
    assert stills[-1].spacing == pytest.approx((0.5105, 0.5105), rel=1e-3)
    height, width = stills[2].frames.shape[1:]
    facts = {"source": "p1/a4c.avi", "frame": 1.0, "time_s": 0.0, "height": height, "width": width}
    assert stills.records[2].attributes == facts


def test_stills_of_a_simulated_archive_are_marked_simulated(tmp_path, tiny):
    extract_frames(str(Path(tiny.archive("echonet")) / "Videos"), str(tmp_path / "out"), every=9, workers=0)
    assert (tmp_path / "out" / "simulation.json").is_file()
    assert FrameFolder(tmp_path / "out", unlabelled=True).simulated


def test_a_single_file_is_extracted(tmp_path, root):
    extract_frames(str(root / "p1" / "a4c.avi"), str(tmp_path / "out"))
    assert [r["image"] for r in rows(tmp_path / "out")] == [f"a4c_{n:04d}.png" for n in range(1, 8)]
    assert {r["source"] for r in rows(tmp_path / "out")} == {"a4c.avi"}


def test_loops_that_cannot_be_decoded_are_listed(tmp_path, root):
    (root / "bad.mp4").write_bytes(b"no video")
    with pytest.warns(AlanWarning, match=r"skipped 1 of 4 files, listed in .*failures.csv; the first: bad.mp4"):
        extract_frames(str(root), str(tmp_path / "out"), every=100)
    assert len(rows(tmp_path / "out")) == 3
    ((name, reason),) = failures(tmp_path / "out")
    assert name == "bad.mp4"
    assert reason.startswith("cannot be decoded after 0 frames")


def test_strict_fails_when_a_file_is_skipped(tmp_path, root, capsys):
    (root / "bad.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    assert main(["frames", "--root", str(root), "--out", str(out), "--every", "100", "--strict", "true"]) == 1
    assert "skipped 1 of 4 files" in capsys.readouterr().err
    assert len(rows(out)) == 3  # what could be decoded is there
    assert [name for name, _ in failures(out)] == ["bad.mp4"]


def test_links_to_missing_files_are_listed(tmp_path, root):
    (root / "p1" / "a3c.avi").symlink_to("../../objects/a3c.avi")
    with pytest.warns(AlanWarning, match="skipped 1 of 4 files"):
        extract_frames(str(root), str(tmp_path / "out"), every=100)
    assert failures(tmp_path / "out")[0][0] == "p1/a3c.avi"
    assert "git annex get" in failures(tmp_path / "out")[0][1]


def test_a_name_that_is_not_utf8_is_listed(tmp_path, root, capsys):
    os.rename(root / "p1" / "a4c.avi", os.fsencode(root / "p1") + b"/caf\xe9.avi")  # noqa: PTH104
    args = ["frames", "--root", str(root), "--out", str(tmp_path / "out"), "--log-file", str(tmp_path / "log")]
    assert main(args) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert r"caf\xe9_0001.png' is not UTF-8: rename the file" in last


def test_a_damaged_animation_is_listed(tmp_path, root, frames):
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(root / "a.gif", save_all=True, append_images=pages[1:])
    (root / "a.gif").write_bytes((root / "a.gif").read_bytes()[:300])
    with pytest.warns(AlanWarning, match="skipped 1 of 4 files"):
        extract_frames(str(root), str(tmp_path / "out"), every=100)
    assert failures(tmp_path / "out")[0][0] == "a.gif"


def test_label_maps_are_not_extracted(tmp_path, root, archives, frames):
    archives.medical(root / "p1" / "a2c_gt.nii.gz", frames)
    with pytest.warns(AlanWarning, match="skipped 1 of 4 files"):
        extract_frames(str(root), str(tmp_path / "out"), every=100)
    assert failures(tmp_path / "out") == [("p1/a2c_gt.nii.gz", "a label map according to its name, not a loop")]


def test_a_run_without_a_readable_file_leaves_no_files(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"none of 1 cine loops can be decoded; the first: .*bad.mp4"):
        extract_frames(str(tmp_path / "bad.mp4"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "place", ["read_all", "write_json", "_publish", "write_rows", "Run.finish", "shutil.rmtree"]
)
def test_a_stopped_run_resumes(tmp_path, root, monkeypatch, place):
    """Stopped at the second call of a function (the first for those called once), then run again."""
    extract_frames(str(root), str(tmp_path / "whole"), every=3)
    calls = []
    target, _, name = place.rpartition(".")
    where = getattr(extract, target) if target else extract
    function = getattr(where, name)

    def stop(*args, **kwargs):
        calls.append(place)
        if len(calls) == (2 if place in ("read_all", "write_json") else 1):
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, stop)
        with pytest.raises(KeyboardInterrupt):
            extract_frames(str(root), str(tmp_path / "out"), every=3)
    decoded = []
    monkeypatch.setattr(extract, "read_all", lambda source: decoded.append(source) or read_all(source))
    extract_frames(str(root), str(tmp_path / "out"), every=3)
    assert len(decoded) == {"read_all": 2, "write_json": 2}.get(place, 0)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_stills_that_were_removed_are_extracted_again(tmp_path, root):
    extract_frames(str(root), str(tmp_path / "out"), every=3)
    before = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "images")
    extract_frames(str(root), str(tmp_path / "out"), every=3)
    assert contents(tmp_path / "out") == before


def test_a_record_of_another_version_is_ignored(tmp_path, root):
    extract_frames(str(root), str(tmp_path / "before"), every=3)
    out = tmp_path / "out"
    extract_frames(str(root), str(out), every=3)
    (out / "run.json").unlink()
    shutil.rmtree(out / "images")
    (out / "unfinished" / "loops").mkdir(parents=True)
    for name, text in (("p1_a4c", '{"rows": [], "colour": 1}'), ("p1_a2c", "{")):
        (out / "unfinished" / "loops" / f"{name}.json").write_text(text)
    extract_frames(str(root), str(out), every=3)
    assert contents(out) == contents(tmp_path / "before")


def test_a_finished_run_is_left_unchanged(tmp_path, root, monkeypatch, caplog):
    extract_frames(str(root), str(tmp_path / "out"), every=3)
    before = contents(tmp_path / "out")
    monkeypatch.setattr(extract, "read_all", None)
    with caplog.at_level("INFO"):
        extract_frames(str(root), str(tmp_path / "out"), every=3)
    assert "already done" in caplog.text
    assert contents(tmp_path / "out") == before


def test_changed_loops_are_extracted_again(tmp_path, root, archives, frames):
    extract_frames(str(root), str(tmp_path / "out"), every=3)
    archives.video(root / "p1" / "a4c.avi", 255 - frames, codec="ffv1", pixels="gray", fps=25)
    with pytest.raises(ConfigError, match=r"another configuration \(files\): .* --overwrite true"):
        extract_frames(str(root), str(tmp_path / "out"), every=3)
    extract_frames(str(root), str(tmp_path / "out"), every=3, overwrite=True)
    still = np.asarray(Image.open(tmp_path / "out" / "images" / "p1_a4c_0001.png"))
    assert np.array_equal(still, 255 - frames[0])


def test_a_foreign_folder_is_refused_and_kept(tmp_path, root):
    (tmp_path / "out" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds files but no config.yaml"):
        extract_frames(str(root), str(tmp_path / "out"))
    assert (tmp_path / "out" / "images").is_dir()


def test_several_processes_write_the_same(tmp_path, archives):
    for index in range(9):
        loop = np.random.default_rng(index).integers(0, 256, (2, 16, 16), np.uint8)
        archives.video(tmp_path / "in" / f"p{index}.avi", loop, codec="ffv1", pixels="gray")
    (tmp_path / "in" / "bad.avi").write_bytes(b"no video")
    for workers, out in ((0, "one"), (2, "two")):
        with pytest.warns(AlanWarning, match="skipped 1 of 10 files"):
            extract_frames(str(tmp_path / "in"), str(tmp_path / out), workers=workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(rows(tmp_path / "one")) == 18


def test_times_and_patients_are_recorded(tmp_path, archives, frames):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "gray"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pts, array in zip((0, 10, 500), frames, strict=False):
            frame = av.VideoFrame.from_ndarray(array, format="gray")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    extract_frames(str(tmp_path / "a.mkv"), str(tmp_path / "out"))
    assert [r["time_s"] for r in rows(tmp_path / "out")] == ["0", "0.01", "0.5"]
    extract_frames(CINE, str(tmp_path / "dicom"), every=10)
    assert {r["patient"] for r in rows(tmp_path / "dicom")} == {read_cine(CINE).patient}
    assert {(r["height"], r["width"]) for r in rows(tmp_path / "dicom")} == {("240", "320")}


def test_a_stack_of_pages_is_extracted(tmp_path, frames):
    (tmp_path / "in").mkdir()
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(tmp_path / "in" / "p1_loop.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "in" / "p1_still.tif")
    extract_frames(str(tmp_path / "in"), str(tmp_path / "out"))
    assert [r["image"] for r in rows(tmp_path / "out")] == [f"p1_loop_{n:04d}.png" for n in range(1, 8)]
    still = np.asarray(Image.open(tmp_path / "out" / "images" / "p1_loop_0003.png"))
    assert np.array_equal(still, frames[2])


def test_loops_in_linked_folders_are_found(tmp_path, root):
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2" / "disk").symlink_to(root / "p1")
    extract_frames(str(tmp_path / "in2"), str(tmp_path / "out"), every=100)
    assert [r["image"] for r in rows(tmp_path / "out")] == ["disk_a2c_0001.png", "disk_a4c_0001.png"]


def test_overlong_names_are_shortened(tmp_path, archives, frames):
    folder = tmp_path / "in" / ("é" * 120)
    names = ["x" * 240 + ".avi", "x" * 241 + ".avi"]
    for name in names:
        archives.video(folder / name, frames[:1])
    extract_frames(str(tmp_path / "in"), str(tmp_path / "out"))
    images = [r["image"] for r in rows(tmp_path / "out")]
    assert len(set(images)) == 2
    assert all(len(image.encode()) <= 255 and image.startswith("é" * 90) for image in images)
    assert [r["source"] for r in rows(tmp_path / "out")] == [f"{folder.name}/{name}" for name in names]


def test_messages_are_shown_once(tmp_path, archives, frames, caplog):
    for name in ("p1", "p2", "p3"):
        archives.medical(tmp_path / "in" / f"{name}.nii.gz", frames / 255)
        archives.medical(tmp_path / "in" / f"{name}_b.mhd", frames, dtype=np.uint8)
        with (tmp_path / "in" / f"{name}_b.raw").open("ab") as file:
            file.write(b"more")
    with caplog.at_level("INFO"), pytest.warns(AlanWarning) as caught:
        extract_frames(str(tmp_path / "in"), str(tmp_path / "out"), every=9)
    assert [str(warning.message) for warning in caught] == [
        "p1_b.mhd: p1_b.raw: 4 bytes beyond those that the header claims are not read (and 2 more)"
    ]
    messages = [record.message for record in caplog.records]
    assert messages[0] == "p1.nii.gz: grey values multiplied by 255 (and 2 more)"
    assert messages[1].endswith("6 stills of 6 cine loops")
    assert len(messages) == 2


def test_a_loop_that_was_split_into_files_is_joined(tmp_path, frames):
    root, loop = tmp_path / "in", np.concatenate([frames, frames])
    root.mkdir()
    for n in range(9):
        dicom(root / f"IM{9 - n}", loop[n : n + 1], SeriesInstanceUID="1.2.3", InstanceNumber=n)
    extract_frames(str(root), str(tmp_path / "out"), every=4, workers=0)
    assert [row["image"] for row in rows(tmp_path / "out")] == ["IM9_0001.png", "IM9_0005.png", "IM9_0009.png"]
    assert [float(row["time_s"]) for row in rows(tmp_path / "out")] == pytest.approx([0, 0.16, 0.32])
    (root / "IM4").unlink()
    with pytest.raises(DataError, match=r"none of 1 cine loops can be decoded.* lacks InstanceNumber 5"):
        extract_frames(str(root), str(tmp_path / "out2"), workers=0)


def test_a_loop_whose_name_is_taken_is_listed(tmp_path, root, archives, frames):
    archives.video(root / "p1_a4c.avi", frames[:1])
    with pytest.warns(AlanWarning, match="skipped 1 of 4 files"):
        extract_frames(str(root), str(tmp_path / "out"))
    ((name, reason),) = failures(tmp_path / "out")
    assert (name, reason) == ("p1_a4c.avi", "would be written as 'p1_a4c', like p1/a4c.avi: rename one")
    assert {r["source"] for r in rows(tmp_path / "out")} >= {"p1/a4c.avi"}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        extract_frames(str(tmp_path / "none"), str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no cine loop"):
        extract_frames(str(tmp_path / "empty"), str(tmp_path / "out"))
    with pytest.raises(ParameterError, match="every is 0: give a whole number of at least 1"):
        extract_frames(str(tmp_path / "empty"), str(tmp_path / "out"), every=0)


def test_alan_frames_runs_from_the_command_line(tmp_path, root, capsys):
    out = str(tmp_path / "out")
    assert main(["frames", "--root", str(root / "p1"), "--out", out, "--every", "2"]) == 0
    assert len(rows(tmp_path / "out")) == 8
    assert "8 stills of 2 cine loops" in capsys.readouterr().err
    assert main(["frames", "--root", str(root / "p1"), "--out", out]) == 2
    assert "another configuration (every)" in capsys.readouterr().err
