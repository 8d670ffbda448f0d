"""Tab of the page that recognises the view of a loop and shows the nearest labelled frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from alan.analysis.model import AnalysisModel
from alan.analysis.views import ViewResult
from alan.app.loops import read_frames
from alan.app.session import Uploads
from alan.errors import AlanError
from alan.extras import third_party

#: Side of a picture of a neighbour, as a multiple of its thumbnail.
_ENLARGED = 5


class ViewsTab:
    """Tab of the views.

    Args:
        model: The model of the analysis, with its bank of labelled frames.
        uploads: Folder of the uploads.
    """

    def __init__(self, model: AnalysisModel, uploads: Uploads) -> None:
        self.model, self.uploads = model, uploads
        self.gr = third_party("gradio", "ui")

    def build(self) -> None:
        """Place the components and connect them."""
        gr = self.gr
        if self.model.bank is None:
            gr.Markdown("The model has no bank of labelled frames.")
            return
        load = gr.UploadButton("Open a loop or picture", size="md", elem_id="views-upload")
        words = gr.Markdown(elem_id="views-words")
        nearest = gr.Gallery(
            label="This loop and the nearest labelled frames",
            columns=4,
            object_fit="contain",
            buttons=[],
            elem_id="views-nearest",
        )
        load.upload(self._recognise, [load], [words, nearest], api_visibility="private")

    def _recognise(self, path: str) -> list[Any]:
        assert self.model.bank is not None
        try:
            with self.uploads.taking(path) as file:
                frames = read_frames(file, self.model.size).frames
        except AlanError as error:
            self.gr.Warning(str(error))
            return ["", []]
        found = self.model.bank.classify(frames)
        names = ["this loop", *(self.model.bank.views[row] for row in found.neighbours)]
        pictures = [np.kron(one, np.ones((_ENLARGED, _ENLARGED), np.uint8)) for one in found.thumbnails]
        return [describe_view(found), list(zip([frames[0], *pictures], names, strict=True))]


def describe_view(found: ViewResult) -> str:
    """Describe the view and its votes in words."""
    votes = sorted(found.votes.items(), key=lambda vote: -vote[1])
    shares = ", ".join(f"{view} {share:.0%}" for view, share in votes if share >= 0.005)
    doubt = " (unsure)" if found.unsure else ""
    return f"**{found.view}**{doubt}; votes: {shares}"
