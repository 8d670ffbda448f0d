"""A space of sixty points whose scores are a formula, processes that search it, and a PostgreSQL server."""

import contextlib
import logging
import multiprocessing
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import alembic.command  # noqa: F401 (as the next two: imported here so that no forked process has to)
import kornia.augmentation  # noqa: F401
import optuna
import pytest
import segmentation_models_pytorch  # noqa: F401
import sqlalchemy
from optuna.storages import InMemoryStorage

from alan.search.run import run_search
from alan.search.settings import SearchData, StudySettings
from alan.search.space import SearchSpace
from alan.search.storage import open_storage
from alan.search.study import WORKER, SearchStudy
from alan.search.trial import Outcome
from alan.supervised.settings import TrainingSettings

#: Longest wait of a test in seconds; no test depends on how long something takes.
PATIENCE = 300
PASSWORD = "correct-horse:battery"
SPACE = SearchSpace(
    encoders=("resnet18", "resnet34", "mobilenet_v2", "efficientnet-b0", "vgg11"),
    decoders=("unet", "fpn"),
    lrs=(1e-2, 1e-3, 1e-4),
    batch_sizes=(4, 8),
)


def score(point):
    """Score of a point; the best is (mobilenet_v2, fpn, 1e-3, 8)."""
    iou = 0.1 * SPACE.encoders.index(point.encoder) * (4 - SPACE.encoders.index(point.encoder)) + 0.2
    return iou + 0.1 * (point.decoder == "fpn") + 0.05 * (point.lr == 1e-3) + 0.02 * (point.batch_size == 8)


def objective(point, report):
    return Outcome(score(point), 0.01 * len(point.encoder), {"parameters": 10})


@pytest.fixture
def open_study(tmp_path):
    """``open_study(n, ...)``: a study, the same one each time unless settings say otherwise.

    It is kept in memory, or with ``disk=True`` in ``tmp_path / "study.db"``. A trial counts as dead only after an
    hour, so that a busy machine changes nothing: see :func:`silence`.
    """
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    storages = [InMemoryStorage()]

    def opened(
        n_trials=10,
        *,
        space=SPACE,
        identity=None,
        disk=False,
        builds=lambda *pair: None,
        validations=5,
        **settings,
    ):
        asked = StudySettings(n_trials, **{"heartbeat": 600, **settings})
        if disk:
            storages.append(open_storage(tmp_path / "study.db", None, asked.heartbeat, asked.grace))
        storage = storages[-1] if disk else storages[0]
        options = {"identity": identity or {}, "builds": builds, "validations": validations}
        return SearchStudy.open(storage, space, asked, **options)

    yield opened
    optuna.logging.set_verbosity(level)
    for storage in storages[1:]:
        storage.engine.dispose()


def wait_for(condition):
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def silence(study, trial):
    """Make the last heartbeat of a trial as old as if its process were dead; it must send none afterwards."""
    storage = study._storage._backend

    def age():
        with storage.engine.begin() as connection:
            old = "UPDATE trial_heartbeats SET heartbeat = '2000-01-01 00:00:00' WHERE trial_id = :trial"
            return connection.execute(sqlalchemy.text(old), {"trial": trial._trial_id}).rowcount

    wait_for(age)


def trial_of(study, process):
    """The running trial of a process."""
    return next(t for t in study.trials if t.user_attrs.get(WORKER, "").endswith(f":{process.pid}"))


def search_process(store, out, url, mode, log):
    """Search 12 points, in a process of its own."""
    with log.open("wb") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    logging.basicConfig(force=True)
    sys.argv = ["search", url, mode]

    def slow(point, report):
        mark = out / f"{mode}.mark"
        if mode != "work" and not mark.exists():
            mark.touch()
            while mode == "hang" or not (out / "go").exists():
                time.sleep(0.05)
        return objective(point, report)

    study = StudySettings(12, heartbeat=600, storage=url or None)
    data, training = SearchData((store,), ("lv",)), TrainingSettings(epochs=3)
    run_search(out, SPACE, data, training, study, objective=slow, builds=lambda *pair: None, progress=False)


@pytest.fixture
def worker(tiny, tmp_path):
    """``worker(mode, url)`` starts a search of 12 points in ``tmp_path / "run"`` in a forked process.

    Mode ``work`` trains; ``hang`` hangs in its first trial for ever, ``wait`` until a file ``go`` is in the
    folder.
    """
    processes = []

    def start(mode, url=""):
        args = (tiny.store("camus"), tmp_path / "run", url, mode, tmp_path / f"{mode}{len(processes)}.log")
        processes.append(multiprocessing.get_context("fork").Process(target=search_process, args=args))
        processes[-1].start()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.join()


def exit_code(process):
    """Wait for the end of a process."""
    process.join(PATIENCE)
    return process.exitcode


@pytest.fixture(scope="session")
def postgresql():
    """URL of a database on a server of its own: a free loopback port, an ordinary user, a temporary folder."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), *map(Path, os.environ.get("PATH", "").split(":"))]
    binaries = next((path for path in found if (path / "initdb").exists()), None)
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    pytest.importorskip("pg8000")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    owner = {}
    if os.getuid() == 0:  # the server refuses to run as root
        user = pwd.getpwnam("nobody")
        os.chown(folder, user.pw_uid, user.pw_gid)
        owner = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    init = [binaries / "initdb", "-D", folder / "data", "-A", "scram-sha-256", "-U", "alan", "--no-sync"]
    init += ["--pwfile", secret]
    subprocess.run(init, check=True, capture_output=True, cwd=folder, **owner)
    serve = [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-h", "127.0.0.1", "-k", folder]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*serve, "-F"], stdout=log, stderr=log, cwd=folder, **owner)
    password = PASSWORD.replace(":", "%3A")
    url = f"postgresql://alan:{password}@127.0.0.1:{port}/postgres"
    engine = sqlalchemy.create_engine(url.replace("://", "+pg8000://"))

    def ready():
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
            engine.connect().close()
            return True
        return False

    try:
        wait_for(ready)
        yield url
    finally:
        engine.dispose()
        server.terminate()
        server.wait()
        shutil.rmtree(folder)
