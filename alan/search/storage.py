"""Where a study is kept: SQLite in the run folder, or a database that several machines share."""

from __future__ import annotations

import random
import sqlite3
import time
import warnings
from pathlib import Path

import sqlalchemy.exc
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

from alan.errors import ConfigError, DataError

#: Seconds that a process waits for another one's write to a SQLite file.
TIMEOUT = 60
#: A trial whose process died is tried again this often.
RETRIES = 1


def open_storage(path: Path, url: str | None, heartbeat: int, grace: int) -> RDBStorage:
    """Open a storage with signs of life, so that a dead process's trial is told from a running one.

    SQLite is set to write-ahead logging with a timeout: several processes of one machine may share the file. On a
    network drive that is not safe; give a database URL there.

    Args:
        path: the SQLite file, used where no URL is given; its folder is there.
        url: of a database, in SQLAlchemy's words.
        heartbeat: seconds between two signs of life.
        grace: seconds of silence after which a running trial counts as dead.

    Returns:
        The storage.

    Raises:
        ConfigError: the URL is malformed, its driver is missing, or the database cannot be reached.
        DataError: the file is not a database of Optuna.
    """
    target = url or f"sqlite:///{path}"
    local = target.startswith("sqlite:///")
    try:
        if local:
            with sqlite3.connect(target.removeprefix("sqlite:///"), timeout=TIMEOUT) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
            connection.close()
        return _connect(target, local, heartbeat, grace)
    except sqlalchemy.exc.ArgumentError as error:
        raise ConfigError(f"storage {target!r} is no database URL: write postgresql://user@host/name") from error
    except ImportError as error:
        raise ConfigError(f"storage {_without_password(target)}: its driver is missing ({error})") from error
    except (sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        reason = str(error.__cause__ or error).partition("\n")[0][:160]
        if local:
            file = target.removeprefix("sqlite:///")
            raise DataError(f"{file}: not a database of a study ({reason})") from error
        raise ConfigError(f"storage {_without_password(target)} cannot be used ({reason})") from error


def _connect(url: str, local: bool, heartbeat: int, grace: int) -> RDBStorage:
    """Open the database and make its tables; two processes may do so at the same time."""
    for _ in range(4):
        try:
            return _storage(url, local, heartbeat, grace)
        except (sqlalchemy.exc.DatabaseError, sqlalchemy.exc.InterfaceError):
            time.sleep(0.1 + random.random() * 0.3)
    return _storage(url, local, heartbeat, grace)


def _storage(url: str, local: bool, heartbeat: int, grace: int) -> RDBStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            url,
            engine_kwargs={"connect_args": {"timeout": TIMEOUT}} if local else {"pool_pre_ping": True},
            heartbeat_interval=heartbeat,
            grace_period=grace,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
        )


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
