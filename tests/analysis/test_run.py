"""From a folder of loops to tables: whole, resumable, and one broken file does not stop the others."""

import csv
import json

import av
import numpy as np
import pytest

from alan.analysis import AnalysisSettings, LoopSettings, analyze_files
from alan.analysis.run import LABELS, Worker
from alan.cli.main import main
from alan.data.simulator import simulate_sequence
from alan.errors import ConfigError, DataError, ParameterError, SkippedError

FAST = AnalysisSettings(loop=LoopSettings(view="A4C", samples=4), outputs=("png",), spacing=0.8)


def write_loop(path, seed, view="A4C"):
    clip = simulate_sequence(view, seed, n_frames=24, beats=1.2, seed=seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=round(clip.fps))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 112, 112, "yuv420p", 2_000_000
        for frame in clip.frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray8")))
        container.mux(stream.encode())
    return clip


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Two loops of one patient, and a file that cannot be decoded."""
    root = tmp_path_factory.mktemp("archive")
    clips = [write_loop(root / f"p1_{view}.avi", 5, view) for view in ("A4C", "A2C")]
    (root / "p2_broken.avi").write_bytes(b"RIFF and no more")
    return root, clips


def rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_loops_is_measured_and_a_broken_file_is_listed(archive, tmp_path):
    root, clips = archive
    out = tmp_path / "out"
    key = tmp_path / "key.csv"
    with pytest.raises(SkippedError, match="skipped 1 of 3 files"):
        analyze_files([root], out, FAST, patient_rule=r"(?P<patient>p\d)", key=key, workers=1)
    loops, patients = rows(out / "loops.csv"), rows(out / "patients.csv")
    assert len(loops) == 2
    assert {row["status"] for row in loops} == {"measured"}
    assert len(patients) == 1
    assert abs(float(loops[0]["ef_percent"]) - clips[0].ef_percent) < 30
    assert len(rows(out / "frames.csv")) == 48
    assert "broken" not in (out / "failures.csv").read_text()
    linked = {row["file"] for row in rows(key)}
    assert linked == {str(path) for path in root.iterdir()}
    with np.load(out / "loops" / loops[0]["loop"] / LABELS) as file:
        labels = file["labels"]
    truth = clips[0].labels if (out / "loops" / loops[0]["loop"]).exists() else None
    assert truth is not None
    assert labels.shape == (24, 112, 112)
    identifiers = ("p1_A4C", "p2_broken", str(root))
    for path in out.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(word.encode() in data for word in identifiers), path


def test_an_interrupted_run_continues_with_the_files_that_are_not_done(archive, tmp_path, monkeypatch):
    root, _ = archive
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    inputs = sorted(root.glob("p1*"))
    analyze_files(inputs, whole, FAST, workers=1)
    work = Worker.__call__
    calls = []

    def stopped(self, source):
        if calls:
            raise KeyboardInterrupt
        calls.append(source.name)
        return work(self, source)

    monkeypatch.setattr(Worker, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        analyze_files(inputs, parts, FAST, workers=1)
    done = []
    monkeypatch.setattr(Worker, "__call__", lambda self, source: done.append(source.name) or work(self, source))
    analyze_files(inputs, parts, FAST, workers=1)
    assert len(done) == 1
    assert done[0] not in calls
    for name in ("patients.csv", "loops.csv", "beats.csv", "frames.csv"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    analyze_files(inputs, parts, FAST, workers=1)
    assert len(done) == 1
    inputs[0].touch()
    analyze_files(inputs, parts, FAST, workers=1)
    assert len(done) == 2


def test_processes_give_the_same_tables_as_one(archive, tmp_path):
    root, _ = archive
    inputs = sorted(root.glob("p1*"))
    for workers in (1, 2):
        analyze_files(inputs, tmp_path / str(workers), FAST, workers=workers)
    one, two = ((tmp_path / name / "frames.csv").read_bytes() for name in ("1", "2"))
    assert one == two


def test_bad_requests_are_refused_before_anything_is_written(archive, tmp_path):
    root, _ = archive
    out = tmp_path / "out"
    with pytest.raises(ParameterError, match="outside"):
        analyze_files([root], out, FAST, key=out / "key.csv")
    with pytest.raises(DataError, match="no such"):
        analyze_files([root], out, AnalysisSettings(model="alan-simm"))
    with pytest.raises(DataError, match="no such file or folder"):
        analyze_files([root / "nothing"], out, FAST)
    assert not out.exists()


def test_another_configuration_needs_overwrite(archive, tmp_path):
    root, _ = archive
    inputs = sorted(root.glob("p1_A4C*"))
    analyze_files(inputs, tmp_path / "out", FAST, workers=1)
    other = AnalysisSettings(loop=LoopSettings(view="A2C", samples=0), outputs=("png",))
    with pytest.raises(ConfigError):
        analyze_files(inputs, tmp_path / "out", other, workers=1)
    found = analyze_files(inputs, tmp_path / "out", other, workers=1, overwrite=True)
    assert found.loops[0].view.view == "A2C"


def test_the_verb_takes_files_first_and_ends_with_1_for_a_broken_file(archive, tmp_path, capsys):
    root, _ = archive
    args = [str(root / "p1_A4C.avi"), str(root / "p2_broken.avi"), "--out", str(tmp_path / "out")]
    assert main(["analyze", *args, "--view", "A4C", "--outputs", "[png]", "--workers", "1"]) == 1
    state = [json.loads(path.read_text()) for path in (tmp_path / "out" / "sources").iterdir()]
    assert sorted(bool(one["failure"]) for one in state) == [False, True]
    assert main(["analyze", str(tmp_path / "none"), "--out", str(tmp_path / "o"), "--view", "A4C"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
