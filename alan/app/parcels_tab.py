"""Tab of the page that edits white boxes parcel by parcel; :mod:`alan.app.state` holds its state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from alan.analysis.phase_boxes import PhaseBoxes
from alan.app.loops import example, upload
from alan.app.session import Uploads
from alan.app.state import COLUMNS, STEP_TITLES, STEPS, ParcelEditor
from alan.data.sample import APICAL
from alan.data.structures import structure_name
from alan.downstream.whitebox.opinion import LIST_PHASES, Opinion
from alan.errors import AlanError, ParameterError
from alan.extras import third_party
from alan.parcels.model import ParcelModel
from alan.report.words import phase_name

#: Options of events: other programs cannot call them, and of several fast ones only the last runs.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last"}


class ParcelsTab:
    """Tab that edits white boxes parcel by parcel.

    Args:
        model: The parcel model.
        boxes: Mapping from structure to its white boxes on these parcels.
        view: View of the example; an ejection fraction is shown of apical views only.
        size: Side of the frames of the model.
        uploads: Folder of the uploads.
    """

    def __init__(
        self, model: ParcelModel, boxes: Mapping[str, PhaseBoxes], view: str, size: int, uploads: Uploads
    ) -> None:
        self.model, self.boxes, self.view, self.size, self.uploads = model, boxes, view, size, uploads
        self.gr = third_party("gradio", "ui")

    def build(self) -> None:
        """Place the components and connect them."""
        gr, names = self.gr, list(self.boxes)
        editor = gr.State(None)
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
            with gr.Column(scale=2):
                structure = gr.Radio(
                    [(structure_name(name), name) for name in names], value=names[0], label="Structure"
                )
                several = any(pair.ed is not pair.es for pair in self.boxes.values())
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
                    turn = gr.Button("Take in or out", size="md", min_width=80, elem_id="parcels-turn")
                    put = gr.Button("Set share", size="md", min_width=80, elem_id="parcels-share")
                    forget = gr.Button("Withdraw", size="md", min_width=80, elem_id="parcels-forget")
                    undo = gr.Button("Undo", size="md", min_width=80, elem_id="parcels-undo")
                with gr.Row():
                    save = gr.DownloadButton("Save opinions", size="md", elem_id="parcels-save")
                    read = gr.UploadButton("Load opinions", size="md", elem_id="parcels-load")
                table = gr.Dataframe(
                    headers=list(COLUMNS),
                    interactive=False,
                    label="Parcels in this frame; click a row to choose it",
                    max_height=420,
                    elem_id="parcels-table",
                )
        shown = [editor, picture, numbers, table, steps, structure, phase, frame, save]

        def event(trigger: Any, act: Callable[..., Any], inputs: list[Any]) -> None:
            trigger(self._event(act), [editor, *inputs], shown, show_progress_on=picture, **PRIVATE)

        event(sample.click, self._example, [])
        event(load.upload, self._upload, [load])
        event(structure.input, self._structure, [structure])
        event(phase.input, ParcelEditor.set_phase, [phase])
        event(frame.input, self._frame, [frame])
        event(steps.input, ParcelEditor.set_steps, [steps])
        event(turn.click, self._turn, [parcel])
        event(put.click, self._share, [parcel, share])
        event(forget.click, self._forget, [parcel])
        event(undo.click, ParcelEditor.undo, [])
        event(read.upload, self._load, [read])
        picture.select(
            self._selecting(self._click),
            [editor],
            [parcel, *shown],
            show_progress="hidden",
            **PRIVATE,
        )
        table.select(self._selecting(self._choose), [editor], [parcel, share], **PRIVATE)

    def _selecting(self, act: Callable[[ParcelEditor | None, Any], Any]) -> Callable[..., Any]:
        """Annotate the parameter of a listener, by which Gradio passes the position of the click."""

        def run(editor: ParcelEditor | None, event: Any) -> Any:
            return act(editor, event)

        run.__annotations__ = {"event": self.gr.SelectData}
        return run

    def _event(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """Run an action on the editor, show errors as warnings, and return the values of all components."""

        def run(editor: ParcelEditor | None, *values: Any) -> list[Any]:
            editor = editor or ParcelEditor(self.boxes, self.model.fingerprint)
            try:
                act(editor, *values)
            except AlanError as error:
                self.gr.Warning(str(error))
            return self._shown(editor)

        return run

    def _shown(self, editor: ParcelEditor) -> list[Any]:
        gr = self.gr
        choices = [gr.update(value=value) for value in (editor.steps_on(), editor.structure, editor.phase)]
        if editor.loop is None:
            return [editor, None, "Open a file, or take the example.", [], *choices, gr.update(), None]
        last = len(editor.loop.frames) - 1
        frame = gr.update(maximum=max(last, 1), value=editor.frame, visible=last > 0)
        name = "-".join(filter(None, editor.key()))
        file = self.uploads.write(f"{name}-opinion.json", editor.opinion().to_json())
        return [
            editor,
            editor.picture(),
            describe_choice(editor, self.view),
            editor.rows(),
            *choices,
            frame,
            gr.update(value=str(file)),
        ]

    def _example(self, editor: ParcelEditor) -> None:
        editor.show(example(self.model, self.view, self.size, self._progress()))

    def _upload(self, editor: ParcelEditor, path: str) -> None:
        with self.uploads.taking(path) as file:
            editor.show(upload(file, self.model, self.size, self._progress()))

    def _progress(self) -> Callable[[float, str], None]:
        bar = self.gr.Progress()
        return lambda share, text: bar(share, desc=text)

    def _structure(self, editor: ParcelEditor, name: str) -> None:
        editor.structure = name

    def _frame(self, editor: ParcelEditor, frame: float) -> None:
        if editor.loop is not None:
            editor.frame = min(max(int(frame), 0), len(editor.loop.frames) - 1)

    def _turn(self, editor: ParcelEditor, parcel: int | None) -> None:
        editor.toggle(_chosen(parcel))

    def _share(self, editor: ParcelEditor, parcel: int | None, share: float) -> None:
        editor.judge(_chosen(parcel), Opinion.of(float(share)))

    def _forget(self, editor: ParcelEditor, parcel: int | None) -> None:
        editor.judge(_chosen(parcel), None)

    def _load(self, editor: ParcelEditor, path: str) -> None:
        with self.uploads.taking(path) as file:
            editor.load(file.read_text(encoding="utf-8", errors="replace"))

    def _click(self, editor: ParcelEditor | None, event: Any) -> list[Any]:
        parcel = None
        if editor is not None and editor.loop is not None:
            parcel = editor.parcel_at(*event.index)
        toggled = self._event(lambda editor: None if parcel is None else editor.toggle(parcel))(editor)
        return [parcel, *toggled]

    def _choose(self, editor: ParcelEditor | None, event: Any) -> tuple[int | None, Any]:
        if editor is None or editor.loop is None:
            return None, self.gr.update()
        parcel = int(event.row_value[0])
        return parcel, self.gr.update(
            value=round(float(editor.box().selector_.share_[parcel]), 2), label=f"Share of parcel {parcel}"
        )


def _chosen(parcel: int | None) -> int:
    if parcel is None:
        raise ParameterError("no parcel is chosen: click one in the picture or in the table")
    return parcel


def describe_choice(editor: ParcelEditor, view: str) -> str:
    """Describe the measurements of the current frame in words; only apical views have an ejection fraction."""
    phase = editor.key()[1]
    name = f"{structure_name(editor.structure)}{f' at {phase_name(phase)}' if phase else ''}"
    words = [f"**{name}**: {editor.area():.1%} of the picture"]
    words += [f"Dice {dice:.3f}"] if not math.isnan(dice := editor.dice()) else []
    ef = editor.ejection_fraction() if view in APICAL else math.nan
    words += [] if math.isnan(ef) else [f"ejection fraction {ef:.0f}%"]
    words.append(f"{len(editor.box().selector_.interior_)} parcels in")
    return ", ".join(words)
