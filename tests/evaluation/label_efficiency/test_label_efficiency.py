"""The label-efficiency protocol: nested draws, every kind of method, resuming, and hand-computed values."""

import itertools
import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from alan.backbone.load import load_backbone
from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.data.splits import draw_patients
from alan.data.store.layout import read_tables, tables_checksum
from alan.data.store.reader import FrameStore
from alan.downstream.probes.decoder import DecoderProbe
from alan.downstream.probes.linear import LinearProbe
from alan.downstream.whitebox.prior import ParcelPrior
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.downstream.whitebox.steps import main_component
from alan.errors import CheckpointError, ConfigError, DataError, ParameterError, SelectionError, SplitLeakError
from alan.evaluation.label_efficiency import measure as efficiency
from alan.evaluation.label_efficiency.features import FeatureFiles
from alan.evaluation.label_efficiency.measure import list_cells, measure_efficiency
from alan.evaluation.label_efficiency.methods import AtlasMethod, NetworkMethod, RuleMethod, SegmenterMethod
from alan.evaluation.label_efficiency.probes import DecoderMethod, LinearMethod, SoftLinearMethod
from alan.evaluation.label_efficiency.protocol import METHODS, LabelEfficiencyProtocol, method_class
from alan.evaluation.metrics import dice
from alan.evaluation.run import run_evaluation
from alan.parcels.model import load_parcels
from alan.supervised.segmenter import save_segmenter
from alan.supervised.settings import NetworkSpec, TrainingSettings

from ...discs import untrained_segmenter

SPEC = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))
TRAINING = TrainingSettings(
    network=SPEC,
    losses={"cross_entropy": 1.0, "dice": 1.0},
    optimiser="adamw",
    lr=2e-3,
    schedule="cosine",
    normalisation="sector",
    steps=3,
    batch_size=4,
)
STRUCTURES = ("lv", "la")


@pytest.fixture(scope="module")
def segmenter(lab):
    """A fixed network that segments more structures, in another order."""
    path = lab / "segmenter.safetensors"
    save_segmenter(untrained_segmenter(SPEC, ("la", "myo", "lv"), "sector", 32, seed=3), path)
    return str(path)


@pytest.fixture(scope="module")
def protocol(lab, segmenter):
    parcels, backbone = str(lab / "parcels.safetensors"), str(lab / "backbone.safetensors")
    methods = [
        RuleMethod("paper", parcels=parcels, rule="paper"),
        RuleMethod("greedy", parcels=parcels, rule="greedy"),
        LinearMethod("linear", backbone=backbone),
        SoftLinearMethod("soft", parcels=parcels),
        DecoderMethod("decoder", backbone=backbone, decoder=DecoderProbe(width=8, steps=4)),
        NetworkMethod("U-Net", network=TRAINING),
        NetworkMethod("U-Net, started", network=TRAINING, init=segmenter),
        SegmenterMethod("fixed", segmenter=segmenter),
        AtlasMethod("atlas"),
    ]
    return LabelEfficiencyProtocol(
        str(lab / "store.h5"), methods, structures=STRUCTURES, label_patients=(1, 3, None), seeds=(0, 1)
    )


@pytest.fixture(scope="module")
def measured(protocol, tmp_path_factory):
    folder = tmp_path_factory.mktemp("efficiency")
    return folder, measure_efficiency(protocol, folder)


def only(protocol, *names, **change):
    return replace(protocol, methods=[m for m in protocol.methods if m.name in names], **change)


@pytest.mark.parametrize("n", [1, 4])
def test_patients_are_drawn_as_in_network_training(lab, n):
    store = FrameStore(lab / "store.h5")
    data = LabelledFrameDataModule([store.path], ["lv"], val_split="test", label_patients=n, seed=7)
    mine = draw_patients(store.labelled(split="train")["patient"], n, 7)
    assert set(data.train_frames.table["patient"]) == set(mine)


def test_every_kind_of_method_has_its_cells(protocol, measured):
    folder, result = measured
    cells = list_cells(protocol)
    # 1 fixed; two numbers x two seeds for eight methods; all patients: five deterministic once, three twice
    assert len(cells) == 1 + 2 * 2 * 8 + 5 + 3 * 2
    assert len(list((folder / "cells").glob("*.json"))) == len(cells)
    assert len(result.cases) == len(cells) * len(STRUCTURES) * 3
    assert not result.summary["notes"] or {n["method"] for n in result.summary["notes"]} <= {"paper"}
    known = result.cases[result.cases["reason"] == ""]
    assert known["dice"].between(0, 1).all()
    assert set(result.cases["label_patients"]) == {0, 1, 3, 6}
    seeds = result.cases[result.cases["label_patients"] == 6].groupby("method")["seed"].nunique().to_dict()
    assert seeds == {
        "paper": 1,
        "greedy": 1,
        "linear": 1,
        "soft": 1,
        "atlas": 1,
        "decoder": 2,
        "U-Net": 2,
        "U-Net, started": 2,
    }


def case(result, method, n, seed, structure, phase="both"):  # noqa: PLR0917
    rows = result.cases
    for name, value in (("method", method), ("label_patients", n), ("seed", seed)):
        rows = rows[rows[name] == value]
    return float(rows[(rows["structure"] == structure) & (rows["phase"] == phase)]["dice"].iloc[0])


def frames_of(lab, n, seed):
    store = FrameStore(lab / "store.h5")
    label, test = store.labelled(split="train"), store.labelled(split="test")
    return store, label[label["patient"].isin(draw_patients(label["patient"], n, seed))], test


def test_a_rule_matches_a_fit_by_hand(lab, measured):
    store, label, test = frames_of(lab, 3, 1)
    model = load_parcels(lab / "parcels.safetensors")
    selector = ParcelSelector(rule="greedy", n_parcels=12)
    fitted = ParcelSegmenter(selector).fit(
        model.maps(store.frames(label["frame"])).numpy(), store.masks(label["label"], "lv"), label["patient"]
    )
    predicted = fitted.predict(model.maps(store.frames(test["frame"])).numpy())
    scores = dice(predicted, store.masks(test["label"], "lv"))
    assert case(measured[1], "greedy", 3, 1, "lv") == pytest.approx(scores.mean())
    at_es = (test["phase"] == "ES").to_numpy()
    assert case(measured[1], "greedy", 3, 1, "lv", "ES") == pytest.approx(scores[at_es].mean())


def test_a_list_for_each_phase_matches_a_fit_by_hand(lab, protocol, tmp_path):
    """A list, and its prior, is fitted and applied on the frames of its phase only."""
    parcels, simulated = str(lab / "parcels.safetensors"), str(lab / "leaking.h5")
    methods = [
        RuleMethod("greedy", parcels=parcels, rule="greedy", per_phase=True),
        RuleMethod("beta", parcels=parcels, rule="beta", prior=simulated, per_phase=True),
    ]
    result = measure_efficiency(replace(protocol, methods=methods, label_patients=(3,), seeds=(1,)), tmp_path)
    store, label, test = frames_of(lab, 3, 1)
    model, other = load_parcels(parcels), FrameStore(simulated)
    for phase in ("ED", "ES"):
        mine, asked = label[label["phase"] == phase], test[test["phase"] == phase]
        maps = model.maps(store.frames(mine["frame"].to_numpy())).numpy()
        masks = store.masks(mine["label"].to_numpy(), "lv")
        fitted = ParcelSegmenter(ParcelSelector("greedy", n_parcels=12)).fit(maps, masks, mine["patient"])
        truth = store.masks(asked["label"].to_numpy(), "lv")
        seen = model.maps(store.frames(asked["frame"].to_numpy())).numpy()
        scores = dice(fitted.predict(seen), truth)
        assert case(result, "greedy", 3, 1, "lv", phase) == pytest.approx(scores.mean())
        rows = other.labelled(None, None, (phase,))
        maps = model.maps(other.frames(rows["frame"].to_numpy()), other.size).numpy()
        masks = other.masks(rows["label"].to_numpy(), "lv")
        prior = ParcelPrior.count(maps, masks, groups=rows["patient"].to_numpy(), n_parcels=12, structure="lv")
        named = ParcelSegmenter(ParcelSelector("beta", prior=prior, n_parcels=12)).fit_prior()
        scores = dice(named.predict(seen), truth)
        assert case(result, "beta", 0, 1, "lv", phase) == pytest.approx(scores.mean())


def test_a_linear_probe_matches_a_fit_by_hand(lab, measured):
    store, label, test = frames_of(lab, 3, 0)
    backbone = load_backbone(lab / "backbone.safetensors")
    maps = np.zeros((len(label), 32, 32), int)
    for value, name in enumerate(STRUCTURES, 1):
        maps[store.masks(label["label"], name)] = value
    tokens = [
        backbone(torch.from_numpy(store.frames(side["frame"]))).tokens.half().numpy() for side in (label, test)
    ]
    predicted = LinearProbe().fit(tokens[0], maps).predict(tokens[1]) == 2
    largest = np.stack([main_component(mask, np.zeros((32, 32), int)) for mask in predicted])
    expected = dice(largest, store.masks(test["label"], "la")).mean()
    assert case(measured[1], "linear", 3, 0, "la") == pytest.approx(expected)


def test_the_table_averages_cells_over_seeds(measured):
    cases = measured[1].cases
    for row in measured[1].summary["rows"]:
        mine = cases
        for name in ("method", "label_patients", "structure", "phase"):
            mine = mine[mine[name] == row[name]]
        assert row["mean"] == pytest.approx(mine["dice"].mean())
        assert (row["lowest"], row["highest"]) == pytest.approx((mine["dice"].min(), mine["dice"].max()))
        assert row["seeds"] == len(mine)
        if len(mine) > 1:
            assert row["sd"] == pytest.approx(mine["dice"].std())
        assert row["low"] <= row["mean"] + 1e-9 <= row["high"] + 2e-9


def test_a_fixed_segmenter_uses_no_labels(lab, measured, segmenter):
    from alan.supervised.segmenter import load_segmenter

    store, _, test = frames_of(lab, 1, 0)
    predicted = load_segmenter(segmenter).masks(torch.from_numpy(store.frames(test["frame"])))["lv"].numpy()
    largest = np.stack([main_component(mask, np.zeros((32, 32), int)) for mask in predicted])
    expected = dice(largest, store.masks(test["label"], "lv")).mean()
    assert case(measured[1], "fixed", 0, 0, "lv") == pytest.approx(expected)


def test_a_killed_run_resumes_from_its_cells(protocol, measured, tmp_path, monkeypatch):
    """Killed after three cells; the second start computes the others, and all agree with the uninterrupted run."""
    short = only(protocol, "greedy", "linear", "atlas", label_patients=(1, 3), seeds=(0,))
    compute, started = efficiency.compute_cell, []

    def killed(work, cell):
        if len(started) == 3:
            raise KeyboardInterrupt
        started.append(cell.title)
        return compute(work, cell)

    monkeypatch.setattr(efficiency, "compute_cell", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_efficiency(short, tmp_path)
    monkeypatch.setattr(efficiency, "compute_cell", lambda *given: started.append("again") or compute(*given))
    result = measure_efficiency(short, tmp_path)
    assert started.count("again") == 3
    same_as(result, measured[1])
    broken = next((tmp_path / "cells").iterdir())
    broken.write_text(broken.read_text()[:40])
    started.clear()
    same_as(measure_efficiency(short, tmp_path), measured[1])
    assert started == ["again"]


def same_as(result, whole):
    keys = ["method", "label_patients", "seed", "structure", "phase"]
    both = result.cases.merge(whole.cases, on=keys, suffixes=("", "_whole"), validate="one_to_one")
    assert len(both) == len(result.cases)
    np.testing.assert_array_equal(both["dice"], both["dice_whole"])


@pytest.mark.slow
def test_several_processes_give_the_same_results(protocol, measured, tmp_path):
    short = only(protocol, "linear", "decoder", "U-Net", label_patients=(3,), workers=2)
    torch.set_num_threads(2)
    try:
        same_as(measure_efficiency(short, tmp_path), measured[1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_runs_can_share_cells(protocol, tmp_path, monkeypatch):
    """One more method, another name, another place of the models: only the new cells are computed."""
    work = str(tmp_path / "work")
    short = only(protocol, "linear", label_patients=(1,), seeds=(0,), work=work)
    measure_efficiency(short, tmp_path / "one")
    computed = []
    compute = efficiency.compute_cell
    monkeypatch.setattr(efficiency, "compute_cell", lambda w, c: computed.append(c.method.name) or compute(w, c))
    methods = [replace(short.methods[0], name="renamed"), AtlasMethod("atlas")]
    measure_efficiency(replace(short, methods=methods), tmp_path / "two")
    assert computed == ["atlas"]
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"largest_component": False},
        {"label_patients": (2,)},
        {"seeds": (5,)},
        {"structures": ("lv",)},
        {"phases": ("ED",)},
        {"views": ("A4C",)},
        {"label_split": "val"},
    ],
)
def test_each_setting_makes_another_cell(protocol, tmp_path, change):
    short = only(protocol, "linear", label_patients=(1,), seeds=(0,), work=str(tmp_path))
    measure_efficiency(short, tmp_path)
    measure_efficiency(replace(short, **change), tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"linear": LinearProbe(l2=1.0)},
        {"linear": LinearProbe(max_tokens=20)},
        {"stride": 2},
    ],
)
def test_each_setting_of_a_method_makes_another_cell(protocol, tmp_path, change):
    short = only(protocol, "linear", label_patients=(1,), seeds=(0,), work=str(tmp_path))
    first = measure_efficiency(short, tmp_path)
    other = measure_efficiency(replace(short, methods=[replace(short.methods[0], **change)]), tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 2
    assert not np.array_equal(first.cases["dice"], other.cases["dice"])


def test_the_phases_of_a_rule_make_another_cell_and_leave_the_others(protocol, tmp_path):
    short = only(protocol, "greedy", label_patients=(3,), seeds=(0,), work=str(tmp_path))
    cells = lambda: {path.name for path in (tmp_path / "cells").iterdir()}  # noqa: E731
    measure_efficiency(short, tmp_path)
    first = cells()
    for per_phase, more in ((False, 0), (True, 1)):
        measure_efficiency(replace(short, methods=[replace(short.methods[0], per_phase=per_phase)]), tmp_path)
        assert cells() >= first
        assert len(cells()) == 1 + more


def test_a_rule_without_parcels_counts_as_empty_masks(protocol, tmp_path, monkeypatch):
    fit = ParcelSelector.fit

    def strict(self, maps, masks, groups=None):
        self.overlap, self.min_pixels = 1.0, 900
        return fit(self, maps, masks, groups)

    monkeypatch.setattr(ParcelSelector, "fit", strict)
    result = measure_efficiency(only(protocol, "paper", label_patients=(3,), seeds=(0,)), tmp_path)
    assert (result.cases["dice"] == 0).all()
    assert (result.cases["empty"] == 12).all()
    assert {note["structure"] for note in result.summary["notes"]} == set(STRUCTURES)


def test_reasons_of_several_phases_are_all_kept(protocol, tmp_path, monkeypatch):
    """The reason of one phase does not replace that of the other."""

    fits = itertools.count()

    def refuse(self, maps, masks, groups=None):
        raise SelectionError(f"fit {next(fits)} selects nothing")

    monkeypatch.setattr(ParcelSelector, "fit", refuse)
    short = only(protocol, "paper", label_patients=(3,), seeds=(0,))
    both = replace(short, methods=[replace(short.methods[0], per_phase=True)])
    reasons = [note["reason"] for note in measure_efficiency(both, tmp_path).summary["notes"]]
    assert len(reasons) == len(STRUCTURES)
    for reason in reasons:
        ed, es = reason.split("; ")
        assert ed.startswith("ED: ")
        assert es.startswith("ES: ")
        assert ed[4:] != es[4:]


def test_a_failed_cell_is_reported_and_tried_again(protocol, tmp_path):
    """A diverging training does not affect other cells; its own cell is not kept."""
    wild = replace(TRAINING, lr=1e30, steps=8, optimiser="adam", schedule="constant")
    methods = [NetworkMethod("wild", network=wild), AtlasMethod("atlas")]
    result = measure_efficiency(replace(protocol, methods=methods, label_patients=(3,), seeds=(0,)), tmp_path)
    rows = {row["method"]: row for row in result.summary["rows"]}
    assert (rows["wild"]["mean"], rows["wild"]["seeds"]) == (None, 0)
    assert rows["atlas"]["mean"] > 0.3
    assert "the loss is" in result.summary["notes"][0]["reason"]
    assert [path.name.split("-")[0] for path in (tmp_path / "cells").iterdir()] == ["atlas"]
    assert math.isnan(result.cases[result.cases["method"] == "wild"]["dice"].iloc[0])


def with_method(protocol, kind, **settings):
    return replace(protocol, methods=[method_class(kind)("m", **settings)])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label_patients": (1, 7)}, ParameterError, "label_patients is 7: give 1 to 6"),
        ({"label_patients": (0,)}, ParameterError, r"label_patients\[0\] is 0: give a whole number of at least 1"),
        ({"label_patients": ()}, ParameterError, r"label_patients is \[\]"),
        ({"label_patients": (6, None)}, ParameterError, "holds 6 and null"),
        ({"seeds": (1, 1)}, ParameterError, r"seeds is \[1, 1\]"),
        ({"seeds": (-1,)}, ParameterError, r"seeds\[0\] is -1: give a whole number from 0"),
        ({"workers": 0}, ParameterError, "workers is 0: give a whole number of at least 1"),
        ({"batch_size": 0}, ParameterError, "batch_size is 0: give a whole number of at least 1"),
        ({"methods": []}, ParameterError, "methods is empty"),
        ({"methods": [AtlasMethod("a"), AtlasMethod("a")]}, ParameterError, "method 'a'.*of its own"),
        ({"structures": ("lv", "rv")}, DataError, "'rv'"),
        ({"store": "nowhere.h5"}, DataError, "nowhere"),
        ({"test_split": "train"}, SplitLeakError, "both 'train'"),
        ({"method": {"kind": "liner"}}, ParameterError, "unknown kind 'liner': did you mean 'linear'"),
        ({"method": {"kind": "linear", "backbone": "gone.safetensors"}}, CheckpointError, "gone"),
        ({"method": {"kind": "rule", "rule": "greedy", "parcels": "gone"}}, CheckpointError, "gone: no such file"),
        ({"method": {"kind": "rule", "rule": "gredy", "parcels": "x"}}, ParameterError, "did you mean 'greedy'"),
        ({"method": {"kind": "segmenter", "segmenter": "gone"}}, CheckpointError, "gone: no such segmenter"),
        (
            {"method": {"kind": "network", "network": {"steps": 0}}},
            ParameterError,
            "steps is 0: give a whole",
        ),
        ({"method": {"kind": "network", "network": {"lr": 0.0}}}, ParameterError, "lr is 0.0"),
        (
            {"method": {"kind": "linear", "backbone": "x", "linear": LinearProbe(l2=-1)}},
            ParameterError,
            "l2 is -1",
        ),
        (
            {"method": {"kind": "decoder", "backbone": "x", "decoder": DecoderProbe(width=9)}},
            ParameterError,
            "width is 9",
        ),
    ],
)
def test_invalid_input_is_refused_and_leaves_no_files(protocol, tmp_path, change, error, message):
    out = tmp_path / "run"
    with pytest.raises(error, match=message):  # noqa: PT012 (some errors are raised when the protocol is made)
        if settings := dict(change.get("method", {})):
            if "network" in settings:
                settings["network"] = replace(TRAINING, **settings["network"])
            change = {"methods": with_method(protocol, **settings).methods}
        wrong = replace(protocol, **change)
        run_evaluation(out, label_efficiency=wrong)
    assert not out.exists()


def test_a_segmenter_trained_on_the_test_split_is_refused(lab, protocol, tmp_path):
    store = FrameStore(lab / "store.h5")
    path = str(tmp_path / "s.safetensors")
    for splits in ({"train_split": "test", "val_split": "val"}, {"train_split": "train", "val_split": "test"}):
        learnt = untrained_segmenter(SPEC, STRUCTURES, "sector", 32)
        learnt.provenance |= {"stores": [store.fingerprint], **splits}
        save_segmenter(learnt, path)
        for method in (
            {"kind": "segmenter", "segmenter": path},
            {"kind": "network", "network": TRAINING, "init": path},
        ):
            with pytest.raises(SplitLeakError, match="learned from split 'test'"):
                measure_efficiency(with_method(protocol, **method), tmp_path / "run")
    other = str(tmp_path / "o.safetensors")
    save_segmenter(untrained_segmenter(SPEC, ("lv", "myo"), "sector", 32), other)
    with pytest.raises(CheckpointError, match="does not segment 'la', only lv, myo"):
        measure_efficiency(with_method(protocol, kind="segmenter", segmenter=other), tmp_path / "run")


def test_finished_cells_survive_an_error(protocol, tmp_path, monkeypatch):
    short, compute = only(protocol, "linear", "atlas", label_patients=(1,), seeds=(0,)), efficiency.compute_cell

    def failing(work, cell):
        if cell.method.name == "atlas":
            raise ConfigError("a worker was killed")
        return compute(work, cell)

    monkeypatch.setattr(efficiency, "compute_cell", failing)
    with pytest.raises(ConfigError, match="killed"):
        run_evaluation(tmp_path / "run", label_efficiency=short)
    assert len(list((tmp_path / "run" / "cells").iterdir())) == 1
    monkeypatch.setattr(efficiency, "compute_cell", compute)
    assert (run_evaluation(tmp_path / "run", label_efficiency=short) / "results.json").exists()


def test_the_run_folder_has_the_documented_files(protocol, tmp_path, monkeypatch):
    short = only(protocol, "greedy", "atlas", label_patients=(1, 3))
    out = tmp_path / "run"
    folder = run_evaluation(out, label_efficiency=short)
    results = json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)
    rows = results["label_efficiency"]["rows"]
    table = pd.read_csv(folder / "label_efficiency.csv", keep_default_na=False, na_values=[""])
    assert len(rows) == 2 * 2 * 2 * 3
    assert len(table) == 2 * len(rows)
    monkeypatch.setattr(efficiency, "write_json", pytest.fail)
    again = run_evaluation(out, label_efficiency=replace(short, workers=3))
    assert (again / "results.json").read_bytes() == (folder / "results.json").read_bytes()
    with pytest.raises(ConfigError, match=r"label_efficiency\.seeds"):
        run_evaluation(out, label_efficiency=replace(short, seeds=(4,)))


def test_a_prior_names_parcels_without_a_label(lab, protocol, tmp_path):
    store, parcels = FrameStore(lab / "store.h5"), str(lab / "parcels.safetensors")
    plain = RuleMethod("beta", parcels=parcels, rule="beta")
    told = RuleMethod("beta, prior", parcels=parcels, rule="beta", prior=str(lab / "leaking.h5"))
    result = measure_efficiency(
        replace(protocol, methods=[plain, told], label_patients=(1,), seeds=(0,)), tmp_path
    )
    numbers = result.cases.groupby("method")["label_patients"].unique().map(list).to_dict()
    assert numbers == {"beta": [1], "beta, prior": [0, 1]}

    model, other = load_parcels(parcels), FrameStore(lab / "leaking.h5")
    everyone, test = other.labelled(None, None, ("ED", "ES")), store.labelled(split="test")
    maps = model.maps(other.frames(everyone["frame"].to_numpy()), other.size).numpy()
    masks = other.masks(everyone["label"].to_numpy(), "lv")
    ids = model.n_parcels + (model.background_id is not None)
    groups = everyone["patient"].to_numpy()
    prior = ParcelPrior.count(
        maps, masks, groups=groups, n_parcels=ids, background_id=model.background_id, structure="lv"
    )
    selector = ParcelSelector("beta", prior=prior, n_parcels=ids, background_id=model.background_id)
    segmenter = ParcelSegmenter(selector=selector).fit_prior()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted = segmenter.predict(model.maps(store.frames(test["frame"].to_numpy()), store.size).numpy())
    expected = np.nanmean(dice(predicted, store.masks(test["label"].to_numpy(), "lv")))
    assert case(result, "beta, prior", 0, 0, "lv") == pytest.approx(expected)


def test_a_prior_of_the_measured_store_is_refused(lab, protocol, tmp_path):
    method = RuleMethod("b", parcels=str(lab / "parcels.safetensors"), rule="beta", prior=protocol.store)
    with pytest.raises(SplitLeakError, match=r"method 'b': .*the prior is counted on the store that is measured"):
        measure_efficiency(replace(protocol, methods=[method]), tmp_path / "run")


def test_a_changed_prior_is_computed_again(lab, protocol, tmp_path, monkeypatch):
    prior, measured = tmp_path / "prior.h5", []
    shutil.copy(lab / "leaking.h5", prior)
    told = RuleMethod("b", parcels=str(lab / "parcels.safetensors"), rule="beta", prior=str(prior))
    short = replace(protocol, methods=[told])
    monkeypatch.setattr("alan.evaluation.run._measure", lambda *_: measured.append(1) or {})
    for _ in range(2):
        run_evaluation(tmp_path / "run", label_efficiency=short)
    with h5py.File(prior, "r+") as file:
        file.attrs["fingerprint"] = "simulated again"
        file.attrs["crc_tables"] = tables_checksum(file.attrs, read_tables(file))
    run_evaluation(tmp_path / "run", label_efficiency=short)
    assert len(measured) == 2


def test_a_prior_is_accepted_by_the_beta_rule_only(lab, protocol, tmp_path):
    method = RuleMethod("g", parcels=str(lab / "parcels.safetensors"), rule="greedy", prior=protocol.store)
    with pytest.raises(ParameterError, match="rule 'greedy' has no prior"):
        measure_efficiency(replace(protocol, methods=[method]), tmp_path)


def test_every_method_is_a_public_class():
    import alan.evaluation

    for kind, name in METHODS.items():
        method = method_class(kind)
        assert method.kind == kind
        assert getattr(alan.evaluation, name) is method


def test_damaged_features_are_refused(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    store = SimpleNamespace(fingerprint="s", frames=lambda index: frames[index])
    model = SimpleNamespace(fingerprint="m", to=lambda device: None)
    files = FeatureFiles(store, np.arange(5), tmp_path, batch_size=2)
    found = files.dense(model, lambda batch: batch.float()[..., None] / 7, "tokens", "")
    expected = (frames[..., None].astype(np.float32) / 7).astype(np.float16)
    assert np.array_equal(found.read(), expected)
    path = Path(found.path)
    whole = path.read_bytes()
    for place in (*range(0, len(whole), 7), len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"\.npy: is damaged \(its check sum is wrong\): delete it and run"):
            found.read()
    path.write_bytes(whole[:-4])  # as an earlier version wrote it
    with pytest.raises(DataError, match=r"\.npy: is damaged \(its check sum is wrong\): delete it and run"):
        found.read()
