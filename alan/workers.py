"""Pools of worker processes that end with the process that started them, however it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import wait
from typing import Any, TypeVar

T = TypeVar("T")


def usable_cpus() -> int:
    """Return the number of processors that this process may use, which a scheduler or a container can limit."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def preload_workers(module: str) -> None:
    """Begin to import a module for the workers of a later pool, while this process imports modules of its own.

    Args:
        module: The module that :func:`worker_pool` will be asked to preload.
    """
    _context(module)


@contextlib.contextmanager
def worker_pool(
    n: int, initializer: Callable[..., None] | None = None, *args: Any, preload: str | None = None
) -> Iterator[ProcessPoolExecutor]:
    """Open a pool; an exception, such as an interruption, ends its processes at once.

    Workers leave Ctrl-C to the main process. If the main process is killed, they end too.

    Args:
        n: Number of processes.
        initializer: Function that each worker calls first, if any; it can be pickled.
        *args: Its arguments.
        preload: Module that is imported once for all workers, which are forks of a process without threads; None
            forks this process, which is safe if it has used neither torch's threads nor a GPU.

    Yields:
        The pool.
    """
    before = set(multiprocessing.active_children())
    pool = _Pool(n, _context(preload), _start, (initializer, *args))
    try:
        yield pool
        pool.shutdown()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()


class _Pool(ProcessPoolExecutor):
    """A pool that raises an error if a worker is killed while it starts."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except (BrokenPipeError, ConnectionResetError, EOFError) as error:
            raise BrokenProcessPool("a worker process has ended while it was started") from error


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Block Ctrl-C in this thread, and permanently in the processes that it starts in the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _context(preload: str | None) -> multiprocessing.context.BaseContext:
    if preload is None and sys.platform == "linux":
        return multiprocessing.get_context("fork")
    if preload is None or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    with _interrupts_wait():  # an interrupted import would end in a traceback
        forkserver.ensure_running()
    return context


def _start(initializer: Callable[..., None] | None, *args: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_main()
    if initializer is not None:
        initializer(*args)


def end_with_main(number: int = 0) -> None:
    """End this worker when the process that started it ends, even if that was killed before the worker started.

    Args:
        number: Number of the worker, which PyTorch gives to the function ``worker_init_fn`` of a loader. The
            workers of PyTorch remember who started them too late, and wait for ever if it has ended by then.
    """
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_wait_for_main, args=(parent.sentinel,), daemon=True).start()


def _wait_for_main(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
