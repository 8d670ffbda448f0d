"""Lack of memory, dead workers and system limits are reported in one line; programming errors keep a traceback."""

import errno
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import DataLoader

from alan.cli.failures import in_one_line
from alan.errors import DataError


def die(_):
    os._exit(1)


class Deadly(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, item):
        os._exit(1)


def allocate_with_torch():
    torch.empty(2**60)


def allocate_with_numpy():
    import numpy as np

    np.zeros(2**50)


def lose_a_process_of_a_pool():
    with ProcessPoolExecutor(1) as pool:
        list(pool.map(die, [1]))


def lose_a_worker_of_a_loader():
    list(DataLoader(Deadly(), num_workers=1))


def use_all_descriptors():
    raise RuntimeError("Too many open files. Communication with the workers is no longer possible.")


def start_too_many_threads():
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize(
    ("fail", "words"),
    [
        (allocate_with_torch, r"out of memory \(.*\): lower the batch size or the number of workers; run again"),
        (allocate_with_numpy, r"out of memory \(.*\): lower the batch size"),
        (
            lose_a_process_of_a_pool,
            "a worker process was killed, .* lower the number of workers; the same command",
        ),
        (lose_a_worker_of_a_loader, "a worker process was killed, .* lower the number of workers"),
        (use_all_descriptors, r"output: too many open files; raise the limit of open files \(ulimit -n\)"),
        (start_too_many_threads, r"output: .*; raise the limit of processes \(ulimit -u\), or use fewer workers"),
    ],
)
def test_a_system_limit_is_reported_in_one_line(fail, words):
    with pytest.raises((RuntimeError, MemoryError, BrokenProcessPool)) as caught:
        fail()
    line = in_one_line(caught.value)
    assert "\n" not in line
    assert re.search(words, line), line


def test_a_lack_of_memory_is_reported_in_one_line():
    for text in ("error return without exception set", "<method> returned NULL without setting an exception"):
        assert in_one_line(SystemError(text)).startswith("out of memory (")
    assert in_one_line(SystemError("bad argument to internal function")) is None
    assert in_one_line(ImportError("a.so: failed to map segment from shared object")).startswith("out of memory (")
    assert in_one_line(ImportError("no module named a")) is None


def test_an_error_of_the_file_system_names_the_file():
    assert in_one_line(OSError(errno.ENOMEM, "Cannot allocate memory")).startswith("out of memory (")
    full = OSError(errno.ENOSPC, "No space left on device", "a.h5")
    assert in_one_line(full) == "a.h5: no space left on disk; free some, run again"
    moved = OSError(errno.EACCES, "Permission denied", "a.part", None, "a.h5")
    assert in_one_line(moved).startswith("a.h5: permission denied; check who may read and write there")
    quota = OSError(errno.EDQUOT, "Disk quota exceeded", "a.h5")
    assert in_one_line(quota) == "a.h5: no space left on disk; free some, run again"
    lost = OSError(errno.ESTALE, "Stale file handle")
    assert (
        in_one_line(lost)
        == "input or output: stale file handle; check the disk or the network drive, then run again"
    )


@pytest.mark.parametrize(
    ("last", "line"),
    [
        ("alan.errors.CacheError: a.h5: no room", "a.h5: no room"),
        (
            "OSError: [Errno 28] No space left on device: 'a.h5'",
            "a.h5: no space left on disk; free some, run again",
        ),
        ("FileExistsError: [Errno 17] File exists", "output: file exists; a file stands where a folder is needed"),
        ("RuntimeError: bad_alloc", "out of memory (RuntimeError: bad_alloc): lower the batch size"),
        ("RuntimeError: enforce fail: pipe: Too many open files", "output: too many open files; raise the limit"),
        (
            "torch.distributed.DistStoreError: Failed to init uv loop",
            "output: too many open files; raise the limit",
        ),
        ("KeyError: 'lv'", None),
    ],
)
def test_an_error_of_another_process_is_reported_by_its_last_line(last, line):
    text = (
        f"\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n  x\n{last}\n"
    )
    found = in_one_line(ProcessRaisedException(text, 1, 4242))
    assert found is None if line is None else found.startswith(line)


def test_a_package_error_is_reported_by_its_message():
    assert in_one_line(DataError("a.h5: no such file")) == "a.h5: no such file"


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), KeyError("lv"), OSError(errno.EBADF, "Bad file")]
)
def test_a_programming_error_keeps_its_traceback(error):
    assert in_one_line(error) is None


def test_reporting_an_error_imports_no_library():
    code = "import sys, alan.cli.failures; sys.exit(any(name in sys.modules for name in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("No `test_step()` method defined to run `Trainer.test`.", "test_step"),
        ("`predict_dataloader` must be implemented to be used with the Lightning Trainer", "predict_dataloader"),
    ],
)
def test_a_class_without_the_loop_of_a_verb_is_explained(text, lacks):
    line = in_one_line(MisconfigurationException(text))
    assert line.startswith(f"the class has no {lacks}, which this verb needs: ")
    assert "`alan evaluate`" in line
