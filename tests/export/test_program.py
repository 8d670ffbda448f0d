"""Exported programs equal the model, and damaged or foreign ones are refused."""

import json
import resource
import sys

import numpy as np
import pytest
import torch
from torch import nn

from alan.backbone.load import load_backbone
from alan.errors import CheckpointError, ConfigError, ParameterError
from alan.export import OnnxParcels, cached_program, open_program, runtime, write_program
from alan.export import program as programs
from alan.files import digest
from alan.parcels.heads import RaptorHead
from alan.parcels.model import ParcelModel, load_parcels

SIZE = 40  # resized to the 32 px of the backbone by the program


def frames(n, size=SIZE, seed=1):
    """Frames with black corners, so that the sector counts."""
    rows, columns = np.indices((size, size))
    inside = abs(columns - size / 2) < rows / 2
    return np.where(inside, np.random.default_rng(seed).integers(0, 256, (n, size, size)), 0).astype(np.uint8)


@pytest.fixture(scope="module")
def overlapping(tiny):
    """Parcels on overlapping patches."""
    backbone = load_backbone(tiny.backbone(), stride=4)
    return ParcelModel(backbone, RaptorHead(backbone.dim, 12, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def onnx(tiny, tmp_path_factory):
    """The ONNX program of the tiny parcels, and its description."""
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    return path, write_program(load_parcels(tiny.parcels()), path, SIZE)


def test_onnx_equals_the_model_for_any_number_of_frames(tiny, onnx):
    model, (path, record) = load_parcels(tiny.parcels()), onnx
    running = open_program(path, model)
    assert isinstance(running, OnnxParcels)
    assert running.fingerprint == model.fingerprint == record["parcels"]
    for n in (1, 5):
        batch = frames(n)
        for found, wanted in (
            (running.logits(batch), model.logits(batch)),
            (running.backbone(batch).cls, model.backbone(batch).cls),
            (running.backbone(batch).tokens, model.backbone(batch).tokens),
            (running.backbone.pooled(batch), model.backbone.pooled(batch)),
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        maps, wanted = running.maps(batch), model.maps(batch)
        assert (maps == wanted).float().mean() >= 0.999
        assert (maps == model.background_id).any()  # the sector is found as before
        assert torch.equal(running.backbone.sector(batch), model.backbone.sector(batch))


def test_the_description_lists_inputs_outputs_and_hash(tiny, onnx):
    path, record = onnx
    assert json.loads((path.parent / "tiny.onnx.json").read_text()) == record
    assert record["sha256"] == digest(path)
    assert record["inputs"] == {"frames": {"dtype": "uint8", "shape": ["batch", SIZE, SIZE]}}
    assert [output["shape"] for output in record["outputs"].values()] == [
        ["batch", 16],
        ["batch", 16],
        ["batch", 4, 4, 16],
        ["batch", 12, 4, 4],
    ]
    assert record["deviation"] < 1e-4
    assert set(record["versions"]) == {"alan", "torch", "onnx", "onnxruntime", "onnxscript"}


def test_torch_export_runs_without_this_package(overlapping, tmp_path):
    record = write_program(overlapping, tmp_path / "tiny.pt2")
    assert record["inputs"]["frames"]["shape"] == ["batch", 32, 32]
    batch = torch.from_numpy(frames(4, 32))
    pooled, cls, tokens, logits = torch.export.load(tmp_path / "tiny.pt2").module()(batch)
    features = overlapping.backbone(batch)
    assert features.tokens.shape == (4, 7, 7, 16)
    for found, wanted in zip((cls, tokens, logits), (*features, overlapping.logits(batch)), strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(pooled, overlapping.backbone.pooled(batch))
    with pytest.raises(CheckpointError, match="no ONNX program"):
        open_program(tmp_path / "tiny.pt2", overlapping)


def test_a_file_size_limit_raises_an_error(tmp_path):
    frames = torch.zeros(1, 100)
    exported, (_, most) = (
        torch.export.export(nn.Linear(100, 100), (frames,)),
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, most))
    try:
        with pytest.raises(OSError, match="too large"):
            programs._write_torch(exported, tmp_path / "a.pt2", frames, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_a_deviating_program_is_not_written(overlapping, tmp_path, monkeypatch):
    monkeypatch.setattr(
        programs, "_write_torch", lambda exported, path, batch, shapes: [x + 1 for x in exported.module()(batch)]
    )
    with pytest.raises(CheckpointError, match="deviates from the model by"):
        write_program(overlapping, tmp_path / "tiny.pt2")
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_exported_is_refused_in_one_line(overlapping, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no such operator\nand many more lines")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(CheckpointError, match=r"cannot export the model \(no such operator\)") as error:
        write_program(overlapping, tmp_path / "tiny.pt2")
    assert "\n" not in str(error.value)


def test_wrong_frames_and_wrong_paths_are_refused(tiny, onnx, tmp_path):
    running = open_program(onnx[0], load_parcels(tiny.parcels()))
    with pytest.raises(ParameterError, match=r"takes uint8 \(B, 40, 40\)"):
        running.logits(frames(2, 32))
    with pytest.raises(ParameterError, match=r"ends in \.onnx or \.pt2"):
        write_program(running, tmp_path / "tiny.pb")


def test_foreign_and_damaged_programs_are_refused(tiny, onnx, overlapping, tmp_path):
    model, (path, record) = load_parcels(tiny.parcels()), onnx
    with pytest.raises(CheckpointError, match="exported from the parcels"):
        open_program(path, overlapping)
    with pytest.raises(CheckpointError, match="describes no exported program"):
        open_program(tmp_path / "none.onnx", model)
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(path.read_bytes()[:-100])
    (tmp_path / "copy.onnx.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="damaged or changed"):
        open_program(copy, model)
    (tmp_path / "copy.onnx.json").write_text(json.dumps(record | {"schema": "another/1"}))
    with pytest.raises(CheckpointError, match="another/1"):
        open_program(copy, model)


def test_a_model_is_exported_once_per_user(tiny, onnx, tmp_path, monkeypatch):
    calls = []

    def write(model, path, size):
        calls.append(size)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(onnx[0].read_bytes())
        path.with_name(f"{path.name}.json").write_text(json.dumps(onnx[1]))

    monkeypatch.setattr(runtime, "write_program", write)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = load_parcels(tiny.parcels())
    path = cached_program(model, SIZE)
    assert path.is_relative_to(tmp_path)
    assert cached_program(model, SIZE) == path
    assert calls == [SIZE]
    path.write_bytes(b"damaged")
    assert cached_program(model, SIZE) == path
    assert calls == [SIZE, SIZE]
    assert open_program(path, model).fingerprint == model.fingerprint


@pytest.mark.parametrize("module", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_extra_is_reported_in_one_line(tiny, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{module} is not installed: pip install 'alan-echo\[onnx\]'"):
        write_program(load_parcels(tiny.parcels()), tmp_path / "tiny.onnx")
    assert not list(tmp_path.iterdir())
