"""On a CUDA device: masks as on the CPU, and runs that move between the devices."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from alan.analysis.overlay import write_mp4
from alan.backbone.dino.module import DINOModule
from alan.data.simulator import simulate_sequence
from alan.data.store.reader import FrameStore

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DINO = {
    "class_path": "alan.backbone.DINOModule",
    "init_args": {
        "network": {"image_size": 32, "patch_size": 8, "in_chans": 1, "dim": 16, "depth": 1, "heads": 2},
        "crops": {"global_size": 32, "local_size": 16, "n_local": 2},
        "outputs": 32,
        "hidden": 16,
        "bottleneck": 8,
    },
}
UNET = {
    "class_path": "alan.supervised.SegmentationModule",
    "init_args": {
        "structures": ["lv", "la"],
        "losses": {"cross_entropy": 1.0, "dice": 1.0},
        "network": {"decoder": "unet_acdc", "encoder": None, "in_channels": 1, "decoder_channels": [4, 8]},
        "augmentation": "echo",
    },
}


def fit(alan, path, model, data, store, code=0, **trainer):  # noqa: PLR0917
    settings = {
        "seed_everything": 0,
        "model": model,
        "data": {"class_path": data, "init_args": {"stores": [store], "batch_size": 4}},
        "trainer": {"max_epochs": -1, "max_steps": 6, "log_every_n_steps": 1, **trainer},
        "checkpoint_every": 3,
    }
    if model is UNET:
        settings["data"]["init_args"]["structures"] = UNET["init_args"]["structures"]
    path.with_suffix(".yaml").write_text(json.dumps(settings), encoding="utf-8")
    ran = alan("fit", "--config", path.with_suffix(".yaml"), "--out", path)
    assert ran.code == code, ran.err
    return path


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]


@pytest.mark.parametrize(("model", "data"), [(DINO, "FrameDataModule"), (UNET, "LabelledFrameDataModule")])
def test_a_training_on_a_gpu_opens_on_a_cpu(tiny, alan, tmp_path, model, data):
    """As many steps, finite losses, and weights that open on a machine without a GPU."""
    runs = {
        name: fit(
            alan,
            tmp_path / name,
            model,
            f"alan.data.{data}",
            tiny.store("camus"),
            accelerator=name,
            precision="32-true",
        )
        for name in ("cpu", "gpu")
    }
    on_cpu, on_gpu = losses(runs["cpu"]), losses(runs["gpu"])
    assert len(on_gpu) == len(on_cpu) == 6
    assert np.isfinite(on_gpu).all()
    weights = {name: load_file(next(run.glob("*.safetensors"))) for name, run in runs.items()}
    assert weights["gpu"].keys() == weights["cpu"].keys()
    assert {value.device.type for value in weights["gpu"].values()} == {"cpu"}


def test_a_run_moves_to_a_machine_without_a_gpu(tiny, alan, tmp_path, monkeypatch):
    """With ``accelerator: auto``, a run that was interrupted on a GPU is continued on a CPU."""
    step = DINOModule.training_step

    def interrupted(self, batch, batch_idx):
        if self._batches == 4:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    options = ("alan.data.FrameDataModule", tiny.store("camus"))
    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(DINOModule, "training_step", interrupted)
        fit(alan, tmp_path / "run", DINO, *options, code=130, accelerator="auto", precision="32-true")
    signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    command = [sys.executable, "-m", "alan", "fit", "--config", tmp_path / "run.yaml", "--out", tmp_path / "run"]
    subprocess.run(command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    assert len(losses(tmp_path / "run")) == 6


def test_masks_equal_those_of_the_cpu(tiny, alan, tmp_path, monkeypatch):
    network = fit(
        alan, tmp_path / "net", UNET, "alan.data.LabelledFrameDataModule", tiny.store("camus"), accelerator="gpu"
    )
    (tmp_path / "in").mkdir()
    for number, frame in enumerate(FrameStore(tiny.store("camus")).frames(range(8))):
        Image.fromarray(frame).save(tmp_path / "in" / f"{number}.png")
    models = {
        "network": ["--network", network / "segmenter.safetensors"],
        "boxes": ["--parcels", tiny.parcels(), "--white_boxes", f"[{tiny.white_box('lv')}]"],
    }
    for name, options in models.items():
        masks = []
        for device in ("cuda", "cpu"):
            with monkeypatch.context() as patch:
                if device == "cpu":
                    patch.setattr(torch.cuda, "is_available", lambda: False)
                ran = alan("segment", "--input", tmp_path / "in", *options, "--out", tmp_path / name / device)
            assert ran.code == 0, ran.err
            paths = sorted((tmp_path / name / device / "masks").glob("*.png"))
            masks.append(np.stack([np.asarray(Image.open(path)) for path in paths]))
        assert masks[0].shape == masks[1].shape
        assert (masks[0] == masks[1]).mean() > 0.999


def test_an_analysis_equals_that_of_the_cpu(alan, tmp_path):
    clip = simulate_sequence("A4C", 3, n_frames=24, beats=1.2, size=160, seed=3)
    with write_mp4(tmp_path / "a4c.mp4", clip.frames.shape[1:], 25) as write:
        for frame in clip.frames:
            write(np.repeat(frame[..., None], 3, -1))
    command, labels = ["analyze", tmp_path / "a4c.mp4", "--view=A4C", "--outputs=[png]"], []
    for device in ("cpu", "cuda"):
        ran = alan(*command, "--out", tmp_path / device, "--device", device)
        assert ran.code == 0, ran.err
        (path,) = (tmp_path / device).glob("loops/*/labels.npz")
        labels.append(np.load(path)["labels"])
    assert (labels[0] == labels[1]).mean() > 0.999


def test_parcels_and_white_boxes_of_a_gpu_open_on_the_cpu(tiny, alan, tmp_path):
    store, out = tiny.store("camus"), tmp_path / "parcels"
    parcels = ["parcels", "--store", store, "--backbone", tiny.backbone(), "--n_parcels=8", "--out", out]
    assert alan(*parcels, "--device=cuda").code == 0
    assert "nothing to do" in alan(*parcels).err
    name = ["name", "--parcels", out / "parcels.safetensors", "--store", store, "--structures=[lv]"]
    for device in ("cuda", "cpu"):
        ran = alan(*name, "--share_above=0.02", "--out", tmp_path / device, "--device", device)
        assert ran.code == 0, ran.err
    boxes = [json.loads((tmp_path / device / "lv.json").read_text())["selector"] for device in ("cuda", "cpu")]
    assert boxes[0]["interior"] == boxes[1]["interior"]


def test_a_calibration_equals_that_of_the_cpu(tiny, alan, tmp_path):
    store, boxes, model = tiny.store("camus"), tmp_path / "boxes", tmp_path / "model"
    common, tables = ["--parcels", tiny.parcels()], []
    name = ["name", *common, "--store", store, "--share_above=0.02", "--structures=[lv]", "--out", boxes]
    assert alan(*name).code == 0
    assert alan("assemble", *common, f"--white_boxes=[{boxes}]", "--out", model).code == 0
    for device in ("cuda", "cpu"):
        command = ["calibrate", model, f"--stores=[{store}]", "--split=null", "--samples=5", "--device", device]
        ran = alan(*command, "--out", tmp_path / device)
        assert ran.code == 0, ran.err
        tables.append((tmp_path / device / "calibration.csv").read_text(encoding="utf-8"))
    assert tables[0] == tables[1]
