"""Tab of the page with one tab per network, which segments a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alan.app.models import PictureModel
from alan.app.session import Uploads
from alan.errors import AlanError
from alan.extras import third_party
from alan.report.words import structure_name


class ModelsTab:
    """Tab of the networks.

    Args:
        models: The networks, among them ensembles.
        uploads: Where uploads lie.
    """

    def __init__(self, models: Sequence[PictureModel], uploads: Uploads) -> None:
        self.models, self.uploads = models, uploads
        self.gr = third_party("gradio", "ui")

    def build(self) -> None:
        """Place the components and connect them."""
        for number, model in enumerate(self.models):
            with self.gr.Tab(model.name):
                self._build(number, model)

    def _build(self, number: int, model: PictureModel) -> None:
        gr = self.gr
        with gr.Row():
            load = gr.UploadButton("Open a picture", elem_id=f"model-{number}-upload")
            save = gr.DownloadButton("Download the mask", elem_id=f"model-{number}-save")
        picture = gr.Image(
            label=", ".join(structure_name(name) for name in model.structures),
            alt_text="The picture with the outlines of the network",
            interactive=False,
            format="png",
            buttons=[],
            elem_id=f"model-{number}-picture",
        )
        numbers = gr.Markdown(elem_id=f"model-{number}-numbers")
        load.upload(self._segment(model), [load], [picture, numbers, save], api_visibility="private")

    def _segment(self, model: PictureModel) -> Callable[[str], list[Any]]:
        def run(path: str) -> list[Any]:
            try:
                with self.uploads.taking(path) as file:
                    mask = model.segment(file)
            except AlanError as error:
                self.gr.Warning(str(error))
                return [None, "", None]
            saved = self.uploads.place("mask.png")
            model.write(mask, saved)
            words = [f"{structure_name(name)} {share:.1%}" for name, share in mask.shares.items()]
            return [mask.overlay, "Share of the picture: " + ", ".join(words), str(saved)]

        return run
