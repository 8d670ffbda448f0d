"""Tab of the page that analyzes a loop; end-diastole and end-systole can be moved by hand."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alan.analysis.exports import OVERLAY
from alan.analysis.loop_analysis import LoopSettings
from alan.analysis.manifest import Manifest
from alan.analysis.results import LoopResult, Measure
from alan.analysis.run import LABELS, AnalysisSettings, analyze_files
from alan.analysis.tables import LOOP_FOLDER
from alan.app.measured import first_frames, lv_areas, measure_between, pack, sentence
from alan.app.session import Uploads
from alan.arrays import ByteArray
from alan.errors import AlanError, DataError, SkippedError
from alan.extras import third_party

#: Measures of a loop in the table: name, unit.
_MEASURES = {
    "ef_percent": ("Ejection fraction", "%"),
    "edv_ml": ("End-diastolic volume", "ml"),
    "esv_ml": ("End-systolic volume", "ml"),
    "stroke_volume_ml": ("Stroke volume", "ml"),
    "area_change_percent": ("Fractional area change", "%"),
    "heart_rate_bpm": ("Heart rate", "/min"),
    "la_volume_ml": ("Volume of the left atrium", "ml"),
    "lv_mass_g": ("Mass of the left ventricle", "g"),
}


class AnalyzeTab:
    """Tab of the analysis.

    Args:
        model: Path or name of the model, see :class:`alan.analysis.Manifest`.
        uploads: Where uploads lie.
    """

    def __init__(self, model: str, uploads: Uploads) -> None:
        self.model, self.uploads = model, uploads
        manifest = Manifest.load(model)
        self.views = [*(["recognise"] if manifest.view_bank else []), *manifest.views]
        self.gr = third_party("gradio", "ui")

    def build(self) -> None:
        """Place the components and connect them."""
        gr = self.gr
        result = gr.State(None)
        with gr.Row():
            file = gr.File(label="Drop a loop (video, DICOM, NIfTI, TIFF)", height=140, elem_id="analyze-upload")
            with gr.Column():
                view = gr.Radio(self.views, value=self.views[0], label="View")
                spacing = gr.Number(None, label="Size of a pixel in mm, if the file does not tell", minimum=0)
        with gr.Row():
            video = gr.Video(label="Outlines", autoplay=False, buttons=[], elem_id="analyze-video")
            with gr.Column():
                curve = gr.Plot(show_label=False, elem_id="analyze-curve")
                ed = gr.Slider(0, 1, 0, step=1, label="End-diastole", visible=False, elem_id="analyze-ed")
                es = gr.Slider(0, 1, 0, step=1, label="End-systole", visible=False, elem_id="analyze-es")
                moved = gr.Markdown(elem_id="analyze-moved")
        table = gr.Dataframe(
            headers=["measure", "value", "90% interval"], interactive=False, elem_id="analyze-table"
        )
        doubts = gr.Markdown(elem_id="analyze-doubts")
        save = gr.DownloadButton("Download all", elem_id="analyze-save")
        file.upload(
            self._analyze,
            [file, view, spacing],
            [result, video, table, doubts, save, ed, es, curve, moved],
            show_progress_on=video,
            api_visibility="private",
        )
        for slider in (ed, es):
            slider.input(
                self._move,
                [result, ed, es],
                [curve, moved],
                show_progress="hidden",
                api_visibility="private",
                trigger_mode="always_last",
            )

    def _analyze(self, path: str, view: str, spacing: float | None) -> list[Any]:
        gr = self.gr
        try:
            with self.uploads.taking(path) as file:
                bar = gr.Progress()
                bar(0.1, desc="analyzing")
                folder = self.uploads.place("results")
                loop = LoopSettings() if view == "recognise" else LoopSettings(view=view)  # type: ignore[arg-type]
                settings = AnalysisSettings(self.model, loop, spacing or None)
                found = _first(file, folder, settings)
                bar(0.9, desc="packing")
            video = folder / LOOP_FOLDER / found.loop / OVERLAY
            shown = self.uploads.place("overlay.mp4")
            if video.is_file():
                shutil.copyfile(video, shown)
            with np.load(folder / LOOP_FOLDER / found.loop / LABELS) as held:
                labels = held["labels"]
            archive = pack(folder, self.uploads.place("analysis.zip"))
            ed, es = first_frames(found)
        except AlanError as error:
            gr.Warning(str(error))
            return [
                None,
                None,
                [],
                f"**{error}**",
                None,
                gr.update(visible=False),
                gr.update(visible=False),
                None,
                "",
            ]
        last = max(len(found.frames) - 1, 1)
        curve, words = self._move((found, labels), ed, es)
        return [
            (found, labels),
            str(shown) if shown.is_file() else None,
            measures(found),
            doubts_of(found),
            str(archive),
            gr.update(maximum=last, value=ed, visible=True),
            gr.update(maximum=last, value=es, visible=True),
            curve,
            words,
        ]

    def _move(self, shown: tuple[LoopResult, ByteArray] | None, ed: float, es: float) -> tuple[Figure | None, str]:
        """Measure between the frames of the sliders, and draw the curve."""
        if shown is None:
            return None, ""
        result, labels = shown
        return draw_curve(result, int(ed), int(es)), sentence(measure_between(result, labels, int(ed), int(es)))


def _first(file: Any, folder: Any, settings: AnalysisSettings) -> LoopResult:
    """Analyze the first loop of a file.

    Raises:
        DataError: Nothing in it can be measured.
    """
    try:
        found = analyze_files([file], folder, settings, workers=1)
    except SkippedError as error:
        raise DataError(str(error)) from error
    loops = [loop for loop in found.loops if loop.status == "measured"]
    if not loops:
        reasons = [reason for _, reason in (*found.failures, *found.left_out)]
        raise DataError(f"nothing can be measured: {'; '.join(reasons) or 'the file shows no loop'}")
    return loops[0]


def measures(result: LoopResult) -> list[list[str]]:
    """Build the rows of the table of measures: name with unit, value, interval."""
    rows = []
    for name, (title, unit) in _MEASURES.items():
        measure: Measure = getattr(result, name)
        if measure.known:
            ends = "" if math.isnan(measure.low) else f"{measure.low:.0f} to {measure.high:.0f}"
            rows.append([f"{title}, {unit}", f"{measure.value:.0f}", ends])
    return rows


def doubts_of(result: LoopResult) -> str:
    """Write the quality flags of a result as a list."""
    return "\n".join(f"- {flag.reason}" for flag in result.flags) or "No doubt was raised."


def draw_curve(result: LoopResult, ed: int, es: int) -> Figure:
    """Draw the area of the left ventricle over time, with the frames of the beat."""
    areas = lv_areas(result)
    times: Mapping[int, float] = dict(enumerate(frame.time_s or 0.0 for frame in result.frames))
    timed = any(times.values())
    axis = [times[n] if timed else float(n) for n in range(len(areas))]
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(axis, areas, color="#2b6cb0")
    for frame, name, colour in ((ed, "ED", "#c05621"), (es, "ES", "#2f855a")):
        axes.axvline(axis[frame], color=colour, linewidth=1)
        axes.annotate(name, (axis[frame], 1.02), xycoords=("data", "axes fraction"), color=colour, ha="center")
    axes.set_xlabel("time (s)" if timed else "frame")
    sized = bool(result.frames[0].area_cm2)
    axes.set_ylabel("area of the LV (cm²)" if sized else "area of the LV (pixels)")
    return figure
