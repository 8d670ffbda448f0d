"""Contact sheet: many frames with the outlines of their segments on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alan.data.stills import Stills
from alan.data.structures import label_colour
from alan.downstream.segmentation import SegmentedFrames, read_mask
from alan.files import atomic
from alan.report.figures import STYLE, png
from alan.report.words import STRUCTURES

_COLUMNS = 6


def contact_sheet(
    pictures: Sequence[NDArray[np.uint8]],
    labels: Sequence[NDArray[np.uint8]],
    names: Sequence[str],
    structures: Sequence[str],
) -> Figure:
    """Draw frames with outlines.

    Args:
        pictures: n frames (H, W) uint8, at least one; each is stretched to the size of its label map.
        labels: n label maps (H, W) of any size: 0 for background, 1 for the first structure and so on.
        names: n titles.
        structures: Names of the structures in the order of the labels.
    """
    columns = min(_COLUMNS, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(1.9 * columns, 2.0 * rows + 0.35), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in panels:
            axes.set_axis_off()
        for axes, picture, label, name in zip(panels, pictures, labels, names, strict=False):
            height, width = label.shape
            shape = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="bilinear", extent=shape)
            for value in range(len(structures), 0, -1):
                mask = label == value
                if mask.any() and not mask.all():
                    axes.contour(mask, levels=[0.5], colors=[label_colour(value)], linewidths=1.1)
            title = name if len(name) <= 24 else f"…{name[-23:]}"
            axes.set_title(title, loc="center", fontsize=7, fontweight="normal")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)  # type: ignore[union-attr, call-arg]
        handles = [
            mpl.lines.Line2D([], [], color=label_colour(value), lw=2.5, label=STRUCTURES.get(name, name))
            for value, name in enumerate(structures, 1)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def write_sheet(  # noqa: PLR0917 (what is drawn, and where)
    path: Path, stills: Stills, found: SegmentedFrames, run: Path, structures: Sequence[str], count: int
) -> None:
    """Write a contact sheet of segmented frames, evenly spread, the first and the last included.

    Args:
        path: File of the sheet (PNG).
        stills: The frames.
        found: What was segmented of them.
        run: Run folder that holds the masks.
        structures: Names of the structures, in the order of the labels.
        count: Largest number of frames on the sheet.
    """
    places = [n for n, name in enumerate(stills.names) if name in found.rows]
    chosen = sorted({places[int(i)] for i in np.linspace(0, len(places) - 1, min(len(places), count)).round()})
    names = [stills.names[n] for n in chosen]
    pictures, labels = [stills.picture(n) for n in chosen], [read_mask(run, name) for name in names]
    with atomic(path) as temporary:
        temporary.write_bytes(png(contact_sheet(pictures, labels, names, structures)))
