"""Analysis of a folder of loops: tables, resuming, and tolerance of broken files."""

import csv
import itertools
import json
import re
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import av
import numpy as np
import pytest
import torch
from PIL import Image

from alan import workers
from alan.analysis import (
    AnalysisModel,
    AnalysisSettings,
    FrameResult,
    LoopResult,
    LoopSettings,
    Source,
    ViewEvidence,
    analyze_files,
    run,
    write_tables,
)
from alan.analysis import worker as worker_module
from alan.analysis.loop_analysis import LoopAnalysis
from alan.analysis.worker import LABELS, Worker, finished_state
from alan.cli.main import main
from alan.data.simulator import simulate_sequence
from alan.downstream import ExpertOpinion
from alan.downstream.whitebox.opinion import Opinion
from alan.errors import ConfigError, DataError, ParameterError, SkippedError
from alan.export.runtime import OnnxParcels
from alan.progress import no_progress
from alan.report.analysis import write_analysis_report

from .made import made_labels, made_result
from .screens import metaimage

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
    clips = [write_loop(root / f"p1_{view}.avi", 3, view) for view in ("A4C", "A2C")]
    (root / "p2_broken.avi").write_bytes(b"RIFF and no more")
    (root / "notes.txt").write_text("no loop")
    return root, clips


@pytest.fixture(scope="module")
def whole(archive, tmp_path_factory):
    """Results of the two loops by one process."""
    out = tmp_path_factory.mktemp("results") / "whole"
    analyze_files(sorted(archive[0].glob("p1*")), out, FAST, workers=1)
    return out


def stand_in(**attributes):
    """A model that records the device to which it is moved."""
    model = SimpleNamespace(fingerprint="f", runtime="torch", device=None, **attributes)

    def to(device):
        model.device = device
        return model

    model.to = to
    return model


def test_opinions_change_the_parcels_of_their_phase(archive, tmp_path, capsys):
    """An opinion on one phase changes the list of that phase in all views, and therefore the results."""
    plain = AnalysisModel.load("alan-sim")
    pair = plain.views["A4C"]["lv"]
    parcel = int(pair.es.selector_.interior_[0])
    both = int(next(k for k in pair.ed.selector_.interior_ if k in pair.es.selector_.interior_ and k != parcel))
    secret = tmp_path / "DOE^JANE"
    secret.mkdir()
    opinions = [str(secret / name) for name in ("all.json", "es.json")]
    for path, phase, ids in zip(opinions, ("", "ES"), ([both], [both, parcel]), strict=True):
        own = {k: Opinion.of("never") for k in ids}
        ExpertOpinion("lv", plain.parcels.fingerprint, own, phase).to_json(path)
    edited = AnalysisModel.load("alan-sim", opinions=opinions)
    assert edited.fingerprint != plain.fingerprint
    for view in ("A4C", "A2C"):
        lists = [edited.views[view]["lv"].ed, edited.views[view]["lv"].es]
        kept = [{both, parcel} & set(box.selector_.interior_.tolist()) for box in lists]
        assert kept == [{parcel} & set(pair.ed.selector_.interior_.tolist()), set()]
        assert edited.views[view]["la"] is not edited.views[view]["lv"]
    out = tmp_path / "out"
    command = ["analyze", str(archive[0] / "p1_A4C.avi"), "--out", str(out), "--view", "A4C", "--samples", "0"]
    assert main([*command, "--outputs", "[png]", "--opinions", str(opinions)]) == 0
    (row,) = rows(out / "loops.csv")
    result = LoopResult.from_json(out / "loops" / row["loop"] / "result.json")
    assert both not in {*result.parcels["lv"]["ED"], *result.parcels["lv"]["ES"]}
    assert parcel not in result.parcels["lv"]["ES"]
    assert "DOE" not in (out / "config.yaml").read_text()
    assert "phase: ES" in (out / "config.yaml").read_text()
    assert main([*command, "--outputs", "[png]"]) == 2  # another configuration
    assert "--overwrite" in capsys.readouterr().err


def test_views_can_be_those_of_the_names(archive, tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        "analyze",
        str(archive[0]),
        "--out",
        str(out),
        "--outputs",
        "[]",
        "--samples",
        "0",
        "--workers",
        "1",
    ]
    assert main([*command, "--view", "{p1_A4C: A2C, p1_A2C: A4C}"]) == 1  # a broken file
    views = {row["view"]: row["view_given"] for row in rows(out / "loops.csv") if row["status"] == "measured"}
    assert views == {"A2C": "True", "A4C": "True"}
    assert main([*command, "--view", "{p1_A4C: A4C}"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--view", "{p1: A4C, A2C: A2C}", "--overwrite", "true"]) == 2
    assert "view gives A4C and A2C for p1_A2C.avi" in capsys.readouterr().err
    assert main([*command, "--view", "{p1_A4C:A4C}"]) == 2


def rows(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_of_loops_is_measured_and_a_broken_file_is_listed(archive, tmp_path):
    root, clips = archive
    out, key, told = tmp_path / "out", tmp_path / "key.csv", []
    with pytest.raises(SkippedError, match="skipped 2 of 4 files"):
        analyze_files(
            [root],
            out,
            FAST,
            patient=r"(?P<patient>p\d)",
            key=key,
            workers=1,
            progress=lambda share, _: told.append(share),
        )
    assert told == sorted(told)
    assert {0, 1} <= {int(3 * share) for share in told}  # the files are thirds
    assert max(told) < 1
    loops, patients = rows(out / "loops.csv"), rows(out / "patients.csv")
    assert len(loops) == 2
    assert {row["status"] for row in loops} == {"measured"}
    assert len(patients) == 1
    assert abs(float(loops[0]["ef_percent"]) - clips[0].ef_percent) < 30
    assert len(rows(out / "frames.csv")) == 48
    assert "broken" not in (out / "failures.csv").read_text()
    linked = {row["file"]: row["loop"] for row in rows(key)}
    assert set(linked) == {str(path) for path in root.iterdir()}
    assert linked[str(root / "notes.txt")] == next(
        row["file"] for row in rows(out / "failures.csv") if "neither" in row["reason"]
    )
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


def test_an_interrupted_run_continues_with_unfinished_files(archive, whole, tmp_path, monkeypatch):
    root, _ = archive
    parts = tmp_path / "parts"
    inputs = sorted(root.glob("p1*"))
    work = Worker.__call__
    calls = []

    def stopped(self, source, progress):
        if calls:
            raise KeyboardInterrupt
        calls.append(source.name)
        return work(self, source, progress)

    monkeypatch.setattr(Worker, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        analyze_files(inputs, parts, FAST, workers=1)
    done = []
    monkeypatch.setattr(Worker, "__call__", lambda self, *given: done.append(given[0].name) or work(self, *given))
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


def test_several_processes_give_the_same_tables_as_one(archive, whole, tmp_path):
    told = []
    out = tmp_path / "two"
    analyze_files(sorted(archive[0].glob("p1*")), out, FAST, workers=2, progress=lambda *one: told.append(one))
    assert told[-2:] == [(0.5, "1 of 2 files"), (1.0, "2 of 2 files")]
    assert (whole / "frames.csv").read_bytes() == (out / "frames.csv").read_bytes()


def test_invalid_requests_are_refused_before_anything_is_written(archive, tmp_path):
    root, _ = archive
    out = tmp_path / "out"
    with pytest.raises(ParameterError, match="outside"):
        analyze_files([root], out, FAST, key=out / "key.csv")
    with pytest.raises(ParameterError, match="the folder of the input"):
        analyze_files([root], root, FAST)
    with pytest.raises(DataError, match="no such"):
        analyze_files([root], out, AnalysisSettings(model="alan-simm"))
    with pytest.raises(DataError, match="no such file or folder"):
        analyze_files([root / "nothing"], out, FAST)
    assert not out.exists()


@pytest.mark.parametrize(
    ("n", "said"), [(1, "1 file left out: neither"), (2, "2 files left out, the first: neither")]
)
def test_a_folder_without_loops_is_refused_with_the_reason(tmp_path, n, said):
    (tmp_path / "notes").mkdir()
    for number in range(n):
        (tmp_path / "notes" / f"{number}.txt").write_text("no loop")
    with pytest.raises(DataError, match=f"no loop is found; {said}"):
        analyze_files([tmp_path / "notes"], tmp_path / "out", FAST)


def test_another_configuration_needs_overwrite(archive, tmp_path):
    root, _ = archive
    inputs = sorted(root.glob("p1_A4C*"))
    analyze_files(inputs, tmp_path / "out", FAST, workers=1)
    other = AnalysisSettings(loop=LoopSettings(view="A2C", samples=0), outputs=("png",))
    with pytest.raises(ConfigError):
        analyze_files(inputs, tmp_path / "out", other, workers=1)
    found = analyze_files(inputs, tmp_path / "out", other, workers=1, overwrite=True)
    assert next(found.loops).view.view == "A2C"


def test_analyze_takes_files_first_and_exits_with_1_for_a_broken_file(archive, tmp_path, capsys):
    root, _ = archive
    args = [str(root / "p1_A4C.avi"), str(root / "p2_broken.avi"), "--out", str(tmp_path / "out")]
    assert main(["analyze", *args, "--view", "A4C", "--outputs", "[png]", "--workers", "1"]) == 1
    state = [json.loads(path.read_text()) for path in (tmp_path / "out" / "sources").iterdir()]
    assert sorted(bool(one["failure"]) for one in state) == [False, True]
    assert main(["analyze", str(tmp_path / "none"), "--out", str(tmp_path / "o"), "--view", "A4C"]) == 2
    assert "no such file or folder" in capsys.readouterr().err


def made_folder(folder, n_patients, n_loops=2):
    """Results of loops as a run leaves them, with the sources and states that they come from."""
    sources, states = [], {}
    for patient, loop in itertools.product(range(n_patients), range(n_loops)):
        name = f"p{patient}_{loop}"
        sources.append(Source(folder / f"{name}.avi", f"p{patient}", name))
        states[name] = {"loops": [name], "left_out": None, "failure": None}
        result = made_result(name=name, patient=f"p{patient}", view=ViewEvidence(("A4C", "A2C")[loop % 2], 1.0))
        result.to_json(folder / "loops" / name / "result.json")
        np.savez_compressed(folder / "loops" / name / LABELS, labels=made_labels(20))
    return sources, states


def test_writing_tables_keeps_one_patient_in_memory(tmp_path, monkeypatch):
    sources, states = made_folder(tmp_path, 12)
    read, alive, most = LoopResult.from_json.__func__, weakref.WeakSet(), []

    def counted(cls, path):
        result = read(cls, path)
        alive.add(result.frames[0])
        most.append(len(alive))
        return result

    monkeypatch.setattr(FrameResult, "__hash__", object.__hash__)
    monkeypatch.setattr(LoopResult, "from_json", classmethod(counted))
    found, n_measured = run._collect(tmp_path, sources, states, [("file_1", "no loop")])
    write_tables(tmp_path, found.loops, found.patients)
    write_analysis_report(tmp_path)
    assert n_measured == len(found.names) == 24
    assert [patient.method for patient in found.patients] == ["biplane"] * 12
    assert found.left_out == (("file_1", "no loop"),)
    assert len(most) >= 4 * 24  # patients, tables, first page, pages of the patients
    assert max(most) <= 6  # those of a patient, of the one before, and the loop that was read last


def test_tables_follow_the_order_of_files_and_patients(tmp_path):
    sources, states = made_folder(tmp_path, 3)
    mixed = [sources[n] for n in (3, 0, 5, 1, 4, 2)]
    left_out = replace(made_result(name="p1_0", patient="p1"), status="left out", reason="the view is other")
    left_out.to_json(tmp_path / "loops" / "p1_0" / "result.json")
    found, n_measured = run._collect(tmp_path, mixed, states, [])
    assert [loop.loop for loop in found.loops] == list(found.names) == [source.name for source in mixed]
    assert [patient.patient for patient in found.patients] == ["p0", "p1", "p2"]
    assert (n_measured, found.left_out) == (5, (("p1_0", "the view is other"),))


def test_results_of_changed_or_deleted_files_are_removed(tmp_path):
    sources, states = made_folder(tmp_path, 2)
    for patient in ("p0", "p1"):
        (tmp_path / "patients" / patient).mkdir(parents=True)
        (tmp_path / "patients" / patient / "report.html").touch()
    (tmp_path / "loops" / "notes").mkdir()
    states["p0_1"]["loops"] = []  # it shows something else now
    run._remove_others(tmp_path, sources[:2], states)
    assert sorted(path.name for path in (tmp_path / "loops").iterdir()) == ["notes", "p0_0"]
    assert [path.name for path in (tmp_path / "patients").iterdir()] == ["p0"]


@pytest.mark.parametrize("available", [False, True])
def test_the_network_is_moved_to_the_device_that_is_asked_for(tmp_path, monkeypatch, available):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    for device, kind in (("cpu", "cpu"), ("auto", "cuda" if available else "cpu")):
        model = stand_in()
        assert Worker(tmp_path, FAST, model, device).model is model
        assert model.device == torch.device(kind)


def test_a_device_that_is_missing_is_refused_before_the_work(archive, tmp_path):
    with pytest.raises(ParameterError, match="device is 'abacus', which cannot be used here: give"):
        analyze_files([archive[0]], tmp_path / "out", FAST, device="abacus")
    assert not (tmp_path / "out").exists()


def test_onnxruntime_stays_on_the_processor():
    model = AnalysisModel.load("alan-sim")
    assert model.to(torch.device("cpu")) is model
    model.parcels = OnnxParcels.__new__(OnnxParcels)
    assert model.to(torch.device("cpu")) is model
    with pytest.raises(ConfigError, match="device is 'cuda' with the runtime onnx, which uses the processor"):
        model.to(torch.device("cuda"))


def test_files_that_another_version_analyzed_are_analyzed_again(tmp_path, monkeypatch):
    (tmp_path / "a.avi").write_bytes(b"RIFF")
    source = Source(tmp_path / "a.avi", "p1", "p1_1")
    worker = Worker(tmp_path / "out", FAST, stand_in())
    monkeypatch.setattr(worker_module, "open_loops", Mock(return_value=[]))
    worker(source)
    assert finished_state(tmp_path / "out", source) is not None
    monkeypatch.setattr(worker_module, "__version__", "99.0")
    assert finished_state(tmp_path / "out", source) is None
    for text in ("{", "{}", "[]", "1", '{"loops": 1}', '{"loops": [1]}'):
        worker_module.state_file(tmp_path / "out", source).write_text(text)
        assert finished_state(tmp_path / "out", source) is None


def test_changed_pixels_of_a_header_are_analyzed_again(tmp_path, monkeypatch):
    (tmp_path / "a.mhd").write_bytes(metaimage(np.zeros((1, 32, 32), np.uint8), "a.raw"))
    (tmp_path / "a.raw").write_bytes(bytes(1024))
    source = Source(tmp_path / "a.mhd", "p1", "p1_1")
    worker = Worker(tmp_path / "out", FAST, stand_in())
    monkeypatch.setattr(worker_module, "open_loops", Mock(return_value=[]))
    worker(source)
    assert finished_state(tmp_path / "out", source) is not None
    (tmp_path / "a.raw").write_bytes(bytes(1025))
    assert finished_state(tmp_path / "out", source) is None


def test_at_most_ten_neighbours_are_drawn(tmp_path, monkeypatch):
    worker = Worker(tmp_path, FAST, stand_in())
    found = LoopAnalysis(LoopResult("loop1", "p1", "left out"), thumbnails=np.zeros((25, 28, 28), np.uint8))
    monkeypatch.setattr(worker_module, "analyze_loop", lambda *args: found)
    worker._loop(SimpleNamespace(name="loop1", simulated=False, stage="", references=lambda keep: None))
    with Image.open(tmp_path / "loops" / "loop1" / "neighbours.png") as picture:
        assert picture.size == (280, 28)


def test_a_deleted_file_does_not_stop_the_others(tmp_path):
    model = stand_in()
    worker = Worker(tmp_path / "out", FAST, model)
    name = "smith_a4c.avi"
    state = worker(Source(tmp_path / name, "p1", "p1_1"))
    assert state["loops"] == []
    assert "no such video" in state["failure"]
    assert "smith" not in json.dumps(state)


def test_an_error_in_writing_results_ends_the_run(tmp_path, monkeypatch):
    source = Source(tmp_path / "a.avi", "p1", "p1_1")
    worker = Worker(tmp_path / "out", FAST, stand_in())

    def fail(path):
        def opened(*args, **kwargs):
            raise PermissionError(13, "Permission denied", str(path))

        return opened

    monkeypatch.setattr(worker_module, "open_loops", fail(source.path))
    assert (
        worker(source)["failure"] == "cannot be read (Permission denied); change its permissions, or copy it again"
    )
    monkeypatch.setattr(worker_module, "open_loops", fail(tmp_path / "out" / "loops"))
    with pytest.raises(PermissionError):
        worker(source)


def test_an_unexpected_error_is_listed_and_its_traceback_goes_to_the_log_only(tmp_path, monkeypatch, caplog):
    (tmp_path / "DOE_JANE.avi").write_bytes(b"RIFF")
    model = stand_in(bank=object())
    monkeypatch.setattr(AnalysisModel, "load", lambda *args: model)
    monkeypatch.setattr(worker_module, "open_loops", Mock(side_effect=AttributeError("DOE_JANE has no pixels")))
    out = tmp_path / "out"
    caplog.set_level("DEBUG", "alan")
    with pytest.raises(SkippedError, match="skipped 1 of 1"):
        analyze_files([tmp_path / "DOE_JANE.avi"], out, FAST, workers=1)
    (row,) = rows(out / "failures.csv")
    assert re.match(
        r"caused an unexpected error \(AttributeError in \w+\.py, line \d+\): report it", row["reason"]
    )
    assert "DOE_JANE has no pixels" in caplog.text
    assert not any(b"DOE" in path.read_bytes() for path in out.rglob("*") if path.is_file())
    monkeypatch.setattr(worker_module, "open_loops", Mock(side_effect=MemoryError()))
    with pytest.raises(MemoryError):
        analyze_files([tmp_path / "DOE_JANE.avi"], out, FAST, workers=1)


def test_too_many_open_files_end_the_run(tmp_path, monkeypatch):
    write_loop(tmp_path / "a.avi", 5, "A4C")
    source = Source(tmp_path / "a.avi", "p1", "p1_1")
    worker = Worker(tmp_path / "out", FAST, stand_in())
    for name in ("av.open", "pathlib.Path.open"):
        with monkeypatch.context() as patch:
            patch.setattr(name, Mock(side_effect=OSError(24, "Too many open files", str(source.path))))
            with pytest.raises(OSError, match="Too many open files"):
                worker(source)
    with monkeypatch.context() as patch:
        patch.setattr("av.open", Mock(side_effect=OSError(5, "Input/output error", str(source.path))))
        assert "cannot be" in worker(source)["failure"]
    assert finished_state(tmp_path / "out", source) is None  # the same command tries it again


def test_an_error_in_one_process_cancels_the_remaining_files(tmp_path, monkeypatch):
    started, go_on = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def __init__(self, n, context, initializer, arguments):
            super().__init__(1)

        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            go_on.set()
            super().shutdown(wait=wait)

    def work(source):
        started.append(source.name)
        if len(started) == 1:
            raise OSError(28, "No space left on device")
        go_on.wait(30)
        return {}

    monkeypatch.setattr(workers, "_Pool", Pool)
    monkeypatch.setattr(run, "_work", work)
    sources = [Source(tmp_path / f"{n}.avi", f"p{n}", f"p{n}_1") for n in range(10)]
    with pytest.raises(OSError, match="No space"):
        run._analyze_all(sources, tmp_path, FAST, model=None, workers=2, device="cpu", progress=no_progress)
    assert len(started) <= 2
