"""alan ensemble: from fitted networks to a run folder."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from alan.data.store.reader import FrameStore
from alan.downstream.members import load_ensemble
from alan.errors import ConfigError, DataError, ParameterError, SplitLeakError
from alan.evaluation.ensemble import run_ensemble
from alan.supervised.member_predictions import collect
from alan.supervised.segmenter import Segmenter, save_segmenter
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

SMALL = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))


@pytest.fixture(scope="module")
def members(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("members")
    files = {}
    for seed, name in enumerate(("U-Net", "LinkNet", "FPN")):
        raw = untrained_segmenter(SMALL, ["lv", "la"], seed=seed)
        for layer in raw.model.modules():  # opinions that differ from pixel to pixel
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.mul_(3)
        origin = {"stores": [FrameStore(lab / "store.h5").fingerprint], "train_split": "train", "val_split": "val"}
        files[name] = str(folder / f"{seed}.safetensors")
        save_segmenter(Segmenter(raw.model, raw.spec, raw.structures, None, origin), files[name])
    return files


def test_the_folder_is_whole(lab, members, tmp_path, listing):
    out = tmp_path / "run"
    path = run_ensemble(out, str(lab / "store.h5"), members, trials=30)
    assert listing(out) == ["config.yaml", "ensemble.json", "history.csv"]
    one = load_ensemble(path)
    history = pd.read_csv(out / "history.csv")
    assert len(history) == 34
    assert list(history["kind"][:5]) == ["equal", "single", "single", "single", "random"]
    best = history.loc[history["score"].idxmax()]
    for name in members:
        assert one.weights[name] == pytest.approx(best[f"weight {name}"])
    known = one.provenance["validation"]
    assert (known["split"], known["patients"], known["frames"], known["trials"]) == ("val", 3, 6, 30)
    assert known["score"] >= max(known["equal"], *known["members"].values())
    assert yaml.safe_load((out / "config.yaml").read_text())["members"] == members
    # the score is what the written ensemble reaches on those frames, run afresh
    store = FrameStore(lab / "store.h5")
    table = store.labelled(split="val")
    frames = torch.from_numpy(store.frames(table["frame"]))
    labels = torch.from_numpy(store.label_maps(table["label"], ["lv", "la"]))
    fresh = collect({"a": one, "b": one}, [(frames, labels)])
    assert fresh.score(np.ones(2), "iou") == pytest.approx(known["score"], abs=1e-6)


def test_resumed_reused_and_refused(lab, members, tmp_path, monkeypatch):
    store, out = str(lab / "store.h5"), tmp_path / "run"

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("alan.supervised.search_weights.search_weights", stop)
        with pytest.raises(KeyboardInterrupt):
            run_ensemble(out, store, members, trials=5)
    assert (out / "predictions.npz").exists()
    assert not (out / "ensemble.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr("alan.supervised.member_predictions.collect", stop)  # the members are not run again
        path = run_ensemble(out, store, members, trials=5)
        before = path.read_bytes()
        run_ensemble(out, store, members, trials=5)
    assert path.read_bytes() == before
    with pytest.raises(ConfigError, match=r"trials.*overwrite"):
        run_ensemble(out, store, members, trials=6)
    run_ensemble(out, store, members, trials=6, overwrite=True)
    assert len(pd.read_csv(out / "history.csv")) == 10


def test_equal_and_given_weights(lab, members, tmp_path):
    store = str(lab / "store.h5")
    equal = load_ensemble(run_ensemble(tmp_path / "equal", store, members, weights="equal"))
    assert equal.shares() == pytest.approx((1 / 3,) * 3)
    paper = dict(zip(members, (0.97, 0.28, 0.64), strict=True))
    given = load_ensemble(run_ensemble(tmp_path / "given", store, members, weights=paper))
    assert given.weights == paper
    assert list(pd.read_csv(tmp_path / "given" / "history.csv")["kind"])[-1] == "given"
    assert given.provenance["validation"]["equal"] == equal.provenance["validation"]["score"]


def test_settings_change_the_result(lab, members, tmp_path):
    def history(name, **options):
        run_ensemble(tmp_path / name, str(lab / "store.h5"), members, **{"trials": 8, **options})
        return pd.read_csv(tmp_path / name / "history.csv")

    first = history("a")
    assert not first.equals(history("b", seed=1))
    assert not first["score"].equals(history("c", objective="dice")["score"])
    assert not first["score"].equals(history("d", phases=("ED",))["score"])
    assert set(history("e", sampler="tpe")["kind"]) == {"equal", "single", "tpe"}
    assert first.equals(history("f", batch_size=2))


def test_bad_input(lab, members, tmp_path):
    store, out = str(lab / "store.h5"), tmp_path / "run"
    for options, error, message in (
        ({"split": "test"}, ParameterError, "validation cases"),
        ({"split": "train"}, SplitLeakError, "'U-Net' was trained on split 'train'"),
        ({"weights": {"U-Net": 1}}, ParameterError, "no weight for LinkNet"),
        ({"weights": {**dict.fromkeys(members, 1), "FPM": 1}}, ParameterError, "did you mean 'FPN'"),
        ({"trials": 0}, ParameterError, "trials is 0"),
        ({"sampler": "grid"}, ParameterError, "sampler is 'grid'"),
        ({"views": ("PLAX",)}, DataError, "PLAX"),
    ):
        with pytest.raises(error, match=message):
            run_ensemble(out, store, members, **options)
        assert not out.exists()
    with pytest.raises(ParameterError, match="at least two"):
        run_ensemble(out, store, {"U-Net": members["U-Net"]})
    save_segmenter(untrained_segmenter(SMALL, ["lv"]), tmp_path / "binary.safetensors")
    with pytest.raises(ParameterError, match="different classes"):
        run_ensemble(out, store, {**members, "binary": str(tmp_path / "binary.safetensors")})
    assert not out.exists()


def test_the_verb(lab, members, tmp_path, alan):
    config = {"out": str(tmp_path / "run"), "store": str(lab / "store.h5"), "members": members, "trials": 4}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(config))
    ran = alan("ensemble", "--config", tmp_path / "e.yaml")
    assert ran.code == 0, ran.err
    assert [line.partition(":")[0] for line in ran.lines] == ["weights", "mean IoU on val"]
    assert json.loads((tmp_path / "run" / "ensemble.json").read_text())["schema"] == "alan-ensemble/1"
    ran = alan("ensemble", "--config", tmp_path / "e.yaml", "--split", "test")
    assert (ran.code, len(ran.lines)) == (2, 1)
    ran = alan("ensemble", "--config", tmp_path / "e.yaml", "--sampler", "tpee")
    assert (ran.code, len(ran.lines)) == (2, 1)
