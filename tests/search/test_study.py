import contextlib
import json
import os
import signal
import sqlite3
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest
import sqlalchemy
import torch
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState, create_trial

from alan.errors import ConfigError, DataError, ParameterError
from alan.report.search import write_search_report
from alan.search.results import importances, pruning, trial_table
from alan.search.sampler import DROPPED
from alan.search.settings import StudySettings
from alan.search.space import point_key
from alan.search.storage import explain_lost_storage, open_storage
from alan.search.study import REASON, WORKER
from alan.search.trial import Outcome

from .conftest import PASSWORD, SPACE, exit_code, objective, score, silence, trial_of, wait_for


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


def test_more_trials_than_points_are_refused(open_study):
    search = open_study(100, space=replace(SPACE, encoders=("vgg11",), lrs=(1e-3,)))
    search.run(objective)
    assert len(search.trials()) == search.n_trials == 4


def test_points_depend_on_the_seed(open_study):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        search = open_study(5, name=name, seed=seed)
        search.run(objective)
        runs.append(keys(search))
    assert runs[0] == runs[1] != runs[2]


def test_tpe_improves_and_never_repeats_a_point(open_study):
    """It has the best of sixty within twenty trials, in which random search does not."""
    found = {}
    for sampler in ("tpe", "random"):
        search = open_study(20, sampler=sampler, name=sampler)
        search.run(objective)
        assert len(set(keys(search))) == 20
        found[sampler] = search.study.best_value
    assert found["tpe"] == pytest.approx(max(score(point) for point in SPACE.points()))
    assert found["tpe"] > found["random"]


def test_a_search_resumes(open_study):
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


@pytest.mark.parametrize(
    "options", [{}, {"sampler": "tpe"}, {"sampler": "nsga2", "objectives": ("iou", "latency")}]
)
def test_an_interrupted_search_draws_the_points_of_an_uninterrupted_one(open_study, options):
    """The repeated trial has a new number; points, order and scores are the same."""

    def interrupted(point, report):
        calls.append(point)
        if len(calls) in (1, 3, 7):
            raise KeyboardInterrupt
        return objective(point, report)

    whole, calls = open_study(12, **options), []
    whole.run(objective)
    for _ in range(4):
        broken = open_study(12, name="broken", **options)
        with contextlib.suppress(KeyboardInterrupt):
            broken.run(interrupted)
    assert len(broken.study.trials) == 12 + 3
    assert drawn(broken) == drawn(whole)
    assert [trial.values for trial in broken.trials()] == [trial.values for trial in whole.trials()]


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
        (RuntimeError("could not create a primitive"), "out of memory (could not create a primitive)"),
        (ParameterError("the loss is nan at step 3: lower lr"), "the loss is nan at step 3"),
        (ParameterError("pan over vgg11 cannot be built"), "cannot be built"),
    ],
    ids=["cuda", "cpu", "python", "diverged", "onednn", "impossible"],
)
def test_failures_are_recorded_and_the_search_continues(open_study, error, reason):
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


def test_another_space_under_the_same_name_is_refused(open_study):
    open_study(2, identity={"training": {"max_epochs": 3}}).run(objective)
    with pytest.raises(ConfigError, match=r"'search' differs in its space \(lrs\)"):
        open_study(2, space=replace(SPACE, lrs=(1e-3,)), identity={"training": {"max_epochs": 3}})
    with pytest.raises(ConfigError, match=r"differs in its training \(max_epochs\)"):
        open_study(2, identity={"training": {"max_epochs": 4}})
    with pytest.raises(ConfigError, match="differs in its objectives"):
        open_study(2, objectives=("iou", "latency"), identity={"training": {"max_epochs": 3}})
    with pytest.raises(ConfigError, match="differs in its sampler"):
        open_study(2, sampler="tpe", identity={"training": {"max_epochs": 3}})
    open_study(2, name="other", space=replace(SPACE, lrs=(1e-3,))).run(objective)
    assert len(open_study(2, identity={"training": {"max_epochs": 3}}).trials()) == 2


def learning(point, report):
    """Five validations up to the score."""
    for step in range(1, 6):
        report(step, score(point) * step / 5)
    return Outcome(score(point), 0.1)


@pytest.mark.parametrize("pruner", ["none", "median", "halving", "hyperband"])
def test_poor_trials_are_pruned(open_study, pruner):
    search = open_study(25, pruner=pruner)
    search.run(learning)
    states = [trial.state for trial in search.trials()]
    assert len(states) == len(set(keys(search))) == 25
    pruned = [trial for trial in search.trials() if trial.state is TrialState.PRUNED]
    assert bool(pruned) == (pruner != "none")
    for trial in pruned:
        assert len(trial.intermediate_values) < 5


@pytest.mark.parametrize("pruner", ["median", "halving", "hyperband"])
def test_a_trial_trained_to_its_end_is_finished(open_study, pruner):
    """Four validations, the last of which is a rung of halving: poor trials are stopped before it, not at it."""

    def late(point, report):
        for step in (1, 2, 3):
            report(step, 0.5)
        report(4, score(point))
        return Outcome(score(point), 0.1)

    search = open_study(20, pruner=pruner, validations=4)
    search.run(late)
    ended = [trial for trial in search.trials() if len(trial.intermediate_values) == 4]
    assert len(ended) > 4
    assert {trial.state for trial in ended} == {TrialState.COMPLETE}


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_two_objectives_are_optimised(open_study, sampler):
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
def test_invalid_settings_are_refused(settings, error, message):
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


def test_importances_use_the_first_validation_if_few_trials_finish(open_study):
    """All trials but three are stopped; the last scores follow the learning rate, the first ones the encoder."""
    search, finished = open_study(30), []

    def stopping(point, report):
        report(1, score(point))
        if len(finished) == 3:
            raise optuna.TrialPruned
        finished.append(point)
        return Outcome(point.lr, 0.01)

    search.run(stopping)
    shares, note = importances(search.study)
    assert (
        note == "fANOVA over 30 trials, for the IoU at their first validation. With fewer than 50 they are rough."
    )
    assert max(shares, key=shares.get) == "encoder"
    assert sum(shares.values()) == pytest.approx(1)


def test_a_trial_that_kills_its_process_twice_fails(open_study):
    """The system's out-of-memory killer leaves no reason: trained once more, then recorded."""
    search = open_study(2, disk=True)
    for _ in range(2):
        trial = search.study.ask()
        for name, values in SPACE.axes().items():
            trial.suggest_categorical(name, list(values))
        trial.set_user_attr(WORKER, "gone:1")
        search.study._storage.record_heartbeat(trial._trial_id)
        silence(search.study, trial)
        search._reap()
    assert search.progress().settled == 1
    search.run(objective)
    table = trial_table(search)
    assert list(table["state"]) == ["failed", "complete"]
    assert "died twice" in table["reason"][0]
    assert str(table["parameters"][1]) == "10"  # a whole number beside one that is missing


@pytest.mark.parametrize("queued", [False, True], ids=["fresh", "queued"])
def test_a_trial_of_a_dead_process_is_repeated(open_study, monkeypatch, queued):
    """It is dropped; a point that was queued for it is trained all the same."""
    search = open_study(2)
    point = SPACE.points()[7].to_dict()
    if queued:
        space = search.study.sampler.infer_relative_search_space(search.study, None)
        search.study.add_trial(create_trial(state=TrialState.WAITING, params=point, distributions=space))
    search.study.ask()  # and the process was gone
    search._reap()
    assert search.progress().running == 1  # it may still begin
    monkeypatch.setattr(StudySettings, "grace", 0)  # no patience
    search.run(objective)
    assert [trial.state for trial in search.trials()] == [TrialState.COMPLETE] * 2
    assert search.study.trials[0].state is TrialState.FAIL
    assert (point_key(point) in keys(search)) == queued


END = {
    "returns": None,
    "reports": None,
    "fails": RuntimeError("out of luck"),
    "prunes": optuna.TrialPruned(),
}


@pytest.mark.parametrize("end", END)
def test_a_process_presumed_dead_drops_its_trial_and_continues(open_study, caplog, end):
    """It was stopped for so long that another process failed its trial; whatever it does next, nothing breaks."""
    search, other, seen = open_study(4, disk=True), open_study(4, disk=True), []

    def stopped(point, report):
        seen.append(point)
        if len(seen) == 2:
            silence(search.study, search.study.trials[-1])
            other._reap()
            if end == "reports":
                report(1, 0.5)
            if END[end] is not None:
                raise END[end]
        return objective(point, report)

    search.run(stopped)
    assert [trial.state for trial in search.trials()] == [TrialState.COMPLETE] * 4
    assert seen.count(seen[1]) == 2  # trained again
    assert caplog.text.count("trial 1 is dropped: this process sent no heartbeat for more than 3600 s") == 1


def test_a_process_presumed_dead_can_be_interrupted(open_study):
    search, other = open_study(2, disk=True), open_study(2, disk=True)

    def interrupted(point, report):
        silence(search.study, search.study.trials[-1])
        other._reap()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.run(interrupted)
    other.run(objective)
    assert len(set(keys(other))) == len(keys(other)) == 2


def test_a_claimed_trial_has_a_heartbeat(open_study, monkeypatch):
    """If its process died at that moment without one, every other process would wait for it forever."""
    search, claim, beats = open_study(1, disk=True), optuna.trial.Trial.set_user_attr, []

    def claims(trial, key, value):
        claim(trial, key, value)
        if key == WORKER:
            with search.study._storage._backend.engine.begin() as connection:
                beats.append(connection.execute(sqlalchemy.text("SELECT count(*) FROM trial_heartbeats")).scalar())

    monkeypatch.setattr(optuna.trial.Trial, "set_user_attr", claims)
    search.run(objective)
    assert beats == [1]


def test_a_slow_trial_sends_heartbeats(open_study):
    search = open_study(1, disk=True, heartbeat=1)

    def slow(point, report):
        storage = search.study._storage._backend
        with storage.engine.begin() as connection:
            beats = sqlalchemy.text("SELECT heartbeat FROM trial_heartbeats")
            wait_for(lambda: connection.execute(beats).scalar() is not None)
        silence(search.study, search.study.trials[-1])
        wait_for(lambda: not storage._get_stale_trial_ids(search.study._study_id))  # it has given another one
        return objective(point, report)

    search.run(slow)
    assert search.progress().settled == 1


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_processes_share_a_study(tmp_path, worker, request, database):
    """Three workers: one is killed in a trial, one is stopped in another; all points are trained, none twice.

    When the stopped one continues, its trial has been given up: it says so, and ends well. The password of the
    database is in no output.
    """
    url = request.getfixturevalue("postgresql") if database == "postgresql" else ""
    run = tmp_path / "run"
    killed, stopped = worker("hang", url), worker("wait", url)
    wait_for(lambda: all((run / f"{mode}.mark").exists() for mode in ("hang", "wait")))
    storage = open_storage(run / "study.db", url or None, 600, 3600)
    study = optuna.load_study(study_name="search", storage=storage)
    trials = [trial_of(study, process) for process in (killed, stopped)]
    killed.kill()
    os.kill(stopped.pid, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{stopped.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    for trial in trials:
        silence(study, trial)
    assert exit_code(worker("work", url)) == 0
    (run / "go").touch()
    os.kill(stopped.pid, signal.SIGCONT)
    assert exit_code(stopped) == 0
    points = [point_key(trial.params) for trial in study.trials if trial.state is TrialState.COMPLETE]
    assert len(points) == len(set(points)) == 12
    given_up = [
        trial for trial in study.trials if trial.state is TrialState.FAIL and DROPPED not in trial.user_attrs
    ]
    assert {trial.number for trial in given_up} == {trial.number for trial in trials}
    assert {point_key(trial.params) for trial in given_up} <= set(points)
    storage.engine.dispose()
    log = next(tmp_path.glob("wait*.log")).read_text()
    assert f"trial {trials[1].number} is dropped: this process sent no heartbeat" in log
    assert "Traceback" not in log
    write_search_report(run)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "study.db"]
    assert {"config.yaml", "results.json", "report.html", "best.yaml"} <= {path.name for path in written}
    if url:
        assert "alan:***@" in (run / "config.yaml").read_text()
        assert "alan:***@" in json.loads((run / "results.json").read_text())["provenance"]["command"]
    for path in written:
        content = path.read_bytes()
        assert PASSWORD.encode() not in content, path
        assert PASSWORD.replace(":", "%3A").encode() not in content, path


def test_a_refusing_database_is_reported(postgresql, tmp_path):
    """The error names the database, not the password."""
    wrong = postgresql.replace("correct", "wrong")
    with pytest.raises(ConfigError, match=r"alan:\*\*\*@127.0.0.1:\d+/postgres cannot be used") as error:
        open_storage(tmp_path / "study.db", wrong, 10, 60)
    assert "horse" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgres//alan:secret@host/name", "study.storage is not a database URL"),
        ("postgresql://alan:secret@host:port/name", "study.storage is not a database URL"),
        ("mysql://alan:secret@127.0.0.1/name", r"mysql://alan:\*\*\*@127.0.0.1/name: its driver is missing"),
        ("postgresql://alan:secret@127.0.0.1:1/name", r"alan:\*\*\*@127.0.0.1:1/name cannot be used"),
        ("sqlite:////nowhere/a.db?password=secret", r"/nowhere/a.db\?password=\*\*\*: not a database of a study"),
    ],
)
def test_refused_urls_are_shown_without_password(tmp_path, url, message):
    with pytest.raises((ConfigError, DataError), match=message) as error:
        open_storage(tmp_path / "study.db", url, 10, 60)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("reason", ["database or disk is full", "disk I/O error"])
def test_a_full_disk_for_the_database_is_reported(tmp_path, monkeypatch, reason):
    monkeypatch.setattr("sqlite3.connect", Mock(side_effect=sqlite3.OperationalError(reason)))
    with pytest.raises(DataError, match=f"study.db: {reason}: free some space, or check the disk; run again"):
        open_storage(tmp_path / "study.db", None, 10, 60)


def test_a_lost_database_is_reported():
    with pytest.raises(ConfigError, match="the study's database failed"), explain_lost_storage():
        raise StorageInternalError("server closed the connection")


def test_pairs_that_cannot_be_built_are_skipped(open_study):
    """Each pair is tried once, when a point of it is drawn; the result does not depend on who found it out."""
    tried = []

    def builds(*pair):
        tried.append(pair)
        return f"{pair[0]} over {pair[1]}: no depth works" if pair[1] in ("vgg11", "resnet34") else None

    search = open_study(60, builds=builds)
    search.run(objective)
    assert search.n_trials == search.progress().settled == 36
    assert {trial.params["encoder"] for trial in search.trials()} == set(SPACE.encoders) - {"vgg11", "resnet34"}
    assert sorted(tried) == sorted(SPACE.pairs())
    assert search.pairs.impossible()["unet", "vgg11", 5] == "unet over vgg11: no depth works"
    few = open_study(5, name="few", builds=builds)
    tried.clear()
    few.run(objective)
    assert len(tried) <= 5 + len(few.pairs.impossible())
    for warm in (False, True):
        again = open_study(20, name=f"again {warm}", builds=builds)
        if warm:
            assert [pair for pair in SPACE.pairs() if pair in again.pairs]  # another process has tried all
        again.run(objective)
    assert drawn(open_study(20, name="again False")) == drawn(open_study(20, name="again True"))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_space_without_a_buildable_pair_is_refused(open_study, sampler):
    search = open_study(3, builds=lambda *pair: "no luck", sampler=sampler, name=sampler)
    with pytest.raises(ParameterError, match="no pair of the space can be built, the first: no luck"):
        search.run(objective)


def test_the_share_saved_by_pruning_matches_hand_computed_values():
    def trial(state, reached):
        values = dict.fromkeys(range(1, reached + 1), 0.5)
        value = None if state is TrialState.FAIL else 0.5
        return create_trial(state=state, value=value, intermediate_values=values)

    done = [trial(TrialState.COMPLETE, 5), trial(TrialState.PRUNED, 1), trial(TrialState.PRUNED, 3)]
    assert pruning([*done, trial(TrialState.FAIL, 2)], 5) == {"pruned": 2, "saved": (4 + 2) / 15}
    assert pruning([], 5) == {"pruned": 0, "saved": None}


def test_a_limit_of_open_files_is_the_cause_of_a_storage_without_versions(tmp_path, monkeypatch):
    """Optuna takes a folder that it cannot list for an empty one."""

    def fail(*args):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("alan.search.storage.RDBStorage", Mock(side_effect=AssertionError))
    monkeypatch.setattr("pathlib.Path.iterdir", fail)
    with pytest.raises(OSError, match="Too many open files"):
        open_storage(tmp_path / "study.db", None, 10, 60)
