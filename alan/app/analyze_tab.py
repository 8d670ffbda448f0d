"""Tab of the page that analyzes a loop; end-diastole and end-systole can be moved by hand."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alan.analysis.exports import OVERLAY
from alan.analysis.loop_analysis import LoopSettings
from alan.analysis.manifest import Manifest
from alan.analysis.results import SIMULATED_ONLY, LoopResult, Measure
from alan.analysis.run import Analysis, analyze_files
from alan.analysis.tables import LOOP_FOLDER, MEASURES
from alan.analysis.worker import LABELS, AnalysisSettings
from alan.app.measured import (
    describe_change,
    first_frames,
    lv_areas,
    measure_between,
    pack,
    pictures_of,
    with_spacing,
)
from alan.app.session import MAX_UPLOAD_MB, PageClosedError, Uploads, with_session
from alan.arrays import ByteArray, load_arrays
from alan.data.io.base import SIDES
from alan.errors import AlanError, DataError, SkippedError
from alan.extras import third_party
from alan.progress import Progress, part_of
from alan.report.analysis import write_analysis_report
from alan.words import sentence

#: Number of frames of a long loop whose areas are drawn.
_SHOWN = 300
#: Doubts whose remedy on the page differs from that of the command line.
_REMEDIES = {
    "size_unknown": "the size of a pixel is unknown: enter it for volumes in ml or thicknesses in cm",
    "size_needed": "the size of a pixel is unknown, which diameters need: enter it",
    "mirrored": "left and right seem to be swapped: tick the box above and upload the loop again",
    "times_unknown": "the times of the frames are unknown: no beat is measured",
}
#: Text that replaces the doubt about the size once a size was entered.
_ENTERED = (
    "the size of a pixel was entered after the upload: volumes and diameters have no interval, and *Download all* "
    "does not follow it; upload the loop again with this size for both"
)


class _Analyzed(NamedTuple):
    """The loop that is shown.

    Attributes:
        result: Its measurements.
        labels: (T, size, size) label maps.
        video: Its overlay.
        others: Number of the other loops of the file.
        given: Size of a pixel that was entered before the upload.
    """

    result: LoopResult
    labels: ByteArray
    video: Path
    others: int
    given: float | None


class AnalyzeTab:
    """Tab of the analysis.

    Args:
        model: Path or name of the model, see :class:`alan.analysis.Manifest`.
        uploads: Folder of the uploads.
        device: Device that runs the network.
    """

    def __init__(self, model: str, uploads: Uploads, device: str = "cpu") -> None:
        self.model, self.uploads, self.device = model, uploads, device
        manifest = Manifest.load(model)
        self.views = [*(["recognise"] if manifest.view_bank else []), *manifest.all_views()]
        self.gr = third_party("gradio", "ui")

    def build(self) -> None:
        """Place the components and connect them."""
        gr = self.gr
        result = gr.State(None)
        with gr.Row():
            file = gr.File(
                label=f"Drop a loop (video, DICOM, NIfTI, TIFF), at most {MAX_UPLOAD_MB} MB",
                height=140,
                elem_id="analyze-upload",
            )
            with gr.Column():
                view = gr.Radio(self.views, value=self.views[0], label="View")
                spacing = gr.Number(
                    None,
                    label="Size of a pixel in mm",
                    info="if the file does not state it; 0 is unknown",
                    minimum=0,
                    maximum=SIDES[1],
                    elem_id="analyze-spacing",
                )
                mirror = gr.Checkbox(
                    value=False,
                    label="Left and right are swapped",
                    info="the left ventricle is on the left side of the picture",
                    elem_id="analyze-mirror",
                )
        with gr.Row():
            video = gr.Video(label="Outlines", autoplay=True, loop=True, buttons=[], elem_id="analyze-video")
            with gr.Column():
                curve = gr.Image(
                    label="Area of the left ventricle",
                    show_label=False,
                    interactive=False,
                    format="png",
                    buttons=[],
                    elem_id="analyze-curve",
                )
                ed = gr.Slider(0, 1, 0, step=1, label="End-diastole", visible=False, elem_id="analyze-ed")
                es = gr.Slider(0, 1, 0, step=1, label="End-systole", visible=False, elem_id="analyze-es")
                moved = gr.Markdown(elem_id="analyze-moved")
                with gr.Row():
                    stills = [
                        gr.Image(
                            label=label, interactive=False, buttons=[], visible=False, elem_id=f"analyze-{name}"
                        )
                        for name, label in (("ed-picture", "End-diastole"), ("es-picture", "End-systole"))
                    ]
        table = gr.Markdown(elem_id="analyze-table")
        doubts = gr.Markdown(elem_id="analyze-doubts")
        save = gr.DownloadButton("Download all", visible=False, elem_id="analyze-save")
        file.upload(
            with_session(gr, self._analyze),
            [file, view, spacing, mirror],
            [result, video, save, ed, es, curve, moved, *stills, table, doubts],
            show_progress_on=video,
            api_visibility="private",
        )
        for control in (ed, es, spacing):
            control.input(
                self._move,
                [result, ed, es, spacing],
                [curve, moved, *stills, table, doubts],
                show_progress="hidden",
                api_visibility="private",
                trigger_mode="always_last",
            )

    def _analyze(self, session: str, path: str, view: str, spacing: float | None, mirror: bool) -> list[Any]:
        gr, folder = self.gr, self.uploads.place("results")
        bar = gr.Progress()
        progress = self.uploads.watched(session, lambda share, text: bar(share, desc=text))
        try:
            with self.uploads.taking(path) as file:
                given: Any = None if view == "recognise" else view
                loop = LoopSettings(view=given, mirror=mirror)
                settings = AnalysisSettings(self.model, loop, spacing or None)
                found, others = _first(file, folder, settings, self.device, part_of(progress, 0, 0.95))
                progress(0.95, "packing the results")
            video = folder / LOOP_FOLDER / found.loop / OVERLAY
            shown = self.uploads.place("overlay.mp4")
            if video.is_file():
                shutil.copyfile(video, shown)
            labels = load_arrays(folder / LOOP_FOLDER / found.loop / LABELS, ("labels",))["labels"]
            archive = pack(folder, self.uploads.place("analysis.zip"))
            ed, es = first_frames(found)
        except (AlanError, OSError, PageClosedError) as error:
            shutil.rmtree(folder.parent, ignore_errors=True)
            reason = str(error)
            if isinstance(error, OSError):  # its text names a path of the server
                reason = f"the files of the page cannot be written: {error.strerror}"
            gr.Warning(reason)
            hidden = gr.update(visible=False)
            return [None, None, hidden, hidden, hidden, *self._move(None, 0, 0, None)[:-1], f"**{reason}**"]
        last = len(found.frames) - 1
        analyzed = _Analyzed(found, labels, shown, others, spacing)
        return [
            analyzed,
            str(shown) if shown.is_file() else None,
            gr.update(value=str(archive), visible=True),
            gr.update(maximum=max(last, 1), value=ed, visible=last > 0),
            gr.update(maximum=max(last, 1), value=es, visible=last > 0),
            *self._move(analyzed, ed, es, spacing),
        ]

    def _move(self, shown: _Analyzed | None, ed: float, es: float, spacing: float | None) -> list[Any]:
        """Measure between the frames of the sliders, draw the curve, and show the frames and all measures."""
        gr = self.gr
        if shown is None:
            return [None, "", *[gr.update(value=None, visible=False)] * 2, "", ""]
        result = with_spacing(shown.result, shown.labels, None if spacing == shown.given else spacing)
        pictures = pictures_of(shown.video, [int(ed), int(es)])
        return [
            gr.update(
                value=draw_curve(result, int(ed), int(es)),
                alt_text=f"Area of the left ventricle over time; ED in frame {ed:.0f}, ES in frame {es:.0f}",
            ),
            f"Between these frames: {describe_change(measure_between(result, shown.labels, int(ed), int(es)))}",
            *(
                gr.update(value=picture, visible=picture is not None, alt_text=f"Frame {frame:.0f}, with outlines")
                for frame, picture in zip((ed, es), pictures, strict=True)
            ),
            table_of(measures(result)),
            doubts_of(result, shown.others, entered=result is not shown.result),
        ]


def _first(
    file: Path, folder: Path, settings: AnalysisSettings, device: str, progress: Progress
) -> tuple[LoopResult, int]:
    """Analyze a file, and return its first loop that is measured and the number of the others.

    Raises:
        DataError: Nothing in it can be measured.
    """
    finished: list[Analysis] = []
    with contextlib.suppress(SkippedError):  # its message names a file of the server
        done = finished.append
        analyze_files([file], folder, settings, workers=1, device=device, finish=done, progress=progress)
    (found,) = finished
    loops = [loop for loop in found.loops if loop.status == "measured"]
    if not loops:
        reasons = [f"the file {reason}" for _, reason in found.failures] + [why for _, why in found.left_out]
        raise DataError(f"nothing can be measured: {'; '.join(reasons) or 'the file shows no loop'}")
    write_analysis_report(folder)
    return loops[0], len(loops) - 1


def measures(result: LoopResult) -> list[list[str]]:
    """Build the rows of the table: the view with its votes; the measures with their units and intervals."""
    rows = []
    if result.view is not None:
        origin = "given" if result.view.given else f"{result.view.share:.0%} of the votes"
        rows.append(["View", f"{result.view.view} ({origin})"])
    for name, (title, unit, _, decimals) in MEASURES.items():
        measure: Measure = getattr(result, name)
        if measure.known:
            value, low, high = (f"{part:.{decimals}f}" for part in (measure.value, measure.low, measure.high))
            rows.append([f"{title}, {unit}", value if math.isnan(measure.low) else f"{value} ({low} to {high})"])
    return rows


def table_of(rows: Sequence[Sequence[str]]) -> str:
    """Write measures as a table, whose lines wrap on a narrow screen."""
    lines = ["| Measure | Value (nominal 90% interval) |", "|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def doubts_of(result: LoopResult, others: int = 0, *, entered: bool = False) -> str:
    """Write the quality flags of a result as a list, and how many other loops the file holds.

    Args:
        result: The result.
        others: Number of the other loops of the file.
        entered: Whether the size of a pixel was entered after the upload.
    """
    flags = [flag for flag in result.flags if not (entered and flag.code in ("size_unknown", "size_needed"))]
    lines = [f"- {_REMEDIES.get(flag.code, flag.reason)}" for flag in flags]
    lines += [f"- {_ENTERED}"] if entered else []
    lines = ["**Doubts**\n", *lines] if lines else ["No doubt was raised."]
    if SIMULATED_ONLY in result.notes:
        lines.append(f"\n{sentence(SIMULATED_ONLY)}")
    if others:
        lines.append(f"\nThe file holds {others + 1} loops: the first is shown, *Download all* has all of them.")
    return "\n".join(lines)


def draw_curve(result: LoopResult, ed: int, es: int) -> ByteArray:
    """Draw the area of the left ventricle over time, with the frames of the beat: (H, W, 4) uint8.

    Of a long loop, the part around the beat is shown.
    """
    areas = lv_areas(result)
    times: Mapping[int, float] = dict(enumerate(frame.time_s or 0.0 for frame in result.frames))
    timed = any(times.values())
    axis = [times[n] if timed else float(n) for n in range(len(areas))]
    figure = Figure(figsize=(6, 2.6), dpi=200, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    around = max(0, _SHOWN - abs(ed - es)) // 2
    part = slice(max(0, min(ed, es) - around), max(ed, es) + around + 1)
    axes.plot(axis[part], areas[part], color="#2b6cb0")
    for frame, name, colour in ((ed, "ED", "#c05621"), (es, "ES", "#2f855a")):
        axes.axvline(axis[frame], color=colour, linewidth=1)
        axes.annotate(name, (axis[frame], 1.02), xycoords=("data", "axes fraction"), color=colour, ha="center")
    axes.set_xlabel("time (s)" if timed else "frame")
    sized = bool(result.frames[0].area_cm2)
    axes.set_ylabel("area of the LV (cm²)" if sized else "area of the LV (pixels)")
    canvas.draw()  # type: ignore[no-untyped-call]
    picture: ByteArray = np.array(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return picture
