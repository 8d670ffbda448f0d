"""``alan ensemble``: trained networks to a run folder."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from alan.data.splits import draw_patients
from alan.data.store.reader import FrameStore
from alan.downstream.members import load_ensemble
from alan.errors import ConfigError, DataError, ParameterError, SplitLeakError
from alan.evaluation.ensemble import run_ensemble
from alan.evaluation.intervals import bootstrap_interval
from alan.supervised.member_predictions import collect, join
from alan.supervised.search_weights import search_weights
from alan.supervised.segmenter import Segmenter, load_segmenter, save_segmenter
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

SMALL = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    """Scores are compared to 1e-6: a GPU multiplies with fewer bits."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


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


def test_the_run_folder_has_the_documented_files(lab, members, tmp_path, listing):
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
    assert list(known["pooled"]["members"]) == list(members)
    # the score is what the written ensemble reaches on those frames, run afresh
    store = FrameStore(lab / "store.h5")
    table = store.labelled(split="val")
    frames = torch.from_numpy(store.frames(table["frame"]))
    labels = torch.from_numpy(store.label_maps(table["label"], ["lv", "la"]))
    fresh = collect({"a": one, "b": one}, [(frames, labels)])
    assert fresh.score(np.ones(2), "iou") == pytest.approx(known["score"], abs=1e-6)
    predicted = one.probabilities(frames).argmax(1).numpy()
    masks = [(predicted == value, labels.numpy() == value) for value in (1, 2)]
    pooled = np.mean([(a & b).sum() / (a | b).sum() for a, b in masks])
    assert known["pooled"]["score"] == pytest.approx(pooled, abs=1e-6)


def test_a_run_is_resumed_reused_or_refused(lab, members, tmp_path, monkeypatch):
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
        (out / "predictions.npz").touch()  # as if it had been killed before it removed them
        run_ensemble(out, store, members, trials=5)
    assert path.read_bytes() == before
    assert not (out / "predictions.npz").exists()
    with pytest.raises(ConfigError, match=r"trials.*overwrite"):
        run_ensemble(out, store, members, trials=6)
    run_ensemble(out, store, members, trials=6, overwrite=True)
    assert len(pd.read_csv(out / "history.csv")) == 10


def test_equal_and_given_weights_are_applied(lab, members, tmp_path):
    store = str(lab / "store.h5")
    equal = load_ensemble(run_ensemble(tmp_path / "equal", store, members, weights="equal"))
    assert equal.shares() == pytest.approx((1 / 3,) * 3)
    paper = dict(zip(members, (0.97, 0.28, 0.64), strict=True))
    given = load_ensemble(run_ensemble(tmp_path / "given", store, members, weights=paper))
    assert given.weights == paper
    assert list(pd.read_csv(tmp_path / "given" / "history.csv")["kind"])[-1] == "given"
    assert given.provenance["validation"]["equal"] == equal.provenance["validation"]["score"]


def test_every_setting_changes_the_result(lab, members, tmp_path):
    def history(name, **options):
        run_ensemble(tmp_path / name, str(lab / "store.h5"), members, **{"trials": 8, **options})
        return pd.read_csv(tmp_path / name / "history.csv")

    first = history("a")
    assert not first.equals(history("b", seed=1))
    assert not first["score"].equals(history("c", objective="dice")["score"])
    assert not first["score"].equals(history("d", phases=("ED",))["score"])
    assert set(history("e", sampler="tpe")["kind"]) == {"equal", "single", "tpe"}
    assert first.equals(history("f", batch_size=2))


def fold_networks(lab, folder, folds=(0, 1, 2)):
    """Networks of three folds for each of two members; the test reads which patients they left out."""
    origin = {"stores": [FrameStore(lab / "store.h5").fingerprint], "train_split": "train", "val_split": "val"}
    files = {"a": [], "b": []}
    for seed, (name, number) in enumerate(itertools.product(files, folds)):
        raw = untrained_segmenter(SMALL, ["lv", "la"], seed=10 + seed)
        path = str(folder / f"{name}{number}.safetensors")
        known = {**origin, "fold": [number, 3]}
        save_segmenter(Segmenter(raw.model, raw.spec, raw.structures, None, known), path)
        files[name].append(path)
    return files


def test_weights_are_fitted_on_folds(lab, members, tmp_path):
    """Each frame is predicted once, by the networks that left its patient out; logits are averaged as asked."""
    whole = {"a": members["U-Net"], "b": members["FPN"]}
    folds = fold_networks(lab, tmp_path)
    options = {"folds": folds, "average": "logits", "trials": 5}
    one = load_ensemble(run_ensemble(tmp_path / "run", str(lab / "store.h5"), whole, **options))
    assert one.average == "logits"
    known = one.provenance["validation"]
    store = FrameStore(lab / "store.h5")
    table = pd.concat([store.labelled(split="train"), store.labelled(split="val")], ignore_index=True)
    assert (known["patients"], known["frames"], known["folds"]) == (9, len(table), 3)
    order = draw_patients(table["patient"], None, 0)
    parts = []
    for number in range(3):
        mine = table[table["patient"].isin(order[number::3])]
        networks = {name: load_segmenter(files[number]) for name, files in folds.items()}
        frames = torch.from_numpy(store.frames(mine["frame"]))
        parts.append(
            collect(networks, [(frames, torch.from_numpy(store.label_maps(mine["label"], ["lv", "la"])))])
        )
    for name, single in zip(folds, np.eye(2), strict=True):
        assert known["members"][name] == pytest.approx(join(parts).score(single, "iou"))

    # the gain on each fold: weights and member chosen on the other two
    gains, patients = [], []
    for number, row in enumerate(known["held_out"]["folds"]):
        others = replace(join([part for k, part in enumerate(parts) if k != number]), average="logits")
        chosen = search_weights(others, ["a", "b"], trials=5)
        assert row["weights"] == chosen.weights
        assert row["best"] == max("ab", key=lambda name: chosen.members[name])
        mine = replace(parts[number], average="logits")
        single = np.array([row["best"] == "a", row["best"] == "b"], float)
        gain = mine.values(np.array(list(row["weights"].values())), "iou") - mine.values(single, "iou")
        assert row["gain"] == pytest.approx(np.nanmean(gain), abs=1e-6)
        gains.append(gain)
        patients += [name for name in table["patient"][table["patient"].isin(order[number::3])] for _ in range(2)]
    interval = bootstrap_interval(np.concatenate(gains).ravel(), patients).to_dict()
    assert known["held_out"]["gain"] == pytest.approx(interval, abs=1e-6)


def test_an_ensemble_is_not_reused_after_a_fold_was_trained_again(lab, members, tmp_path, caplog):
    caplog.set_level("INFO")
    whole = {"a": members["U-Net"], "b": members["FPN"]}
    folds = fold_networks(lab, tmp_path)

    def run():
        return run_ensemble(tmp_path / "run", str(lab / "store.h5"), whole, folds=folds, trials=5)

    before = run().read_bytes()
    assert "mean IoU on the held-out patients of all folds: ensemble" in caplog.text
    assert run().read_bytes() == before
    old, raw = load_segmenter(folds["b"][2]), untrained_segmenter(SMALL, ["lv", "la"], seed=99)
    save_segmenter(Segmenter(raw.model, raw.spec, raw.structures, None, old.provenance), folds["b"][2])
    assert run().read_bytes() != before


def test_predictions_are_computed_on_chosen_frames(lab, members):
    """A part scores like predictions of these frames alone."""
    store = FrameStore(lab / "store.h5")
    table = store.labelled(split="val")
    networks = {name: load_segmenter(path) for name, path in members.items()}

    def predict(rows):
        frames = torch.from_numpy(store.frames(rows["frame"]))
        return collect(networks, [(frames, torch.from_numpy(store.label_maps(rows["label"], ["lv", "la"])))])

    chosen, weights = np.arange(len(table)) % 3 > 0, np.array([0.2, 0.5, 0.3])
    part, alone = predict(table).part(chosen), predict(table[chosen])
    np.testing.assert_allclose(part.values(weights, "dice"), alone.values(weights, "dice"))
    assert part.score(weights, "iou") == pytest.approx(alone.score(weights, "iou"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folds, members: {"a": folds["a"]}, "folds has a: give the members, a, b"),
        (lambda folds, members: {**folds, "b": folds["b"][:2]}, "give a network of every fold for every member"),
        (lambda folds, members: {n: x[:2] for n, x in folds.items()}, "give a network of every fold"),
        (lambda folds, members: {**folds, "b": [members["FPN"]] * 3}, "was not trained on a fold of this store"),
    ],
)
def test_invalid_folds_are_refused(change, message, lab, members, tmp_path):
    whole = {"a": members["U-Net"], "b": members["FPN"]}
    folds = change(fold_networks(lab, tmp_path), members)
    with pytest.raises(ParameterError, match=message):
        run_ensemble(tmp_path / "run", str(lab / "store.h5"), whole, folds=folds)


def test_invalid_input_is_refused(lab, members, tmp_path):
    store, out = str(lab / "store.h5"), tmp_path / "run"
    for options, error, message in (
        ({"split": "test"}, ParameterError, "validation cases"),
        ({"split": "train"}, SplitLeakError, "'U-Net' learned from split 'train'"),
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


def test_alan_ensemble_runs_from_the_command_line(lab, members, tmp_path, alan):
    config = {"out": str(tmp_path / "run"), "store": str(lab / "store.h5"), "members": members, "trials": 4}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(config))
    ran = alan("ensemble", "--config", tmp_path / "e.yaml")
    assert ran.code == 0, ran.err
    assert [line.partition(":")[0] for line in ran.lines] == [
        "weights",
        "mean IoU on val",
        "IoU of the pixels of all frames together",
    ]
    assert json.loads((tmp_path / "run" / "ensemble.json").read_text())["schema"] == "alan-ensemble/1"
    ran = alan("ensemble", "--config", tmp_path / "e.yaml", "--split", "test")
    assert (ran.code, len(ran.lines)) == (2, 1)
    ran = alan("ensemble", "--config", tmp_path / "e.yaml", "--sampler", "tpee")
    assert (ran.code, len(ran.lines)) == (2, 1)
