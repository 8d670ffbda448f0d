"""Worker processes end with the process that started them: on its exception, and when it is killed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import psutil
import pytest

from alan.workers import usable_cpus, worker_pool

#: Longest wait of a test in seconds; no test depends on how long something takes.
PATIENCE = 300
#: Prints the ids of its workers, which then sleep for an hour, as does the process itself.
MAIN = """
import os, sys, time
from alan.workers import worker_pool

if __name__ == "__main__":
    with worker_pool(2, time.sleep, 0, preload=sys.argv[1] or None) as pool:
        pool.submit(os.getpid).result()
        for _ in range(2):
            pool.submit(time.sleep, 3600)
        print(*pool._processes, flush=True)
        time.sleep(3600)
"""


@pytest.fixture(params=["", "time"], ids=["fork", "fork server"])
def main(request, tmp_path):
    """A process with two workers in a group of its own, and the workers."""
    script = tmp_path / "main.py"
    script.write_text(MAIN, encoding="utf-8")
    command = [sys.executable, script, request.param]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0)
    workers = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
    assert workers
    yield process, workers
    process.kill()
    process.communicate()
    for worker in workers:
        if worker.is_running():
            worker.kill()


#: Prints whether workers of a later pool come from the process that began early, and whether it has the module.
EARLY = """
from multiprocessing import forkserver
from alan.workers import preload_workers, worker_pool

if __name__ == "__main__":
    preload_workers("colorsys")
    server = forkserver._forkserver._forkserver_pid
    with worker_pool(1, preload="colorsys") as pool:
        loaded = pool.submit(eval, "'colorsys' in __import__('sys').modules").result()
    print(loaded, server is not None and server == forkserver._forkserver._forkserver_pid)
"""


def test_workers_are_forks_of_the_process_that_began_to_import_early(tmp_path):
    script = tmp_path / "early.py"
    script.write_text(EARLY, encoding="utf-8")
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert ran.stdout.split() == ["True", "True"]


#: Prints the ids of the workers of a loader, which begin to work after this process was killed.
LOADER = """
import os, signal, time
import torch
from alan.workers import end_with_main

def begin(number):
    while os.getppid() == main:
        time.sleep(0.01)
    end_with_main(number)

main = os.getpid()
loader = iter(torch.utils.data.DataLoader(range(99), num_workers=2, worker_init_fn=begin))
print(*(worker.pid for worker in loader._workers), flush=True)
os.kill(main, signal.SIGKILL)
"""


def gone(workers):
    return not psutil.wait_procs(workers, timeout=PATIENCE)[1]


def test_workers_end_when_the_main_process_is_killed(main):
    process, workers = main
    process.kill()
    assert gone(workers)


def test_workers_of_a_loader_end_when_the_main_process_was_killed_before_they_began():
    command = [sys.executable, "-c", LOADER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        assert gone([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_end_silently_when_the_group_is_interrupted(main, number):
    process, workers = main
    os.killpg(process.pid, number)
    assert gone(workers)
    _, error = process.communicate(timeout=PATIENCE)
    assert error.count("Traceback") == (number == signal.SIGINT)  # that of the main process


def test_an_exception_cancels_remaining_work():
    def work():
        with worker_pool(2, time.sleep, 0) as pool:
            pool.submit(time.sleep, 3600)
            pool.submit(time.sleep, "not a number").result()

    start = time.monotonic()
    with pytest.raises(TypeError):
        work()
    assert time.monotonic() < start + PATIENCE


@pytest.mark.parametrize("error", [BrokenPipeError, EOFError])
def test_a_worker_killed_while_starting_breaks_the_pool(monkeypatch, error):
    def start(process):
        raise error

    with worker_pool(1, time.sleep, 0, preload="time") as pool:
        monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", start)
        with pytest.raises(BrokenProcessPool):
            pool.submit(os.getpid)


@pytest.mark.skipif(sys.platform != "linux", reason="needs sched_setaffinity")
def test_only_the_processors_that_a_process_may_use_count():
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, mine)
