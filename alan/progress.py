"""Progress bars: whether they are shown."""

from __future__ import annotations

import os

#: Set for libraries that draw progress bars with tqdm, which reads it when it is imported.
NO_BARS = "TQDM_DISABLE"


def quiet() -> bool:
    """Return whether progress bars are switched off, by ``--quiet`` or in the environment."""
    return os.environ.get(NO_BARS, "") not in ("", "0")
