import numpy as np
import pytest

from alan.cli.main import main
from alan.data.readers.check import check_archive
from alan.errors import ParameterError


def snapshot(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_an_intact_archive_has_no_problem(tmp_path, archives):
    root = archives.camus(tmp_path / "camus")
    before = snapshot(tmp_path)
    assert check_archive("camus", root, progress=False) == ([], 6)
    assert main(["check", "--kind", "camus", "--root", str(root)]) == 0
    assert snapshot(tmp_path) == before


def test_every_problem_is_listed_with_its_remedy(tmp_path, archives, capsys):
    root = archives.echonet(tmp_path / "echonet")
    (root / "Videos" / "0XA.avi").write_bytes(b"half")
    (root / "Videos" / "0XD.avi").rename(root / "Videos" / "0XE.avi")
    text = (root / "VolumeTracings.csv").read_text()
    (root / "VolumeTracings.csv").write_text(text.replace("0XB.avi,28,", "0XB.avi,280,"))
    problems, samples = check_archive("echonet", root, progress=False)
    assert samples == 3
    assert [problem[:2] for problem in problems[:2]] == [
        ("0XD", "rows of FileList.csv without a video"),
        ("0XE", "videos without a row in FileList.csv"),
    ]
    assert [problem.file for problem in problems[2:]] == ["Videos/0XA.avi", "Videos/0XB.avi"]
    assert "outside the frame" in problems[3].reason
    assert "give coordinates in pixels of this video" in problems[3].remedy
    assert all(problem.remedy for problem in problems)
    before = snapshot(tmp_path)
    assert main(["check", "--kind", "echonet", "--root", str(root)]) == 1
    assert snapshot(tmp_path) == before
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == [
        "file",
        "0XD",
        "0XE",
        "Videos/0XA.avi",
        "Videos/0XB.avi",
    ]
    assert "alan: error: " in err
    assert "4 problems in 3 samples" in err


def test_an_archive_that_cannot_be_opened_lists_every_cause(tmp_path, archives):
    root = archives.folder(tmp_path / "mine")
    for name in ("p1_a4c_0001", "p2_a4c_0001"):
        (root / "masks" / f"{name}.png").unlink()
    problems, samples = check_archive("folder", root, progress=False)
    assert samples == 0
    assert "2 of 4 images have no mask" in problems[0].reason + problems[0].remedy
    assert [problem.file for problem in problems[1:]] == ["images/p1_a4c_0001.png", "images/p2_a4c_0001.png"]
    assert problems[1].remedy == "add masks/p1_a4c_0001.png"


def test_warnings_are_listed(tmp_path, archives):
    root = archives.folder(tmp_path / "mine", names=("a1_x", "b2_x"))
    archives.picture(root / "masks" / "a1_x.png", np.full((30, 44), 5, np.uint8))
    problems, _ = check_archive("folder", root, progress=False)
    assert [problem.file for problem in problems] == ["masks/a1_x.png", ""]
    assert "unknown class id 5" in problems[0].reason
    assert "each of 2 pictures counts as a patient of its own" in problems[1].reason


def test_a_misspelt_kind_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="did you mean 'camus'"):
        check_archive("camsu", tmp_path)
