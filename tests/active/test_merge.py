"""Merging runs of single loops gives the run that contains all of them."""

import json
import shutil

import pandas as pd
import pytest
import yaml

from alan.active.loop import run_active
from alan.active.merge import merge_runs
from alan.active.state import read_state
from alan.errors import ConfigError, DataError, ParameterError


@pytest.fixture(scope="module")
def loop(discs, tmp_path_factory):
    """``loop(functions, seeds, ...)``: the folder of a run of two phases, made once."""
    made, folder = {}, tmp_path_factory.mktemp("loops")

    def run(functions, seeds, lr=1e-2, **options):
        key = json.dumps([functions, seeds, lr, options])
        if key not in made:
            settings = discs.loop(functions=functions, seeds=seeds, **{"phases": 2, "targets": (0.5,), **options})
            made[key] = folder / str(len(made))
            run_active(
                str(made[key]),
                discs.data(test_split="test"),
                loop=settings,
                training=discs.training(lr=lr),
                title="T",
            )
        return made[key]

    return run


def test_a_merged_run_equals_one_run(loop, tmp_path, alan):
    whole = loop(("random", "std"), (0, 1))
    parts = [loop((function,), (seed,)) for function in ("random", "std") for seed in (0, 1)]
    out = tmp_path / "merged"
    ran = alan("active", "merge", *parts, "--out", out)
    assert ran.code == 0, ran.err
    order = ["function", "seed", "phase"]
    one, other = (pd.read_csv(run / "phases.csv").sort_values(order, ignore_index=True) for run in (whole, out))
    pd.testing.assert_frame_equal(one, other)
    results = [json.loads((run / "results.json").read_text()) for run in (whole, out)]
    assert results[0]["comparison"] == results[1]["comparison"]
    assert results[0]["comparison"][1]["area_gain"]
    assert (out / "report.html").is_file()
    config = out / "config.yaml"
    assert yaml.safe_load(config.read_text()) == yaml.safe_load((whole / "config.yaml").read_text())
    before = read_state(out).finished
    assert alan("active", "run", "--config", config, "--out", out).code == 0  # nothing left to do
    assert read_state(out).finished == before


def test_an_unfinished_loop_is_merged_and_continued(loop, discs, tmp_path, alan):
    done, half = loop(("random",), (0,)), tmp_path / "half"
    state = read_state(loop(("std",), (0,)))  # as a process that was killed after its first phase leaves it
    state.finished = [phase for phase in state.finished if phase.phase == 1]
    half.mkdir()
    shutil.copy(loop(("std",), (0,)) / "config.yaml", half)
    state.save(half)
    out = merge_runs([done, half], str(tmp_path / "merged"))
    assert [phase.phase for phase in read_state(out).loop("std", 0)] == [1]
    assert alan("active", "run", "--config", out / "config.yaml", "--out", out).code == 0
    assert read_state(out).loop("std", 0) == read_state(loop(("std",), (0,))).loop("std", 0)


def test_a_finished_run_is_continued_to_more_phases(loop, tmp_path, alan):
    straight = loop(("random", "std"), (0,), phases=3)
    out = tmp_path / "longer"
    ran = alan("active", "merge", loop(("random", "std"), (0,)), "--out", out, "--phases", 3)
    assert ran.code == 0, ran.err
    assert {phase.phase for phase in read_state(out).finished} == {1}
    assert alan("active", "run", "--config", out / "config.yaml", "--out", out).code == 0
    for function in ("random", "std"):
        assert read_state(out).loop(function, 0) == read_state(straight).loop(function, 0)


@pytest.mark.parametrize(
    ("options", "phases", "message"),
    [
        ({}, 2, "phases is 2: give more than 2, the phases of the runs"),
        ({"warm_start": True}, 3, "warm-started runs keep no weights"),
        ({"phases": 1}, 2, "the runs have one phase"),
    ],
)
def test_runs_that_cannot_be_continued_are_refused(loop, tmp_path, options, phases, message):
    with pytest.raises(ParameterError, match=message):
        merge_runs([loop(("random",), (0,), **options)], str(tmp_path / "out"), phases=phases)
    assert not (tmp_path / "out").exists()


def test_runs_on_a_moved_store_are_merged(loop, discs, tmp_path):
    moved = tmp_path / "moved.h5"
    shutil.copy(discs.store, moved)
    out = merge_runs([loop(("random",), (0,))], str(tmp_path / "merged"), store=str(moved))
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["store"] == str(moved)


def test_runs_that_differ_are_not_merged(loop, discs, tmp_path):
    first, out = loop(("random",), (0,)), str(tmp_path / "out")
    cases = {
        (): (ParameterError, "runs is empty"),
        (first, loop(("random",), (0, 1))): (ParameterError, "both hold random, seed 0"),
        (first, loop(("std",), (1,))): (ParameterError, r"no run holds random, seed 1 \(2 missing\)"),
        (first, loop(("std",), (0,), lr=1e-3)): (ConfigError, r"differs from .* in training\.lr"),
        (first, loop(("std",), (0,), initial=4)): (ConfigError, r"in loop\.initial"),
        (first, tmp_path / "none"): (DataError, "none"),
    }
    for runs, (error, message) in cases.items():
        with pytest.raises(error, match=message):
            merge_runs(runs, out)
    other = discs.make("other", ["train"] * 7 + ["val"] * 3 + ["test"] * 2)
    with pytest.raises(ConfigError, match="other frames"):
        merge_runs([first], out, store=other)
    assert not (tmp_path / "out").exists()
