"""Draw a sample: its frames with the outlines of its masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alan.data.sample import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_sample(sample: Sample, frame: int | None = None) -> Figure:
    """Draw a sample.

    Args:
        sample: The sample.
        frame: Index of a frame; None draws end-diastole and end-systole, or else the first annotated frame, or
            else the middle frame.

    Returns:
        One picture per frame, titled with its number and phase, with an outline per mask and a legend.

    Raises:
        IndexError: The frame is out of range.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    length = len(sample.frames)
    if frame is not None and not 0 <= frame < length:
        raise IndexError(f"{sample.record.id}: frame {frame} of {length}")
    phases = {index: name for name, index in (("ED", sample.ed), ("ES", sample.es)) if index is not None}
    annotated = sample.mask_frames.tolist()
    chosen = [frame] if frame is not None else sorted(phases) or annotated[:1] or [length // 2]
    figure = Figure(figsize=(4 * len(chosen), 4.4), layout="constrained")
    colours = {name: f"C{place}" for place, name in enumerate(sample.masks)}
    for place, index in enumerate(chosen, start=1):
        axes = figure.add_subplot(1, len(chosen), place)
        row, column = sample.spacing or (1.0, 1.0)
        axes.imshow(sample.frames[index], cmap="gray", vmin=0, vmax=255, aspect=row / column)
        axes.set_title(f"frame {index} of {length} {phases.get(index, '')}".rstrip())
        axes.axis("off")
        if index in annotated:
            for name, masks in sample.masks.items():
                mask = masks[annotated.index(index)]
                if mask.any() and not mask.all():
                    axes.contour(mask, levels=[0.5], colors=[colours[name]], linewidths=1)
    record = sample.record
    figure.suptitle(" ".join(filter(None, (record.id, record.view, record.split))))
    if sample.masks:
        lines = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False)
    return figure
