"""Stills extracted from cine loops, and ``alan frames``."""

import csv

import numpy as np
import pytest
from PIL import Image

from alan.cli.main import main
from alan.data.extract import extract_frames
from alan.data.io.cine import read_cine
from alan.data.readers.folder import FrameFolder
from alan.errors import AlanWarning, DataError, ParameterError

data = pytest.importorskip("pydicom.data")
CINE = data.get_testdata_file("examples_ybr_color.dcm", download=False)


@pytest.fixture
def frames():
    return np.random.default_rng(1).integers(0, 256, (7, 24, 32), np.uint8)


@pytest.fixture
def root(tmp_path, archives, frames):
    """A video, a NIfTI sequence, a DICOM file without suffix, and things that are no cine loops."""
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


def test_every_kind_of_cine_loop(root, frames):
    video = read_cine(root / "p1" / "a4c.avi")
    assert (video.fps, video.spacing) == (25, None)
    assert np.array_equal(video.frames, frames)
    volume = read_cine(root / "p1" / "a2c.nii.gz")
    assert (volume.fps, volume.spacing) == (None, (0.5, 0.25))
    assert np.array_equal(volume.frames, frames)
    assert read_cine(root / "p2" / "1.2.840").frames.shape == (30, 240, 320)


def test_stills_and_manifest(tmp_path, root, frames):
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
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"images", "manifest.csv"}


def test_the_folder_reader_goes_on_from_there(tmp_path, root):
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


def test_one_file(tmp_path, root):
    extract_frames(str(root / "p1" / "a4c.avi"), str(tmp_path / "out"))
    assert [r["image"] for r in rows(tmp_path / "out")] == [f"a4c_{n:04d}.png" for n in range(1, 8)]
    assert {r["source"] for r in rows(tmp_path / "out")} == {"a4c.avi"}


def test_undecodable_files_are_skipped_and_counted(tmp_path, root):
    (root / "bad.mp4").write_bytes(b"no video")
    with pytest.warns(AlanWarning, match=r"skipped 1 of 4 cine loops .*bad.mp4"):
        extract_frames(str(root), str(tmp_path / "out"), every=100)
    assert len(rows(tmp_path / "out")) == 3


def test_nothing_is_left_when_nothing_can_be_decoded(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"none of 1 cine loops can be decoded; the first: .*bad.mp4"):
        extract_frames(str(tmp_path / "bad.mp4"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_of_a_run_that_was_interrupted(tmp_path, root, monkeypatch):
    def stop(path):
        if path.suffix == ".avi":
            raise KeyboardInterrupt
        return read_cine(path)

    monkeypatch.setattr("alan.data.extract.read_cine", stop)
    with pytest.raises(KeyboardInterrupt):
        extract_frames(str(root), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays(tmp_path, root):
    (tmp_path / "out" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match="images: is already there"):
        extract_frames(str(root), str(tmp_path / "out"))


def test_names_that_clash(tmp_path, root, archives, frames):
    archives.video(root / "p1_a4c.avi", frames[:1])
    with pytest.raises(DataError, match=r"both be written as 'p1_a4c'"):
        extract_frames(str(root), str(tmp_path / "out"))


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        extract_frames(str(tmp_path / "none"), str(tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no cine loop"):
        extract_frames(str(tmp_path / "empty"), str(tmp_path / "out"))
    with pytest.raises(ParameterError, match="every is 0: give a whole number of at least 1"):
        extract_frames(str(tmp_path / "empty"), str(tmp_path / "out"), every=0)


def test_the_command(tmp_path, root, capsys):
    out = str(tmp_path / "out")
    assert main(["frames", "--root", str(root / "p1"), "--out", out, "--every", "2"]) == 0
    assert len(rows(tmp_path / "out")) == 8
    assert "8 stills of 2 cine loops" in capsys.readouterr().err
    assert main(["frames", "--root", str(root / "p1"), "--out", out]) == 2
    assert "already there" in capsys.readouterr().err
