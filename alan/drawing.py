"""Style of every figure, and the drawing of outlines and PNG files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

#: Resolution of the PNG files, in dots per inch.
DPI = 170
INK, GRID = "#1f2933", "#d9dee3"
#: Matplotlib settings of every figure.
STYLE: Any = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9aa5b1",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def png(figure: Figure) -> bytes:
    """Draw a figure as PNG."""
    buffer = io.BytesIO()
    fast = {"compress_level": 3}  # takes a third of the time of the default; the files are hardly larger
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.08, pil_kwargs=fast)
    return buffer.getvalue()


def draw_outline(axes: Axes, mask: NDArray[np.bool_], colour: str, *place: Any, **style: Any) -> None:
    """Draw the outline of a mask, which may be empty.

    Args:
        axes: Where to draw.
        mask: (H, W) bool.
        colour: Colour of the line.
        *place: Positions (W,) of the columns and (H,) of the rows; by default the indices of the pixels.
        **style: Options of matplotlib's ``contour``.
    """
    if mask.any() and not mask.all():
        axes.contour(*place, mask, levels=[0.5], colors=[colour], **style)
