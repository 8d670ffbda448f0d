"""The active-learning loop: order of labelling, resuming, stopping, tables and invalid input."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from alan.active import loop as loop_module
from alan.active.loop import run_active
from alan.active.protocol import ActiveFrames, open_frames
from alan.active.state import initial_order, read_state
from alan.active.tables import curves, labels_needed, levels
from alan.data.store.reader import FrameStore
from alan.errors import AlanError, ConfigError, DataError, ParameterError, SplitLeakError
from alan.report.active import write_active_report
from alan.supervised.settings import NetworkSpec


@pytest.fixture(scope="session")
def straight(discs, tmp_path_factory):
    """A run without interruption: three functions, two seeds, three phases."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    return run_active(str(out), discs.data(), loop=discs.loop(seeds=(0, 1)), training=discs.training())


def test_each_phase_labels_the_images_with_the_highest_scores(straight, discs):
    from alan.active.acquisition import random
    from alan.active.dropout import MonteCarloDropout
    from alan.active.pool import score_pool
    from alan.supervised.training import train

    state, table = read_state(straight), pd.read_csv(straight / "phases.csv")
    assert len(table) == 3 * 2 * 3
    assert table.groupby(["function", "seed"])["n_labels"].apply(list).map(tuple).unique().tolist() == [(3, 6, 9)]
    for seed in (0, 1):
        first = table[(table["seed"] == seed) & (table["phase"] == 1)]
        assert first["val_iou"].nunique() == 1  # one initial set, one training for all functions
        for function in ("random", "mfe", "std"):
            labelled = state.labelled(function, seed)
            assert labelled[:3] == state.initial[seed] == initial_order(16, seed)[:3]
            assert len(set(labelled)) == len(labelled) == 9
            listed = pd.read_csv(straight / "labelled" / f"{function}_{seed}.csv")
            assert listed["frame"].tolist() == [3 * (p // 2) + p % 2 for p in labelled]
    assert state.initial[0] != state.initial[1]
    frames = open_frames(discs.data(), discs.loop(), discs.training())
    rest = np.setdiff1d(np.arange(16), state.initial[1])
    network = train(discs.training(), frames.labelled(state.initial[1]), 1)
    scores = score_pool(MonteCarloDropout(network, 3, 1), frames.pool.part(rest), ["mfe", "std"])
    scores["random"] = random(16, [1, 1])[rest]
    for function, values in scores.items():
        assert state.loop(function, 1)[0].chosen == rest[np.argsort(-values)[:3]].tolist()
    assert len({tuple(state.labelled(function, 0)) for function in ("random", "mfe", "std")}) == 3
    assert set(table.loc[table["phase"] == 3, "stopped"]) == {"phases"}
    assert table["val_iou"].between(0, 1).all()
    assert "val_dice_lv" in table
    assert "test_iou" not in table


def test_scores_equal_the_metrics_of_a_separate_training(discs, tmp_path):
    """A phase trained once more by itself, measured with the project's own Dice and IoU."""
    from alan.evaluation.metrics import dice, iou
    from alan.supervised.training import train

    loop, training = discs.loop(functions=("mfe",), phases=1, seeds=(3,)), discs.training(steps=60, lr=0.03)
    run = run_active(str(tmp_path / "run"), discs.data(), loop=loop, training=training)
    record = read_state(run).loop("mfe", 3)[0]
    frames = open_frames(discs.data(), loop, training)
    segmenter = train(training.without_dropout(), frames.labelled(initial_order(16, 3)[:3]), 3)
    assert segmenter.spec.dropout == 0
    batch = frames.measured["val"].__getitems__(range(6))
    predicted = segmenter.masks(batch["frames"])["lv"].numpy()
    truth = batch["labels"].numpy() == 1
    assert 0.1 < record.scores["val_iou"] < 1
    assert record.scores["val_iou_lv"] == pytest.approx(np.nanmean(iou(predicted, truth)), abs=1e-5)
    assert record.scores["val_dice"] == pytest.approx(np.nanmean(dice(predicted, truth)), abs=1e-5)


def test_a_run_killed_after_a_phase_ends_like_an_uninterrupted_one(straight, discs, tmp_path, monkeypatch):
    out, calls = tmp_path / "killed", []

    def killed(*args, **options):
        calls.append(options["desc"])
        if len(calls) == 4:  # phase 1 takes two trainings; phase 2 has begun
            raise KeyboardInterrupt
        return train(*args, **options)

    train = loop_module.train
    monkeypatch.setattr(loop_module, "train", killed)
    arguments = {"loop": discs.loop(seeds=(0, 1)), "training": discs.training()}
    with pytest.raises(KeyboardInterrupt):
        run_active(str(out), discs.data(), **arguments)
    done = read_state(out).finished
    assert {record.phase for record in done} >= {1}
    assert not (out / "results.json").exists()
    monkeypatch.setattr(loop_module, "train", train)
    run_active(str(out), discs.data(), **arguments)
    assert (out / "state.json").read_text() == (straight / "state.json").read_text()
    assert (out / "phases.csv").read_text() == (straight / "phases.csv").read_text()
    monkeypatch.setattr(loop_module, "train", None)  # and a finished run trains nothing
    run_active(str(out), discs.data(), **arguments)


@pytest.mark.parametrize(
    ("options", "n_labels", "reason"),
    [
        ({"budget": 7}, [3, 6, 7], "budget"),
        ({"budget": 3}, [3], "budget"),
        ({"stop_iou": 0.5}, [3, 6], "threshold"),
        ({"stop_iou": 0.7}, [3, 6, 9], "phases"),
        ({"per_phase": 10, "phases": 4}, [3, 13, 16], "pool"),
    ],
)
def test_a_loop_stops_for_each_documented_reason(options, n_labels, reason, discs, monkeypatch, tmp_path):  # noqa: PLR0917 (fixtures)
    def grown(segmenter, frames, batch_size):
        return {"iou": 0.3 + 0.1 * len(trainings)}, np.full((2, 1), 0.5)

    trainings = []
    monkeypatch.setattr(loop_module, "train", lambda *_, **__: trainings.append(1))
    monkeypatch.setattr(loop_module, "measure", grown)
    monkeypatch.setattr(loop_module, "write_results", lambda *_, **__: None)
    monkeypatch.setattr(loop_module, "save_segmenter", lambda network, path: path.touch())
    loop, training = discs.loop(functions=("random",), warm_start=True, **options), discs.training(steps=1)
    run = run_active(str(tmp_path / "run"), discs.data(), loop=loop, training=training)
    table = pd.read_csv(run / "phases.csv")
    assert table["n_labels"].tolist() == n_labels
    assert table["stopped"].tolist()[-1] == reason
    assert table["stopped"].isna().sum() == len(n_labels) - 1
    assert not list((run / "weights").iterdir())  # nothing continues from them


def test_warm_start_continues_from_the_last_phase(discs, tmp_path, monkeypatch):
    """Each phase of a warm-started loop continues the previous one; a killed run ends with the same result."""
    from alan.supervised.segmenter import save_segmenter
    from alan.supervised.training import measure, train

    loop = discs.loop(functions=("random", "mfe"), warm_start=True)
    training = discs.training(steps=3)
    run = run_active(str(tmp_path / "run"), discs.data(), loop=loop, training=training)
    frames, state = open_frames(discs.data(), loop, training), read_state(run)
    start = None
    for record in state.loop("mfe", 0):
        labelled = state.labelled("mfe", 0)[: record.n_labels]
        network = train(training.without_dropout(), frames.labelled(labelled), 0, start=start)
        assert record.scores["val_iou"] == measure(network, frames.measured["val"], 16)[0]["iou"]
        start = str(tmp_path / "hand.safetensors")
        save_segmenter(network, start)
    assert not list((run / "weights").iterdir())
    calls = []

    def killed(*args, **options):
        calls.append(options["desc"])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(loop_module, "train", killed)
    arguments = {"loop": loop, "training": training}
    with pytest.raises(KeyboardInterrupt):
        run_active(str(tmp_path / "killed"), discs.data(), **arguments)
    monkeypatch.setattr(loop_module, "train", train)
    again = run_active(str(tmp_path / "killed"), discs.data(), **arguments)
    assert (again / "state.json").read_text() == (run / "state.json").read_text()


def test_one_network_is_measured_and_scores_the_pool(discs, tmp_path, monkeypatch):
    """Without a second network each phase trains once, and chooses by the network that it measures."""
    from alan.active.dropout import MonteCarloDropout
    from alan.active.pool import score_pool
    from alan.supervised.training import measure, train

    networks = []

    def kept(*args, **options):
        networks.append(train(*args, **options))
        return networks[-1]

    monkeypatch.setattr(loop_module, "train", kept)
    loop = discs.loop(functions=("mfe",), phases=2, two_networks=False)
    run = run_active(str(tmp_path / "run"), discs.data(), loop=loop, training=discs.training())
    first, second = read_state(run).loop("mfe", 0)
    assert len(networks) == 2
    frames = open_frames(discs.data(), loop, discs.training())
    for network, record in zip(networks, (first, second), strict=True):
        assert network.spec.dropout > 0
        assert record.scores["val_iou"] == measure(network, frames.measured["val"], 16)[0]["iou"]
    rest = np.setdiff1d(np.arange(16), read_state(run).initial[0])
    scores = score_pool(MonteCarloDropout(networks[0], 3, 0), frames.pool.part(rest), ["mfe"])["mfe"]
    assert first.chosen == rest[np.argsort(-scores)[:3]].tolist()


def test_patients_are_labelled_whole(discs, tmp_path):
    functions = ("random", "mfe", "k_centre")
    loop = discs.loop(functions=functions, unit="patient", phases=2)
    run = run_active(str(tmp_path / "run"), discs.data(), loop=loop, training=discs.training())
    state = read_state(run)
    patients = open_frames(discs.data(), loop, discs.training()).pool_table["patient"]
    for function in functions:
        first, second = state.loop(function, 0)
        assert (first.n_labels, second.n_labels) == (4, 8)  # 3 asked for at a time, two images per patient
        assert patients.iloc[state.labelled(function, 0)].value_counts().tolist() == [2] * 4
    page = write_active_report(run).read_text()
    assert "then 3, by patient" in page
    assert "known patients" not in page  # all images of a patient but the first
    assert "One seed." in page
    last = page.split("After the last phase")[-1].split("Comparison with Random")[0]
    assert not re.search(r"(\d+\.\d) to \1\b", last)  # no spread of a single seed


def test_k_centre_takes_the_farthest_features(discs, tmp_path):
    from alan.active.diversity import FrameFeatures, k_centre
    from alan.supervised.training import train

    loop, training = discs.loop(functions=("k_centre",), phases=2), discs.training()
    run = run_active(str(tmp_path / "run"), discs.data(), loop=loop, training=training)
    state, frames = read_state(run), open_frames(discs.data(), loop, training)
    network = train(training.without_dropout(), frames.labelled(state.initial[0]), 0)
    features = FrameFeatures("encoder")(frames.pool.read(np.arange(16)), network)
    rest = np.setdiff1d(np.arange(16), state.initial[0])
    expected = rest[k_centre(features[rest], 3, features[state.initial[0]])]
    assert state.loop("k_centre", 0)[0].chosen == expected.tolist()


def test_every_setting_changes_the_result(straight, discs, tmp_path):
    """Each setting changes the images chosen after the first phase, or the scores."""
    base = read_state(straight)
    reference = {function: base.loop(function, 0)[0] for function in ("mfe", "std")}
    changes = {
        "passes": {"loop": discs.loop(phases=2, passes=6)},
        "diversity": {"loop": discs.loop(phases=2, diversity="encoder", candidates=3)},
        "dropout": {
            "training": discs.training(
                network=NetworkSpec("unet_acdc", None, decoder_channels=(4, 8), dropout=0.7)
            )
        },
        "steps": {"training": discs.training(steps=4)},
        "structures": {
            "data": discs.data(structures=("lv", "myo")),
            "training": discs.training(losses={"dice": 1.0}),
        },
        "phases": {"data": discs.data(phases=("ED",)), "loop": discs.loop(phases=2)},
    }
    for name, given in changes.items():
        options = {"data": discs.data(), "loop": discs.loop(phases=2), "training": discs.training(), **given}
        run = run_active(str(tmp_path / name), options.pop("data"), **options)
        records = {function: read_state(run).loop(function, 0)[0] for function in reference}
        assert any(
            records[f].chosen != reference[f].chosen or records[f].scores != reference[f].scores for f in reference
        ), name
    diverse = read_state(tmp_path / "diversity")
    assert diverse.loop("random", 0)[0].chosen == base.loop("random", 0)[0].chosen


def test_scores_of_the_test_split_are_reported(discs, tmp_path):
    run = run_active(
        str(tmp_path / "run"),
        discs.data(test_split="test"),
        loop=discs.loop(functions=("random",), phases=1),
        training=discs.training(),
    )
    table = pd.read_csv(run / "phases.csv")
    results = json.loads((run / "results.json").read_text())
    assert results["measured"] == {"split": "test", "chosen_on": "val"}
    assert results["curves"][0]["mean"] == pytest.approx(table["test_iou"][0], abs=1e-5)
    assert "on which nothing was chosen" in write_active_report(run).read_text()


def test_report_names_functions_and_findings(straight):
    page = write_active_report(straight).read_text()
    for words in (
        "mean first entropy (MFE)",
        "Random",
        "serves to choose an acquisition function",
        "Labels needed",
        "Similarity",
    ):
        assert words in page
    assert "<dd>left ventricle</dd>" in page
    assert "random in each phase" in page
    assert "below it the lowest and the highest seed" in page
    assert "<script" not in page
    assert (straight / "figures" / "curves.png").is_file()
    with pytest.raises(DataError, match="no such file"):
        write_active_report(straight / "figures")


def phases(**scores):
    """Rows of phases.csv from the IoU of each phase per function and seed, with ten labels per phase."""
    rows = []
    for key, values in scores.items():
        function, seed = key.split("_")
        for phase, value in enumerate(values, 1):
            rows.append(
                {"function": function, "seed": int(seed), "phase": phase, "n_labels": 10 * phase, "iou": value}
            )
    return pd.DataFrame(rows)


def test_tables_match_hand_computed_values():
    table = phases(
        random_0=[0.5, 0.6, 0.8], random_1=[0.3, 0.8, 0.8], mfe_0=[0.5, 0.9, 0.9], mfe_1=[0.3, 0.4, 0.5]
    )
    found = curves(table, "iou").set_index(["function", "n_labels"])
    assert found.loc[("random", 10)].tolist() == pytest.approx([0.4, 0.1, 0.3, 0.5, 2])
    assert found.loc[("mfe", 20), "mean"] == pytest.approx(0.65)
    table.loc[table["seed"] == 1, "n_labels"] += 3  # by patient, seeds differ in the number of labels
    assert curves(table, "iou").set_index(["function", "n_labels"]).loc[("mfe", 22), "mean"] == pytest.approx(0.65)
    table["n_labels"] = 10 * table["phase"]
    assert levels(table, "iou", None) == pytest.approx([0.76, 0.784, 0.8])
    assert levels(table, "iou", 0.9)[-1] == 0.9
    needed = {
        (r["function"], r["score"]): (r["labels"], r["reached"]) for r in labels_needed(table, "iou", [0.8, 0.95])
    }
    assert needed == {
        ("random", 0.8): (25.0, 2),
        ("random", 0.95): (None, 0),
        ("mfe", 0.8): (20.0, 1),
        ("mfe", 0.95): (None, 0),
    }


def test_redundancy_matches_hand_computed_values(straight, discs):
    """Known patients are counted, and similarity is the correlation of block means by NumPy."""
    store, state = FrameStore(discs.store), read_state(straight)
    record = state.loop("mfe", 0)[0]
    row = pd.read_csv(straight / "phases.csv").query("function == 'mfe' and seed == 0 and phase == 1").iloc[0]
    before = state.initial[0]
    small = [store.frames([3 * (p // 2) + p % 2])[0].reshape(16, 2, 16, 2).mean((1, 3)).ravel() for p in range(16)]
    alike, known = [], []
    for i, p in enumerate(record.chosen):
        others = [q for q in [*before, *record.chosen] if q != p]
        alike.append(max(np.corrcoef(small[p], small[q])[0, 1] for q in others))
        known.append(p // 2 in {q // 2 for q in [*before, *record.chosen[:i]]})
    assert row["likeness"] == pytest.approx(np.mean(alike), abs=1e-5)
    assert row["known_patients"] == pytest.approx(np.mean(known), abs=1e-5)
    assert row["chosen"].split() == [f"s{p // 2}:{p % 2}" for p in record.chosen]
    frames = ActiveFrames(discs.data())
    assert frames.thumbnails is frames.thumbnails  # written after each phase, read once


BAD = [
    (
        {"loop": {"functions": ("mfee",)}},
        ParameterError,
        "unknown acquisition function 'mfee': did you mean 'mfe'",
    ),
    ({"loop": {"passes": 1}}, ParameterError, "passes is 1: give a whole number of at least 2"),
    ({"loop": {"budget": 2}}, ParameterError, "budget is 2, below the initial set of 3"),
    ({"loop": {"initial": 17}}, ParameterError, "initial is 17, but the pool holds 16 images"),
    ({"loop": {"per_phase": 0}}, ParameterError, "per_phase is 0: give a whole number of at least 1"),
    ({"loop": {"seeds": (0, 0)}}, ParameterError, "seeds is"),
    ({"loop": {"stop_iou": 87}}, ParameterError, "stop_iou is 87"),
    ({"loop": {"diversity": "encodr"}}, AlanError, "encodr"),
    (
        {"training": {"network": NetworkSpec("unet_acdc", None, decoder_channels=(4, 8))}},
        ParameterError,
        "no dropout",
    ),
    ({"training": {"steps": 0}}, ParameterError, "steps is 0: give a whole number of at least 1"),
    ({"training": {"losses": {"cross_entropy": 1.0}}}, ParameterError, "does not fit"),
    ({"training": {"lr": 1e30, "losses": {"dice": 1.0, "bce": 1.0}, "steps": 30}}, ParameterError, "loss is"),
    ({"data": {"structures": ("la",)}}, DataError, "no masks of 'la'"),
    ({"data": {"views": ("A2C",)}}, DataError, "the pool is empty"),
    ({"data": {"val_split": "train"}}, SplitLeakError, "give different splits"),
    ({"data": {"store": "nowhere.h5"}}, DataError, "no such frame store"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_invalid_options_are_refused_and_leave_no_files(options, error, message, discs, tmp_path):
    with pytest.raises(error, match=message):
        run_active(
            str(tmp_path / "run"),
            discs.data(**options.get("data", {})),
            loop=discs.loop(**options.get("loop", {})),
            training=discs.training(**options.get("training", {})),
        )
    assert not (tmp_path / "run").exists()


def test_a_random_loop_needs_no_dropout(discs, tmp_path):
    network = NetworkSpec("unet_acdc", None, decoder_channels=(4, 8))
    loop = discs.loop(functions=("random",), phases=2)
    run_active(str(tmp_path / "run"), discs.data(), loop=loop, training=discs.training(network=network))


def test_a_patient_in_pool_and_val_is_refused(discs, tmp_path):
    store = discs.make("leaky", ["train", "train", "val"], ["p0", "p1", "p0"])
    with pytest.raises(SplitLeakError, match=r"patient 'p0' is in the pool \('train'\) and in 'val'"):
        run_active(str(tmp_path / "run"), discs.data(store=store), loop=discs.loop(), training=discs.training())


def test_another_configuration_or_store_is_refused(straight, discs, tmp_path):
    with pytest.raises(ConfigError, match=r"another configuration \(loop\.passes\)"):
        run_active(str(straight), discs.data(), loop=discs.loop(seeds=(0, 1), passes=4), training=discs.training())
    state = read_state(straight)
    with pytest.raises(ConfigError, match="made on other frames"):
        read_state(straight, state.frames[::-1])
    (tmp_path / "state.json").write_text('{"schema": "alan-active/1"}')
    with pytest.raises(DataError, match="damaged"):
        read_state(tmp_path)
