"""Work in batches, and its progress bars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

#: Set for libraries that draw progress bars with tqdm, which reads it when it is imported.
NO_BARS = "TQDM_DISABLE"
#: Function that is told the share of a task that is done, 0 to 1, and what is done.
Progress = Callable[[float, str], None]


def no_progress(share: float, text: str) -> None:
    """Report nothing."""


def part_of(progress: Progress, start: float, stop: float) -> Progress:
    """Return the progress of a part of a task, which is told 0 to 1 and passes on ``start`` to ``stop``."""
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
