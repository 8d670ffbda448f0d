"""Contact sheet: many frames with the outlines of their segments on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alan.arrays import evenly_spread
from alan.data.stills import Stills
from alan.data.structures import label_colour, structure_name
from alan.downstream.segmentation import SegmentedFrames, read_label_map
from alan.drawing import STYLE, draw_outline, png
from alan.files import write_bytes

_COLUMNS = 6
#: Heights of a title and of a row, in widths of a frame.
_TITLE, _ROW = 0.105, 2.1 / 1.9


@mpl.rc_context(STYLE)
def contact_sheet(
    pictures: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.uint8]],
    names: Sequence[str],
    structures: Sequence[str],
) -> Figure:
    """Draw frames with outlines, all on one axes: an axes per frame would take several times as long.

    Args:
        pictures: n frames (H, W) uint8, at least one; each is stretched to the size of its label map.
        labels: n label maps (H, W) of any size: 0 for background, 1 for the first structure and so on.
        names: n titles.
        structures: Names of the structures in the order of the labels.
    """
    columns = min(_COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * rows + 0.35))
    bottom = 0.35 / (2.1 * rows + 0.35)
    axes = figure.add_axes((0.0, bottom, 1.0, 1.0 - bottom))
    axes.set_axis_off()
    for place, (picture, label, name) in enumerate(zip(pictures, labels, names, strict=False)):
        row, column = divmod(place, columns)
        top = _draw_frame(axes, picture, label, (column, row * _ROW), len(structures))
        title = name if len(name) <= 24 else f"…{name[-23:]}"
        axes.text(column + 0.5, top - 0.02, title, fontsize=7, ha="center", va="bottom")
    axes.set(xlim=(0, columns), ylim=(rows * _ROW, 0), aspect="auto")
    handles = [
        mpl.lines.Line2D([], [], color=label_colour(value), lw=2.5, label=structure_name(name))
        for value, name in enumerate(structures, 1)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles))
    return figure


def _draw_frame(
    axes: Axes, picture: NDArray[np.uint8], label: NDArray[np.uint8], corner: tuple[float, float], count: int
) -> float:
    """Draw a frame and its outlines into a cell one unit wide, below the space of its title; return its top."""
    height, width = label.shape
    pixel = 0.96 / max(height, width)
    left = corner[0] + (1 - pixel * width) / 2
    top: float = corner[1] + _TITLE + (1 - pixel * height) / 2 - 0.02
    extent = (left, left + pixel * width, top + pixel * height, top)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="bilinear", extent=extent, aspect="auto")
    x, y = left + pixel * (np.arange(width) + 0.5), top + pixel * (np.arange(height) + 0.5)
    for value in range(count, 0, -1):
        draw_outline(axes, label == value, label_colour(value), x, y, linewidths=1.1)
    return top


def write_sheet(  # noqa: PLR0917 (what is drawn, and where)
    path: Path, stills: Stills, found: SegmentedFrames, run: Path, structures: Sequence[str], count: int
) -> None:
    """Write a contact sheet of segmented frames, evenly spread, the first and the last included.

    Args:
        path: File of the sheet (PNG).
        stills: The frames.
        found: Segments of the frames.
        run: Run folder that holds the masks.
        structures: Names of the structures, in the order of the labels.
        count: Largest number of frames on the sheet.
    """
    places = [n for n, name in enumerate(stills.names) if name in found.rows]
    chosen = [places[i] for i in evenly_spread(len(places), count)]
    names = [stills.names[n] for n in chosen]
    pictures, labels = [stills.picture(n) for n in chosen], [read_label_map(run, name) for name in names]
    write_bytes(path, png(contact_sheet(pictures, labels, names, structures)))
