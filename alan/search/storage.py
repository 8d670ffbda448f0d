"""Storage of a study: SQLite in the run folder, or a database that several machines share."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
import sqlalchemy.exc
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from alan.errors import ConfigError, DataError
from alan.extras import install_hint
from alan.files import redact

#: Seconds that a process waits for another one's write to a SQLite file.
TIMEOUT = 60
#: Seconds to wait for the answer of a database server before anything is prepared.
_PATIENCE = 10
#: Attribute of a repeated trial: numbers of the trials before it whose processes died.
HISTORY = "retry_history"
#: Number of times that a point is trained again after its process died.
RETRIES = 1
_DRIVERS = {"postgresql": "postgresql+pg8000"}


def open_storage(path: Path, url: str | None, heartbeat: int, grace: int) -> RDBStorage:
    """Open a storage in which running trials send heartbeats.

    SQLite uses write-ahead logging and a timeout, so that several processes of one machine may share the file. On
    a network drive that is not safe; give a database URL there.

    Args:
        path: SQLite file, used where no URL is given; its folder exists.
        url: URL of a database, in SQLAlchemy's form; ``postgresql://`` uses the driver pg8000.
        heartbeat: Seconds between two heartbeats.
        grace: Seconds of silence after which a running trial counts as dead.

    Returns:
        The storage.

    Raises:
        ConfigError: The URL is malformed, its driver is missing, or the database cannot be reached.
        DataError: The file is not a database of Optuna.
    """
    target = url or f"sqlite:///{path}"
    if target.startswith("sqlite:///"):
        file = target.removeprefix("sqlite:///")
        try:
            with contextlib.closing(sqlite3.connect(file, timeout=TIMEOUT)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            return _connect(target, {"connect_args": {"timeout": TIMEOUT}}, heartbeat, grace)
        except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
            reason, shown = _reason(error), redact(target).removeprefix("sqlite:///")
            if "disk" in reason:  # it is full, which SQLite also calls an I/O error
                raise DataError(f"{shown}: {reason}: free some space, or check the disk; run again") from error
            raise DataError(
                f"{shown}: not a database of a study ({reason}): choose another --out or study.storage"
            ) from error
    with _explain(target):
        return _connect(_with_driver(target), {"pool_pre_ping": True}, heartbeat, grace)


def check_storage(url: str | None) -> None:
    """Connect to a database that several machines share; SQLite needs no check before its file is opened.

    Raises:
        ConfigError: The URL is malformed, its driver is missing, or the database cannot be reached.
    """
    if url is None or url.startswith("sqlite:///"):
        return
    with _explain(url):
        target = _with_driver(url)
        waits = {"timeout": _PATIENCE} if "+pg8000" in target else {}
        engine = sqlalchemy.create_engine(target, connect_args=waits)
        try:
            engine.connect().close()
        finally:
            engine.dispose()


def _with_driver(url: str) -> str:
    """Add the driver to a URL without one."""
    parsed = sqlalchemy.make_url(url)
    parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
    return parsed.render_as_string(hide_password=False)


@contextlib.contextmanager
def _explain(url: str) -> Iterator[None]:
    """Turn an error of a database that cannot be opened into one line without a password."""
    try:
        yield
    except (sqlalchemy.exc.ArgumentError, ValueError) as error:  # the text may hold a password anywhere
        raise ConfigError("study.storage is not a database URL: write postgresql://user@host/name") from error
    except ImportError as error:
        raise ConfigError(
            f"storage {redact(url)}: its driver is missing ({error}): {install_hint('postgresql')}, and write "
            "postgresql://user@host/name"
        ) from error
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"storage {redact(url)} cannot be used ({_reason(error)}): check that the server runs, and "
            "the names in the URL"
        ) from error


@contextlib.contextmanager
def explain_lost_storage() -> Iterator[None]:
    """Turn a database error during a search into one line.

    Raises:
        ConfigError: The database cannot be reached any more.
    """
    try:
        yield
    except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise ConfigError(
            f"the study's database failed ({_reason(error)}): run the same command again when it can be reached"
        ) from error


def queue_again(study: Study, trial: FrozenTrial) -> None:
    """Queue the point of a trial whose process died, unless that has happened :data:`RETRIES` times before."""
    history = [*trial.system_attrs.get(HISTORY, ()), trial.number]
    if len(history) <= RETRIES:
        queue(study, trial, {HISTORY: history})


def queue(study: Study, trial: FrozenTrial, system_attrs: dict[str, list[int]] | None = None) -> None:
    """Queue the point of a trial."""
    state, params, distributions = TrialState.WAITING, trial.params, trial.distributions
    study.add_trial(
        create_trial(state=state, params=params, distributions=distributions, system_attrs=system_attrs)
    )


def _connect(url: str, engine: dict[str, object], heartbeat: int, grace: int) -> RDBStorage:
    """Open the database and make its tables; two processes may do so at the same time."""
    for patience in range(4, -1, -1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return RDBStorage(
                    url,
                    engine_kwargs=engine,
                    heartbeat_interval=heartbeat,
                    grace_period=grace,
                    heartbeat_stale_trial_callback=queue_again,
                )
        except (
            AssertionError
        ):  # Optuna found none of its own files: the error of the operating system has the reason
            list(Path(optuna.__file__).parent.iterdir())
            raise
        except (sqlalchemy.exc.DatabaseError, sqlalchemy.exc.InterfaceError):
            if not patience:
                raise
            time.sleep(0.1 + random.random() * 0.3)
    raise AssertionError("unreachable")


def _reason(error: BaseException) -> str:
    return redact(str(error.__cause__ or error).partition("\n")[0][:160])
