"""Batches of work, with progress bars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

#: Environment variable that tqdm reads when it is imported, so that libraries that use it draw no bars.
NO_BARS = "TQDM_DISABLE"
#: Function that receives the finished share of a task, 0 to 1, and the name of the present step.
Progress = Callable[[float, str], None]


def no_progress(share: float, text: str) -> None:
    """Report nothing."""


def part_of(progress: Progress, start: float, stop: float) -> Progress:
    """Map the progress of a part of a task, 0 to 1, to the shares ``start`` to ``stop`` of the whole task."""
    return lambda share, text: progress(start + (stop - start) * share, text)


def quiet() -> bool:
    """Return whether progress bars are switched off, by ``--quiet`` or in the environment."""
    return os.environ.get(NO_BARS, "") not in ("", "0")


def batches(n: int, size: int, title: str = "", unit: str = "frame") -> Iterator[slice]:
    """Yield the slices of 0 to ``n`` that are worked on at a time, with a progress bar that disappears at the end.

    Args:
        n: Number of items.
        size: Items per batch; the last one may be smaller.
        title: Title of the bar; empty for none.
        unit: What is counted.
    """
    from tqdm import tqdm  # not needed for --help

    with tqdm(total=n, desc=title, unit=unit, leave=False, disable=not title or quiet()) as bar:
        for start in range(0, n, size):
            part = slice(start, min(start + size, n))
            yield part
            bar.update(part.stop - start)
