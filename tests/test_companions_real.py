"""The four companion studies and the shipped model on a few real patients; skipped without the real frames."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import alan as package
from alan.data.store.reader import FrameStore
from alan.downstream.members import load_ensemble
from alan.evaluation.metrics import dice

pytestmark = pytest.mark.real

DEFAULT = Path(__file__).parents[1].parent / "shared" / "data"
SUPERVISED = Path(__file__).parents[1] / "configs" / "supervised"


def prepare(alan, folder, source, names, **options):
    root = Path(os.environ.get("ALAN_REAL_DATA", DEFAULT)) / source
    if not root.is_dir():
        pytest.skip(f"no real frames in {root}")
    archive, out = folder / "archive", folder / "store.h5"
    archive.mkdir()
    for path in root.iterdir():
        if path.name.startswith(names):
            (archive / path.name).symlink_to(path.resolve())
    args = [x for name, value in options.items() for x in (f"--{name}", value)]
    ran = alan("prepare", "--root", archive, "--out", out, *args)
    assert ran.code == 0, ran.err
    return out


@pytest.fixture
def acdc(alan, tmp_path):
    names = ("patient003_", "patient006_", "patient010_")
    split = {"train": "3", "val": "6", "test": "10"}
    return prepare(alan, tmp_path, "ACDC/slices", names, kind="acdc", split=json.dumps(split), size=64)


@pytest.fixture
def camus(alan, tmp_path):
    names = tuple(f"patient{n:04d}" for n in (1, 2, 3, 301, 351, 352))
    split = {"train": "1-300", "val": "301-350", "test": "351-400"}
    return prepare(alan, tmp_path, "CAMUS/database_nifti", names, kind="camus", split=json.dumps(split))


def test_unet_and_ensemble_segment_real_acdc(alan, acdc, tmp_path):
    members = {}
    for name in ("unet_tiny_acdc_4class", "ensemble_tiny_linknet"):
        out = tmp_path / name
        args = ["--data.init_args.stores", json.dumps([str(acdc)]), "--trainer.max_epochs", 1]
        ran = alan(
            "fit", "--config", SUPERVISED / f"{name}.yaml", "--out", out, *args, "--trainer.precision=32-true"
        )
        assert ran.code == 0, ran.err
        members[name] = str(out / "segmenter.safetensors")
    options = ["--store", acdc, "--members", json.dumps(members), "--out", tmp_path / "ensemble", "--trials", 5]
    ran = alan("ensemble", *options)
    assert ran.code == 0, ran.err
    path = tmp_path / "ensemble" / "ensemble.json"
    assert set(load_ensemble(path).members) == set(members)
    networks = {**members, "ensemble": str(path)}
    ran = alan(
        "evaluate",
        *(
            "--out",
            tmp_path / "run",
            "--segmentation.store",
            acdc,
            "--segmentation.structures",
            '["rv", "myo", "lv"]',
        ),
        *("--segmentation.networks", json.dumps(networks), "--segmentation.label_split", "val"),
    )
    assert ran.code == 0, ran.err
    rows = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["segmentation"]["rows"]
    assert set(networks) <= {row["method"] for row in rows}


def test_search_and_active_learning_run_on_real_camus(alan, camus, tmp_path):
    configs = SUPERVISED.parent
    args = [
        f"--data.stores={json.dumps([str(camus)])}",
        "--data.label_patients=null",
        "--study.n_trials=1",
    ]
    args += ["--space.encoders=[mobilenet_v2]", "--space.decoders=[unet]", "--training.epochs=1"]
    args += ["--space.batch_sizes=[2]", "--study.val_every=1"]
    ran = alan("search", "--config", configs / "search" / "camus_tiny.yaml", "--out", tmp_path / "search", *args)
    assert ran.code == 0, ran.err
    assert (tmp_path / "search" / "best.yaml").is_file()

    args = ["--data.store", camus, "--training.network.decoder_channels=[4,8,16]", "--training.steps=1"]
    args += ["--loop.seeds=[0]", "--loop.initial=2", "--loop.per_phase=1", "--loop.phases=2", "--loop.passes=2"]
    ran = alan(
        "active", "run", "--config", configs / "active" / "camus_tiny.yaml", "--out", tmp_path / "active", *args
    )
    assert ran.code == 0, ran.err
    assert (tmp_path / "active" / "report.html").is_file()


def test_the_shipped_model_finds_real_ventricles(camus):
    store = FrameStore(camus)
    table = store.labelled("train")  # not the patients whose figures are reported
    maps = package.load_parcels("alan-sim-small-parcels").maps(store.frames(table["frame"].to_numpy())).numpy()
    for structure, floor in (("lv", 0.75), ("myo", 0.55), ("la", 0.6)):
        found = package.ParcelSegmenter.from_json(f"alan-sim-small-{structure}").predict(maps)
        scores = dice(found, store.masks(table["label"].to_numpy(), structure))
        assert np.nanmean(scores) > floor, structure
