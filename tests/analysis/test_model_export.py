"""An exported folder contains the same model, and onnxruntime and PyTorch give the same measurements."""

import csv
import json
import shutil

import numpy as np
import pytest

from alan.analysis import AnalysisModel, LoopSettings, analyze_loop, export_model, find_sources, open_loops
from alan.analysis.loop_analysis import _is_contradicted
from alan.cli.main import main
from alan.data.simulator import simulate_sequence
from alan.data.simulator.layouts import write_avi
from alan.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """alan-sim, exported by the command line and moved."""
    first = tmp_path_factory.mktemp("export")
    assert main(["export", "alan-sim", "--out", str(first / "model")]) == 0
    return shutil.move(first / "model", first / "moved")


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loops")
    for seed, view in enumerate(("A4C", "A2C"), start=5):
        clip = simulate_sequence(view, seed, n_frames=24, beats=1.2, size=(160, 200), seed=seed)
        write_avi(folder / f"{view}.avi", clip.frames, clip.fps)
    return folder


def test_an_exported_folder_loads_as_the_same_model(exported):
    shipped, moved = AnalysisModel.load("alan-sim"), AnalysisModel.load(exported)
    assert moved.fingerprint == shipped.fingerprint
    assert moved.runtime.startswith("torch ")
    assert list(moved.views) == list(shipped.views)
    by_name = AnalysisModel.load(exported / "alan-sim.model.json", "onnx")
    assert by_name.fingerprint == shipped.fingerprint
    assert by_name.runtime.startswith("onnxruntime ")


def test_both_runtimes_give_the_same_parcels_views_and_masks(exported, loops):
    models = [AnalysisModel.load(exported, runtime) for runtime in ("torch", "onnx")]
    for source in find_sources([loops])[0]:
        (loop,) = open_loops(source)
        one, two = (analyze_loop(loop, model, LoopSettings(samples=4), {}) for model in models)
        assert one.evidence is not None
        assert two.evidence is not None
        assert (one.evidence.maps == two.evidence.maps).mean() >= 0.999
        assert len(np.unique(one.evidence.maps)) > 8
        assert (one.labels == two.labels).mean() >= 0.999
        assert one.result.view.view == two.result.view.view
        assert one.result.view.neighbours == two.result.view.neighbours
        assert one.result.ef_percent.value == pytest.approx(two.result.ef_percent.value, abs=0.5)


def test_both_runtimes_doubt_the_same_views(exported):
    clip = simulate_sequence("A4C", 6, n_frames=2, size=(112, 112), seed=6).frames
    for model in (AnalysisModel.load(exported, runtime) for runtime in ("torch", "onnx")):
        assert [model.bank.looks_mirrored(frames) for frames in (clip, clip[..., ::-1])] == [False, True]
        assert [_is_contradicted(model, view, clip) for view in ("A4C", "PSAX")] == [False, True]


def test_analyze_runs_onnxruntime_on_request_and_records_it(exported, loops, tmp_path, capsys):
    out = tmp_path / "out"
    args = ["analyze", str(loops / "A4C.avi"), "--out", str(out), "--outputs", "[png]", "--samples", "0"]
    args += ["--model", str(exported)]
    assert main([*args, "--runtime", "onnx"]) == 0
    (result,) = (json.loads(path.read_text()) for path in out.glob("loops/*/result.json"))
    assert result["provenance"]["runtime"].startswith("onnxruntime ")
    with (out / "loops.csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["measured"]
    assert "onnxruntime" in next(out.glob("patients/*/report.html")).read_text()
    capsys.readouterr()
    assert main([*args, "--runtime", "torch"]) == 2
    assert "settings.runtime" in capsys.readouterr().err


def test_a_model_without_a_program_is_exported_to_the_user_cache(exported, tmp_path, monkeypatch):
    written, shipped = [], AnalysisModel.load("alan-sim")
    folders = {shipped.parcels.fingerprint: exported}
    folders |= {other.parcels.fingerprint: exported / "others" / name for name, other in shipped.others.items()}

    def write(model, path, size):
        written.append((model.fingerprint, size))
        path.parent.mkdir(parents=True, exist_ok=True)
        for end in ("", ".json"):
            shutil.copy(f"{folders[model.fingerprint] / 'network.onnx'}{end}", f"{path}{end}")

    monkeypatch.setattr("alan.export.runtime.write_program", write)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    AnalysisModel.load("alan-sim", "onnx")
    assert sorted(written) == sorted((name, 112) for name in folders)
    again = AnalysisModel.load("alan-sim", "onnx")
    assert all(one.runtime.startswith("onnxruntime ") for one in (again, again.of("PLAX"), again.of("PSAX")))
    assert len(written) == 3


def test_a_repeated_export_does_nothing_and_a_different_one_is_refused(exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "copy")
    before = (out / "network.onnx").stat().st_mtime_ns
    assert export_model("alan-sim", str(out)) == out / "network.onnx"
    assert (out / "network.onnx").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="format"):
        export_model("alan-sim", str(out), format="torch")


def test_parcels_alone_are_exported_with_their_weights(tiny, tmp_path):
    path = export_model(tiny.parcels(), str(tmp_path / "out"), format="torch")
    assert path == tmp_path / "out" / "network.pt2"
    found = sorted(file.name for file in (tmp_path / "out").iterdir() if file.suffix in (".safetensors", ".json"))
    assert found == ["backbone.safetensors", "network.pt2.json", "parcels.safetensors", "run.json"]
    with pytest.raises(DataError, match="holds 0 manifests"):
        AnalysisModel.load(tmp_path / "out")


def test_an_unknown_model_offers_the_nearest(tmp_path, capsys):
    assert main(["export", "alan-simm", "--out", str(tmp_path / "out")]) == 2
    assert "alan-sim" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_small_model_has_a_manifest(tmp_path):
    model = AnalysisModel.load("alan-sim-small")
    assert (list(model.views), model.bank) == (["A4C"], None)
    assert model.structures("A4C") == ("lv", "myo", "la")
    model.save(tmp_path, "own")
    again = AnalysisModel.load(tmp_path)
    assert again.fingerprint == model.fingerprint
    assert again.views["A4C"]["la"].ed is again.views["A4C"]["la"].es  # one white box for the whole beat
    assert (tmp_path / "boxes" / "A4C-la.json").is_file()
