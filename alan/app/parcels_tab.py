"""Tab of the page that edits white boxes parcel by parcel; :mod:`alan.app.editors` holds its state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from alan.analysis.model import AnalysisModel
from alan.analysis.phase_boxes import PhaseBoxes
from alan.app.editors import ViewEditors
from alan.app.loops import read_frames
from alan.app.measured import describe_measures
from alan.app.session import Uploads
from alan.app.state import COLUMNS, STEP_TITLES, STEPS, ParcelEditor
from alan.data.io.base import SIDES
from alan.data.structures import structure_name
from alan.downstream.whitebox.opinion import LIST_PHASES, Opinion
from alan.errors import AlanError, ParameterError
from alan.extras import third_party
from alan.report.words import phase_name

#: Options of events: other programs cannot call them, and of several fast ones only the last runs.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last"}
#: Explanation of the choice of the view.
_CHOOSE = "recognised when a file is opened; choose another if it is wrong"


class ParcelsTab:
    """Tab that edits white boxes parcel by parcel.

    Args:
        model: The model whose white boxes are edited, with those of its further models.
        uploads: Folder of the uploads.
    """

    def __init__(self, model: AnalysisModel, uploads: Uploads) -> None:
        self.model, self.uploads = model, uploads
        ViewEditors(model)  # refuses white boxes of another rule before the page is opened
        self.gr = third_party("gradio", "ui")

    def build(self) -> None:
        """Place the components and connect them."""
        gr, views = self.gr, self.model.all_views()
        first = self.model.views[views[0]]
        editors = gr.State(None)
        parcel = gr.State(None)
        with gr.Row():
            with gr.Column(scale=3):
                with gr.Row():
                    load = gr.UploadButton("Open a loop or picture", size="md", elem_id="parcels-upload")
                    sample = gr.Button("Simulated example", size="md", elem_id="parcels-example")
                picture = gr.Image(
                    label="Click a parcel to take it in or out",
                    alt_text="The frame with the borders of its parcels; those of the structure are tinted",
                    interactive=False,
                    format="png",
                    buttons=[],
                    elem_id="parcels-picture",
                )
                frame = gr.Slider(0, 1, 0, step=1, label="Frame", visible=False, elem_id="parcels-frame")
                numbers = gr.Markdown("Open a file, or take the example.", elem_id="parcels-numbers")
                spacing = gr.Number(
                    None,
                    label="Size of a pixel in mm",
                    info="for volumes and diameters, if the file does not state it; 0 is unknown",
                    minimum=0,
                    maximum=SIDES[1],
                    elem_id="parcels-spacing",
                )
            with gr.Column(scale=2):
                view = gr.Radio(
                    views,
                    value=views[0],
                    label="View",
                    info=_CHOOSE,
                    visible=len(views) > 1,
                    elem_id="parcels-view",
                )
                structure = gr.Radio(
                    _structures(first), value=next(iter(first)), label="Structure", elem_id="parcels-structure"
                )
                several = any(pair.ed is not pair.es for pair in first.values())
                phase = gr.Radio(
                    [(phase_name(name).capitalize(), name) for name in LIST_PHASES],
                    value=LIST_PHASES[0],
                    label="List of parcels for",
                    visible=several,
                    elem_id="parcels-phase",
                )
                steps = gr.CheckboxGroup(
                    [(f"{name}: {STEP_TITLES[name]}", name) for name in STEPS],
                    label="Post-processing",
                    info="from the chosen parcels to the outline, in this order",
                    elem_id="parcels-steps",
                )
                share = gr.Slider(
                    0,
                    1,
                    0.5,
                    step=0.05,
                    label="Share of the chosen parcel",
                    info="part of it that belongs to the structure in your opinion; above one half takes it in",
                )
                with gr.Row():
                    turn = gr.Button("Take in or out", size="md", min_width=150, elem_id="parcels-turn")
                    put = gr.Button("Set share", size="md", min_width=150, elem_id="parcels-share")
                    forget = gr.Button("Withdraw", size="md", min_width=150, elem_id="parcels-forget")
                    undo = gr.Button("Undo", size="md", min_width=150, elem_id="parcels-undo")
                with gr.Row():
                    save = gr.DownloadButton("Save opinions", size="md", elem_id="parcels-save")
                    read = gr.UploadButton("Load opinions", size="md", elem_id="parcels-load")
        table = gr.Dataframe(
            headers=list(COLUMNS),
            interactive=False,
            label="Parcels in this frame; click a row to choose it",
            max_height=420,
            pinned_columns=1,
            elem_id="parcels-table",
        )
        shown = [editors, picture, numbers, table, steps, view, structure, phase, frame, spacing, save]

        def event(trigger: Any, act: Callable[..., Any], inputs: list[Any]) -> None:
            trigger(self._event(act), [editors, *inputs], shown, show_progress_on=picture, **PRIVATE)

        event(sample.click, self._example, [])
        event(load.upload, self._upload, [load])
        event(view.input, self._view, [view])
        event(structure.input, _on_editor(_set_structure), [structure])
        event(phase.input, _on_editor(ParcelEditor.set_phase), [phase])
        event(frame.input, _on_editor(_set_frame), [frame])
        event(steps.input, _on_editor(ParcelEditor.set_steps), [steps])
        event(turn.click, _on_editor(_turn), [parcel])
        event(put.click, _on_editor(_set_share), [parcel, share])
        event(forget.click, _on_editor(_forget), [parcel])
        event(undo.click, _on_editor(ParcelEditor.undo), [])
        event(read.upload, self._load, [read])
        event(spacing.input, ViewEditors.set_pixel, [spacing])
        picture.select(
            self._selecting(self._click),
            [editors],
            [parcel, *shown],
            show_progress="hidden",
            **PRIVATE,
        )
        table.select(self._selecting(self._choose), [editors], [parcel, share], **PRIVATE)

    def _selecting(self, act: Callable[[ViewEditors | None, Any], Any]) -> Callable[..., Any]:
        """Annotate the parameter of a listener, by which Gradio passes the position of the click."""

        def run(editors: ViewEditors | None, event: Any) -> Any:
            return act(editors, event)

        run.__annotations__ = {"event": self.gr.SelectData}
        return run

    def _event(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """Run an action on the editors, show errors as warnings, and return the values of all components."""

        def run(editors: ViewEditors | None, *values: Any) -> list[Any]:
            editors = editors or ViewEditors(self.model)
            try:
                act(editors, *values)
            except AlanError as error:
                self.gr.Warning(str(error))
            return self._shown(editors)

        return run

    def _shown(self, editors: ViewEditors) -> list[Any]:
        gr, editor = self.gr, editors.current
        choices = [
            gr.update(value=editor.steps_on()),
            gr.update(value=editors.view, info=editors.recognised or _CHOOSE),
            gr.update(choices=_structures(editor.boxes), value=editor.structure),
            gr.update(value=editor.phase, visible=any(len(editor.phases(name)) > 1 for name in editor.boxes)),
        ]
        if editor.loop is None:
            return [editors, None, "Open a file, or take the example.", [], *choices, *[gr.update()] * 2, None]
        last = len(editor.loop.frames) - 1
        name = "-".join(filter(None, editor.key()))
        file = self.uploads.write(f"{editors.prefix}{name}-opinion.json", editor.opinion().to_json())
        mm = editor.loop.pixel_mm
        return [
            editors,
            editor.picture(),
            describe_choice(editor),
            editor.rows(),
            *choices,
            gr.update(maximum=max(last, 1), value=editor.frame, visible=last > 0),
            gr.update(value=None if mm is None else round(mm, 3)),
            gr.update(value=str(file)),
        ]

    def _example(self, editors: ViewEditors) -> None:
        editors.show_example(self._progress())

    def _upload(self, editors: ViewEditors, path: str) -> None:
        progress = self._progress()
        with self.uploads.taking(path) as file:
            editors.show(read_frames(file, self.model.size, progress), progress)

    def _view(self, editors: ViewEditors, view: str) -> None:
        editors.choose(view, self._progress())

    def _progress(self) -> Callable[[float, str], None]:
        bar = self.gr.Progress()
        return lambda share, text: bar(share, desc=text)

    def _load(self, editors: ViewEditors, path: str) -> None:
        with self.uploads.taking(path) as file:
            views = editors.load(file.read_text(encoding="utf-8", errors="replace"))
        if views:
            self.gr.Info(f"the opinions on {views} were loaded: choose this view to see them")

    def _click(self, editors: ViewEditors | None, event: Any) -> list[Any]:
        parcel = None
        if editors is not None and editors.current.loop is not None:
            parcel = editors.current.parcel_at(*event.index)
        toggled = self._event(lambda one: None if parcel is None else one.current.toggle(parcel))(editors)
        return [parcel, *toggled]

    def _choose(self, editors: ViewEditors | None, event: Any) -> tuple[int | None, Any]:
        if editors is None or editors.current.loop is None:
            return None, self.gr.update()
        parcel = int(event.row_value[0])
        share = float(editors.current.box().selector_.share_[parcel])
        return parcel, self.gr.update(value=round(share, 2), label=f"Share of parcel {parcel}")


def _on_editor(act: Callable[..., Any]) -> Callable[..., Any]:
    """Make an action on the editor of the shown view one on the editors."""
    return lambda editors, *values: act(editors.current, *values)


def _set_structure(editor: ParcelEditor, name: str) -> None:
    editor.structure = name


def _set_frame(editor: ParcelEditor, frame: float) -> None:
    if editor.loop is not None:
        editor.frame = min(max(int(frame), 0), len(editor.loop.frames) - 1)


def _turn(editor: ParcelEditor, parcel: int | None) -> None:
    editor.toggle(_chosen(parcel))


def _set_share(editor: ParcelEditor, parcel: int | None, share: float) -> None:
    editor.judge(_chosen(parcel), Opinion.of(float(share)))


def _forget(editor: ParcelEditor, parcel: int | None) -> None:
    editor.judge(_chosen(parcel), None)


def _chosen(parcel: int | None) -> int:
    if parcel is None:
        raise ParameterError("no parcel is chosen: click one in the picture or in the table")
    return parcel


def _structures(boxes: Mapping[str, PhaseBoxes]) -> list[tuple[str, str]]:
    """List structures as choices: their titles and names."""
    return [(structure_name(name), name) for name in boxes]


def describe_choice(editor: ParcelEditor) -> str:
    """Describe the segment of the current frame, and what the loop measures by the lists of its view, in words."""
    phase = editor.key()[1]
    name = f"{structure_name(editor.structure)}{f' at {phase_name(phase)}' if phase else ''}"
    words = [f"**{name}**: {editor.area():.1%} of the picture"]
    words += [f"Dice {dice:.3f}"] if not math.isnan(dice := editor.dice()) else []
    words.append(f"{len(editor.box().selector_.interior_)} parcels in")
    measures = editor.measures()
    text = "" if measures is None else describe_measures(measures)
    return ", ".join(words) + (f"\n\n**Loop**: {text}" if text else "")
