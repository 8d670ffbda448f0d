"""Parcel editors of all views of a model: a loop is shown in one view, by the white boxes of its model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

from alan.analysis.model import AnalysisModel
from alan.app.loops import ParcelLoop, UploadedFrames, compute_parcels, example
from alan.app.state import ParcelEditor
from alan.errors import DataError
from alan.progress import Progress, no_progress


class ViewEditors:
    """White boxes of a model and of its further models, edited in one view at a time.

    Args:
        model: The model.

    Attributes:
        view: The view that is shown.
        recognised: How the view of the shown loop was found, in words; empty if it was not recognised.
    """

    def __init__(self, model: AnalysisModel) -> None:
        self._model = model
        self._of: dict[str, ParcelEditor] = {}
        for one in (model, *model.others.values()):
            editor = ParcelEditor(one.views, one.parcels.fingerprint)
            self._of |= dict.fromkeys(one.views, editor)
        self.view, self.recognised = next(iter(self._of)), ""

    @property
    def current(self) -> ParcelEditor:
        """Editor of the model of the shown view."""
        return self._of[self.view]

    @property
    def prefix(self) -> str:
        """Start of the names of saved opinions, by which those of further models are told apart."""
        return "" if self.view in self._model.views else f"{self.view}-"

    def choose(self, view: str, progress: Progress = no_progress) -> None:
        """Show the loop in another view, with the parcels of its model; the example is simulated in that view."""
        loop, before = self.current.loop, self.current
        self._set(view)
        if loop is None:
            return
        if loop.reference is not None:
            self.show_example(progress)
        elif self.current is not before:
            maps = compute_parcels(self._model.of(view).parcels, loop.frames, progress)
            self._show(replace(loop, maps=maps))

    def show_example(self, progress: Progress = no_progress) -> None:
        """Simulate a loop of the shown view."""
        self._show(example(self._model.of(self.view).parcels, self.view, self._model.size, progress))
        self.recognised = ""

    def show(self, found: UploadedFrames, progress: Progress = no_progress) -> None:
        """Recognise the view of an uploaded loop, and show it by the model of this view.

        Raises:
            DataError: The loop shows another view, and is shown in the view that was chosen before.
        """
        bank, unknown = self._model.bank, ""
        self.recognised = ""
        if bank is not None:
            recognised = bank.classify(found.frames)
            if recognised.view in self._of:
                self._set(recognised.view)
                self.recognised = f"recognised by {recognised.share:.0%} of the votes"
            else:
                unknown = f"the view was not recognised ({recognised.view}): choose it"
                self.recognised = unknown
        maps = compute_parcels(self._model.of(self.view).parcels, found.frames, progress)
        self._show(ParcelLoop(found.frames, maps, found.shape, pixel_mm=found.pixel_mm))
        if unknown:
            raise DataError(unknown)

    def set_pixel(self, pixel_mm: float | None) -> None:
        """Set the size of a pixel of the shown loop in mm; None or 0 if it is unknown."""
        if self.current.loop is not None:
            self.current.loop = replace(self.current.loop, pixel_mm=pixel_mm or None)

    def load(self, text: str) -> str:
        """Load opinions into the editor of the model with their parcels, see :meth:`ParcelEditor.load`.

        Returns:
            Views of this model in words if none of them is shown; otherwise empty.
        """
        editor = next((one for one in self._editors() if one.fingerprint == _provenance(text)), self.current)
        editor.load(text)
        return "" if editor is self.current else " and ".join(editor.views)

    def _set(self, view: str) -> None:
        self.view = view
        self.current.set_view(view)

    def _show(self, loop: ParcelLoop) -> None:
        for editor in self._editors():
            editor.loop = None
        self.current.show(loop)

    def _editors(self) -> Iterator[ParcelEditor]:
        yield from {id(editor): editor for editor in self._of.values()}.values()


def _provenance(text: str) -> str:
    """Return the fingerprint of the parcels that opinions are about; empty if they cannot be read."""
    try:
        return str(json.loads(text)["provenance"])
    except (ValueError, KeyError, TypeError):  # reported when they are loaded
        return ""
