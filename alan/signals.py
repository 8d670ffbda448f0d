"""Ctrl-C, SIGTERM, SIGHUP: one handler for every verb, which stops at once or, in a training, after the step."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ClassVar

_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


class Interruption(KeyboardInterrupt):
    """A signal asked the process to stop.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """Exit code by the convention of shells: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number


class _State:
    """State of the handler.

    Attributes:
        received: The first signal that asked for a stop, or None.
        deferred: Whether a first signal waits until the work checks for it.
        handlers: Earlier handler of each signal.
    """

    received: int | None = None
    deferred = False
    handlers: ClassVar[dict[signal.Signals, Callable[[int, FrameType | None], None]]] = {}


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
    """Turn signals into :class:`Interruption` while the block runs; an ignored signal stays ignored."""
    _State.received, _State.deferred = None, False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner, before = os.getpid(), {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker ends as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        first = _State.received is None
        _State.received = number
        if not (first and _State.deferred):
            raise Interruption(number)
        with contextlib.suppress(OSError):  # the terminal may be closed
            sys.stderr.write("\nalan: stopping after this step, to save it; press Ctrl-C again to stop at once\n")

    _State.handlers.update({number: handle for number in _SIGNALS if before[number] != signal.SIG_IGN})
    _install()
    try:
        yield
    finally:
        _State.handlers.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _install() -> None:
    for number, handler in _State.handlers.items():
        signal.signal(number, handler)


def defer(on: bool) -> None:
    """Let a first signal wait until :func:`stop_if_asked` is called; a second one always stops at once.

    Args:
        on: Whether to wait. The handlers are then installed again: Lightning's own stops without saving.
    """
    _State.deferred = on
    if on:
        _install()


def received_signal() -> int | None:
    """Return the signal that asked this verb to stop, or None."""
    return _State.received


def stop_if_asked() -> None:
    """Stop now if a signal has asked for it.

    Raises:
        Interruption: A signal was received.
    """
    if _State.received is not None:
        raise Interruption(_State.received)
