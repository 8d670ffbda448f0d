import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState

from alan.errors import ConfigError, ParameterError
from alan.search.results import importances, trial_table
from alan.search.settings import StudySettings
from alan.search.space import point_key
from alan.search.study import REASON
from alan.search.trial import Outcome

from .conftest import SPACE, objective, score


def keys(search):
    return [point_key(trial.params) for trial in search.trials()]


def drawn(search):
    """Points of the finished trials, in order."""
    return [point_key(trial.params) for trial in search.trials() if trial.state is TrialState.COMPLETE]


def test_random_search_trains_each_point_once(open_study):
    search = open_study(60)
    search.run(objective)
    assert search.progress().settled == 60
    assert len(set(keys(search))) == 60
    best = search.study.best_trial
    assert best.value == pytest.approx(max(score(point) for point in SPACE.points()))
    assert (best.params["encoder"], best.params["lr"]) == ("mobilenet_v2", 1e-3)


def test_more_trials_than_points(open_study):
    search = open_study(100, space=replace(SPACE, encoders=("vgg11",), lrs=(1e-3,)))
    search.run(objective)
    assert len(search.trials()) == search.n_trials == 4


def test_what_is_drawn_follows_from_the_seed(open_study):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        search = open_study(5, name=name, seed=seed)
        search.run(objective)
        runs.append(keys(search))
    assert runs[0] == runs[1] != runs[2]


def test_tpe_learns_and_never_repeats(open_study):
    """It has the best of sixty within twenty trials, in which random search does not."""
    found = {}
    for sampler in ("tpe", "random"):
        search = open_study(20, sampler=sampler, name=sampler)
        search.run(objective)
        assert len(set(keys(search))) == 20
        found[sampler] = search.study.best_value
    assert found["tpe"] == pytest.approx(max(score(point) for point in SPACE.points()))
    assert found["tpe"] > found["random"]


def test_a_search_goes_on(open_study):
    """Interrupted in the midst of three trials: their points are trained all the same, and none is repeated."""

    def interrupted(point, report):
        if len(drawn(broken)) in stops:
            stops.remove(len(drawn(broken)))
            lost.append(point_key(point.to_dict()))
            raise KeyboardInterrupt
        return objective(point, report)

    stops, lost = {0, 2, 3}, []
    for _ in range(4):
        broken = open_study(6, disk=True)
        try:
            broken.run(interrupted)
        except KeyboardInterrupt:
            continue
    assert not stops
    assert len(set(drawn(broken))) == 6
    assert len(lost) == 3
    assert set(lost) <= set(drawn(broken))
    assert broken.progress().settled == 6


def test_more_trials_continue_a_finished_study(open_study):
    open_study(3).run(objective)
    calls = []
    search = open_study(5)
    search.run(lambda point, report: calls.append(point) or objective(point, report))
    assert len(calls) == 2
    assert len(set(keys(search))) == 5


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB"), "out of memory (CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory (Default"),
        (MemoryError(), "out of memory (MemoryError)"),
        (ParameterError("the loss is nan at step 3: lower lr"), "the loss is nan at step 3"),
        (ParameterError("pan over vgg11 cannot be built"), "cannot be built"),
    ],
    ids=["cuda", "cpu", "python", "diverged", "impossible"],
)
def test_failures_are_recorded_and_the_search_goes_on(open_study, error, reason):
    def failing(point, report):
        if point.encoder == "vgg11":
            raise error
        return objective(point, report)

    search = open_study(20)
    search.run(failing)
    failed = [trial for trial in search.trials() if trial.state is TrialState.FAIL]
    assert failed
    assert all(trial.params["encoder"] == "vgg11" and reason in trial.user_attrs[REASON] for trial in failed)
    table = trial_table(search)
    assert len(table) == 20
    assert set(table["state"]) == {"complete", "failed"}
    assert table.loc[table["state"] == "failed", "reason"].str.contains(reason, regex=False).all()
    assert len(set(keys(search))) == 20


def test_other_errors_end_the_search_and_lose_nothing(open_study):
    def broken(point, report):
        raise OSError("disk on fire")

    search = open_study(3)
    with pytest.raises(OSError, match="disk on fire"):
        search.run(broken)
    search = open_study(3)
    assert search.progress().settled == 0
    search.run(objective)
    states = [trial.state for trial in search.trials()]
    assert states == [TrialState.COMPLETE] * 3
    first = [trial for trial in search.study.trials if trial.user_attrs.get("dropped") == "interrupted"]
    assert point_key(first[0].params) in keys(search)


def test_another_space_under_the_same_name(open_study):
    open_study(2, identity={"training": {"max_epochs": 3}}).run(objective)
    with pytest.raises(ConfigError, match=r"'search' is of another search space \(lrs\)"):
        open_study(2, space=replace(SPACE, lrs=(1e-3,)), identity={"training": {"max_epochs": 3}})
    with pytest.raises(ConfigError, match="is of another training"):
        open_study(2, identity={"training": {"max_epochs": 4}})
    with pytest.raises(ConfigError, match="is of another objectives"):
        open_study(2, objectives=("iou", "latency"), identity={"training": {"max_epochs": 3}})
    open_study(2, name="other", space=replace(SPACE, lrs=(1e-3,))).run(objective)
    assert len(open_study(2, identity={"training": {"max_epochs": 3}}).trials()) == 2


def learning(point, report):
    """Five validations up to the score."""
    for step in range(1, 6):
        report(step, score(point) * step / 5)
    return Outcome(score(point), 0.1)


@pytest.mark.parametrize("pruner", ["none", "median", "hyperband"])
def test_pruning(open_study, pruner):
    search = open_study(25, pruner=pruner)
    search.run(learning)
    states = [trial.state for trial in search.trials()]
    assert len(states) == len(set(keys(search))) == 25
    pruned = [trial for trial in search.trials() if trial.state is TrialState.PRUNED]
    assert bool(pruned) == (pruner != "none")
    for trial in pruned:
        assert len(trial.intermediate_values) < 5


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_two_objectives(open_study, sampler):
    search = open_study(15, objectives=("iou", "latency"), sampler=sampler)
    search.run(learning if sampler == "random" else objective)
    values = [tuple(trial.values) for trial in search.trials()]
    assert len(set(keys(search))) == 15
    front = {
        (iou, latency)
        for iou, latency in values
        if not any((i >= iou and t < latency) or (i > iou and t <= latency) for i, t in values)
    }
    assert {tuple(trial.values) for trial in search.study.best_trials} == front


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_trials": 0}, ParameterError, "n_trials is 0: give a whole number of at least 1"),
        ({"sampler": "tpee"}, ParameterError, "sampler is 'tpee': did you mean 'tpe'"),
        ({"pruner": "medan"}, ParameterError, "pruner is 'medan': did you mean 'median'"),
        ({"objectives": ("iuo",)}, ParameterError, r"objectives\[0\] is 'iuo': did you mean 'iou'"),
        ({"objectives": ("latency",)}, ParameterError, r"give \[iou\] or \[iou, latency\]"),
        ({"objectives": ("iou", "latency"), "pruner": "median"}, ConfigError, "works with one objective"),
        ({"sampler": "nsga2"}, ConfigError, "is for two objectives"),
    ],
)
def test_settings_that_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        StudySettings(**{"n_trials": 3, **settings})


def test_importances_need_enough_trials(open_study):
    few = open_study(5)
    few.run(objective)
    assert importances(few.study) == ({}, "Importances need at least 10 finished trials; there are 5.")
    many = open_study(45)
    many.run(objective)
    shares, note = importances(many.study)
    assert set(shares) == {"encoder", "decoder", "lr", "batch_size"}  # one depth only
    assert max(shares, key=shares.get) == "encoder"
    assert sum(shares.values()) == pytest.approx(1)
    assert "rough" in note


WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import optuna
from conftest import SPACE, objective
from alan.search.settings import StudySettings
from alan.search.storage import open_storage
from alan.search.study import SearchStudy

folder, n, mode = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
settings = StudySettings(n, heartbeat=1)
storage = open_storage(folder / "study.db", None, 1, 2)
search = SearchStudy.open(storage, SPACE, SPACE.points()[:8], settings, identity={})

def slow(point, report):
    if mode == "hang":
        (folder / "hanging").write_text(str(point))
        time.sleep(600)
    time.sleep(0.05)
    return objective(point, report)

search.run(slow)
"""


def worker(folder, n, mode):
    args = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(folder), str(n), mode]
    return subprocess.Popen(args, stderr=subprocess.PIPE)


def test_processes_share_a_study_and_survive_each_other(open_study, tmp_path):
    """One hangs in a trial and is killed; two others finish all eight points, its own among them, none twice."""
    hung = worker(tmp_path, 8, "hang")
    deadline = time.monotonic() + 300
    while not (tmp_path / "hanging").exists():
        assert time.monotonic() < deadline, hung.stderr.read().decode()
        time.sleep(0.1)
    others = [worker(tmp_path, 8, "work") for _ in range(2)]
    search = open_study(8, disk=True, space=SPACE)
    while search.progress().settled < 7:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert search.progress().running == 1  # still alive: nobody takes its trial
    hung.kill()
    hung.wait()
    for other in others:
        assert other.wait(60) == 0, other.stderr.read().decode()
    done = drawn(search)
    assert len(done) == len(set(done)) == 8
    killed = [
        trial
        for trial in search.study.trials
        if trial.state is TrialState.FAIL and not trial.user_attrs.get("dropped")
    ]
    assert len(killed) == 1
    assert point_key(killed[0].params) in done


def test_a_trial_that_kills_its_process_twice_is_a_failure(open_study):
    """The system's out-of-memory killer leaves no reason: tried once more, then recorded."""
    search = open_study(2, disk=True)
    storage = search.study._storage
    for _ in range(2):
        trial = search.study.ask()
        for name, values in SPACE.axes().items():
            trial.suggest_categorical(name, list(values))
        trial.set_user_attr("worker", "gone:1")
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        storage.get_heartbeat_stale_trial_callback()(search.study, search.study.trials[trial.number])
    assert search.progress().settled == 1
    search.run(objective)
    table = trial_table(search)
    assert list(table["state"]) == ["failed", "complete"]
    assert "died twice" in table["reason"][0]


def test_a_trial_killed_before_it_began_is_dropped(open_study, monkeypatch):
    search = open_study(2)
    search.study.ask()  # and the process was gone
    monkeypatch.setattr(StudySettings, "grace", 0)  # no patience
    search.run(objective)
    assert [trial.state for trial in search.trials()] == [TrialState.COMPLETE] * 2
    assert optuna.load_study(study_name="search", storage=search.study._storage).trials[0].state is TrialState.FAIL
