"""Sheet of uncertainty maps beside the frames of a ranked list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alan.data.structures import label_colour
from alan.drawing import STYLE, draw_outline


@mpl.rc_context(STYLE)
def uncertainty_sheet(
    frames: NDArray[np.uint8],
    labels: NDArray[np.integer[Any]],
    maps: NDArray[np.floating[Any]],
    titles: Sequence[str],
    heading: str,
) -> Figure:
    """Draw each frame with its predicted outlines, and, next to it, the map of the network's uncertainty.

    Args:
        frames: (m, S, S) uint8.
        labels: (m, S, S) integers, 0 for background.
        maps: (m, S, S) floats, drawn on one scale.
        titles: Titles of the m frames.
        heading: Title of the sheet.
    """
    columns = min(4, len(frames))
    rows = math.ceil(len(frames) / columns)
    top = float(maps.max()) or 1.0
    figure = Figure(figsize=(0.3 + 3.1 * columns, 0.6 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for place, (frame, label, uncertain, title) in enumerate(zip(frames, labels, maps, titles, strict=True)):
        row, column = divmod(place, columns)
        left, right = grid[row, 2 * column], grid[row, 2 * column + 1]
        left.imshow(frame, cmap="gray", vmin=0, vmax=255)
        for value in range(1, int(label.max()) + 1):
            draw_outline(left, label == value, label_colour(value), linewidths=1.1)
        left.set_title(title, fontsize=7, fontweight="normal", loc="left")
        picture = right.imshow(uncertain, cmap="inferno", vmin=0, vmax=top)
    figure.colorbar(picture, ax=list(grid.flat), shrink=0.5, aspect=30, pad=0.01)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure
