"""One process writes to a folder or a file at a time; a second one names the first; stale locks are taken over."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from alan import locks
from alan.errors import DataError, LockError
from alan.locks import lock_file, lock_folder

#: Holds the lock of a folder (or of a file, with a third argument) until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from alan.locks import lock_file, lock_folder
with (lock_file if sys.argv[2:] else lock_folder)(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def holder():
    """``holder(path, ...)``: another process that holds a lock."""
    processes = []

    def start(*args):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *map(str, args)], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def hold(context):
    with context:
        pass


def foreign_lock(folder):
    """A lock that a process on another machine left or holds."""
    owner = {"user": "ada", "host": "elsewhere", "pid": 7, "started": "2026-01-02T03:04:05", "command": "alan fit"}
    (folder / ".lock").write_text(json.dumps(owner), encoding="utf-8")


@pytest.mark.parametrize(("lock", "more"), [(lock_folder, ()), (lock_file, ("file",))])
def test_a_second_process_is_refused_and_the_first_is_named(lock, more, holder, tmp_path):
    process = holder(tmp_path / "run", *more)
    with pytest.raises(LockError) as refused:
        hold(lock(tmp_path / "run"))
    message = str(refused.value)
    assert f"process {process.pid} of " in message
    assert f" on {socket.gethostname()} " in message
    assert "write elsewhere" in message
    assert "\n" not in message
    with pytest.raises(LockError):  # the refusal has not released the lock
        hold(lock(tmp_path / "run"))


def test_a_stopped_process_keeps_its_lock(holder, tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(LockError):
        hold(lock_folder(tmp_path))
    process.send_signal(signal.SIGCONT)


def test_the_lock_of_a_killed_process_is_taken_over(holder, tmp_path, caplog):
    process = holder(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / ".lock").exists()
    with caplog.at_level("INFO", "alan"):
        hold(lock_folder(tmp_path))
    assert f"took over the lock of process {process.pid} of " in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_lock_without_output_leaves_no_files(tmp_path):
    hold(lock_folder(tmp_path / "a" / "b"))
    hold(lock_file(tmp_path / "a" / "b"))
    assert not list(tmp_path.iterdir())
    with lock_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_temporary_files_of_a_killed_process_beside_a_file_are_removed(tmp_path):
    names = [".a.h5.12.part", ".a.h5.part.12.part", ".b.h5.12.part", "a.h5.part", ".a.h5.part"]
    for name in names:
        (tmp_path / name).touch()
    hold(lock_file(tmp_path / "a.h5"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])


def test_other_ranks_keep_their_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / ".a.h5.12.part").touch()
    hold(lock_file(tmp_path / "a.h5"))
    assert (tmp_path / ".a.h5.12.part").exists()


def test_a_process_can_lock_its_own_folder_again(holder, tmp_path):
    with lock_folder(tmp_path), lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        with lock_folder(tmp_path):
            pass
        done = subprocess.run(
            [sys.executable, "-c", HOLDER, str(tmp_path)], capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert f"process {os.getpid()} of " in done.stderr
    holder(tmp_path)  # it is free now


def test_a_forked_process_does_not_hold_the_locks_of_its_parent(tmp_path):
    with lock_folder(tmp_path):
        child = os.fork()
        if not child:
            try:
                hold(lock_folder(tmp_path))
            except LockError:
                os._exit(7)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_lock_of_another_machine_with_heartbeat_is_respected(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "WATCH", 5)
    foreign_lock(tmp_path)
    sleep = locks.time.sleep

    def touched(seconds):
        sleep(seconds)
        os.utime(tmp_path / ".lock", (1, 1))

    monkeypatch.setattr(locks.time, "sleep", touched)
    with pytest.raises(LockError, match="process 7 of ada on elsewhere"):
        hold(lock_folder(tmp_path))


def test_a_lock_of_another_machine_without_heartbeat_is_taken_over(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "WATCH", 0.1)
    foreign_lock(tmp_path)
    with caplog.at_level("INFO", "alan"):
        hold(lock_folder(tmp_path))
    assert "watching the lock of process 7 of ada on elsewhere" in caplog.text
    assert "took over" in caplog.text


def test_an_owner_sends_heartbeats(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    with lock_folder(tmp_path):
        before = (tmp_path / ".lock").stat().st_mtime_ns
        for _ in range(30_000):  # five minutes, if nobody gives this process time
            if (tmp_path / ".lock").stat().st_mtime_ns != before:
                break
            locks.time.sleep(0.01)
        assert (tmp_path / ".lock").stat().st_mtime_ns != before


def test_heartbeats_decide_on_file_systems_without_locks(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(locks.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(locks.fcntl, "lockf", unsupported)
    monkeypatch.setattr(locks, "WATCH", 0.1)
    hold(lock_folder(tmp_path))
    owner = {"user": "ada", "host": socket.gethostname(), "pid": 7}
    (tmp_path / ".lock").write_text(json.dumps(owner), encoding="utf-8")
    hold(lock_folder(tmp_path))
    assert not list(tmp_path.iterdir())


def test_other_ranks_of_a_distributed_run_do_not_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    with lock_folder(tmp_path):
        assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("lock", [lock_folder, lock_file])
@pytest.mark.parametrize("again", [False, True])
def test_output_moved_away_while_written_is_an_error(tmp_path, lock, again):
    """The other program may have put another folder with a lock of its own in its place."""
    out = tmp_path / "out" / "run"

    own = out / ".lock" if lock is lock_folder else out.with_name(".run.lock")

    def work():
        with lock(out):
            (tmp_path / "out").rename(tmp_path / "away")
            if again:
                own.parent.mkdir(parents=True)
                own.write_text("{}")

    with pytest.raises(LockError, match="run: was removed or renamed while it was written; run the same"):
        work()
    assert own.exists() == again


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("data")
    (tmp_path / ".lock").symlink_to("precious")
    with (
        pytest.raises(LockError, match=r".lock: is a link, but a lock is a file of its own; remove it"),
        lock_folder(tmp_path),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "data"


def test_a_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is a file; a run needs a folder"):
        hold(lock_folder(tmp_path / "file"))
