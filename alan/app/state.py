"""State of the parcel editor of the page: opinions on parcels, steps, undo, and the resulting segments."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from alan.analysis.measures import BeatMeasures
from alan.analysis.overlay import Painter, display_shape
from alan.analysis.phase_boxes import PhaseBoxes
from alan.app.loops import ParcelLoop
from alan.app.measured import measure_pair
from alan.arrays import BoolArray, ByteArray, IntArray
from alan.downstream.whitebox.opinion import LIST_PHASES, ExpertOpinion, Opinion
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.errors import ParameterError
from alan.overlap import dice_of_counts

#: Post-processing steps that the page can switch, to the values that switch them off.
STEPS: dict[str, dict[str, Any]] = {
    "component": {"component": False},
    "enclaves": {"enclaves": False},
    "closing": {"closing_radius": 0.0},
    "fill": {"fill": False},
    "contour": {"contour": False},
    "median": {"median_radius": 0.0},
}
#: Post-processing step to what it does, in few words.
STEP_TITLES = {
    "component": "main piece only",
    "enclaves": "add enclosed parcels",
    "closing": "close gaps",
    "fill": "fill holes",
    "contour": "smooth by a contour",
    "median": "smooth by a median",
}
#: Values for steps that the page switches on and the white box does not use (pixels at 112 x 112).
_ON = {"closing_radius": 10.0, "median_radius": 3.0}
#: Columns of the table of parcels.
COLUMNS = ("parcel", "in", "share", "opinion", "simulated", "labels", "pixels")


#: A list of parcels: its structure, and its phase where the structure has one list for each phase.
ListKey = tuple[str, str]


@dataclass(frozen=True)
class _Edits:
    """Edits of a user that can be undone: opinions on each list, and changed steps of each structure."""

    opinions: Mapping[ListKey, Mapping[int, Opinion]]
    steps: Mapping[str, Mapping[str, Any]]


@dataclass
class ParcelEditor:
    """White boxes of a parcel model that a user edits parcel by parcel.

    Attributes:
        views: Mapping from view to structure to its white boxes, of rule ``beta``. An opinion on a structure
            changes its list in all views.
        fingerprint: Fingerprint of the parcel model.
        view: The view whose lists are shown.
        loop: The frames that are shown; None before one is loaded.
        structure: The structure that is edited.
        phase: Phase whose list is edited (``ED`` or ``ES``), in structures that have a list for each.
        frame: The frame that is shown.
    """

    views: Mapping[str, Mapping[str, PhaseBoxes]]
    fingerprint: str
    view: str = ""
    loop: ParcelLoop | None = None
    structure: str = ""
    phase: str = LIST_PHASES[0]
    frame: int = 0
    _edits: _Edits = field(init=False, repr=False)
    _history: list[_Edits] = field(init=False, repr=False, default_factory=list)
    _current: dict[tuple[str, ListKey], ParcelSegmenter] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Start with the unchanged white boxes.

        Raises:
            ParameterError: A white box is of another rule than ``beta``.
        """
        self._current = {
            (view, (name, phase)): pair.es if phase == "ES" else pair.ed
            for view, boxes in self.views.items()
            for name, pair in boxes.items()
            for phase in _phases(pair)
        }
        opinions: dict[ListKey, Mapping[int, Opinion]] = {}
        for (_, key), box in self._current.items():
            if box.selector_.rule != "beta":
                raise ParameterError(
                    f"the white box of {key[0]!r} is of rule {box.selector_.rule!r}: the page edits rule beta"
                )
            given = box.selector_.opinion
            opinions.setdefault(key, dict(given.parcels) if isinstance(given, ExpertOpinion) else {})
        self._edits = _Edits(opinions, {})
        self.set_view(self.view or next(iter(self.views)))

    @property
    def boxes(self) -> Mapping[str, PhaseBoxes]:
        """White boxes of the shown view, without the edits."""
        return self.views[self.view]

    def show(self, loop: ParcelLoop) -> None:
        """Show another loop at the phase whose list is edited, and keep the edits."""
        self.loop, self.frame = loop, 0
        self.set_phase(self.phase)

    def set_view(self, view: str) -> None:
        """Show the lists of another view."""
        self.view = view
        if self.structure not in self.boxes:
            self.structure = next(iter(self.boxes))

    def phases(self, structure: str) -> tuple[str, ...]:
        """Return the phases with a list of their own; one empty name where one list serves the whole beat."""
        return _phases(self.boxes[structure])

    def key(self, structure: str | None = None) -> ListKey:
        """Return the list of a structure in the current phase, by default of the current structure."""
        name = structure or self.structure
        return name, self.phase if len(self.phases(name)) > 1 else ""

    def set_phase(self, phase: str) -> None:
        """Edit the lists of a phase, and show its frame, which the left ventricle determines."""
        self.phase = phase
        if self.loop is not None and "lv" in self.boxes and len(self.loop.maps) > 1:
            self.frame = self._extreme(phase)

    def box(self) -> ParcelSegmenter:
        """Return the current white box with its edits."""
        return self._current[self.view, self.key()]

    def is_in(self, parcel: int) -> bool:
        """Return whether a parcel belongs to the current structure."""
        return parcel in self.box().selector_.interior_

    def toggle(self, parcel: int) -> None:
        """Add a parcel to the current structure (surely inside) or remove it (never); see :meth:`judge`."""
        self.judge(parcel, Opinion.of("never" if self.is_in(parcel) else "inside"))

    def judge(self, parcel: int, opinion: Opinion | None) -> None:
        """Set the opinion on a parcel of the current structure.

        Args:
            parcel: Id of the parcel.
            opinion: The opinion; None withdraws it.

        Raises:
            ParameterError: The parcel does not exist.
            SelectionError: No parcel would be left; nothing is changed.
        """
        own = {k: one for k, one in self._edits.opinions[self.key()].items() if k != parcel}
        if opinion is not None:
            own[int(parcel)] = opinion
        self._take(self._lists(*self.key()), own)

    def load(self, text: str) -> str:
        """Replace the opinions on a list and the steps of its structure by those of a JSON text, and edit it.

        An opinion without a phase is about all lists of its structure. Steps that it does not set are those of the
        white box.

        Returns:
            The structure.

        Raises:
            ParameterError: The text is not an opinion on one of the structures and on these parcels.
            SelectionError: No parcel would be left; nothing is changed.
        """
        if not text.lstrip().startswith("{"):  # other text would be read as a path
            raise ParameterError("the file is not JSON: give one that this page or an expert wrote")
        given = ExpertOpinion.from_json(text)
        given.check_model(self.fingerprint)
        if not self._lists(given.structure):
            known = dict.fromkeys(name for name, _ in self._edits.opinions)
            raise ParameterError(f"structure is {given.structure!r}: give one of {', '.join(known)}")
        keys = self._lists(given.structure, given.phase)
        if not keys:
            raise ParameterError(
                f"phase is {given.phase!r}: {given.structure} has one list for the whole beat; leave the phase out"
            )
        self._take(keys, given.parcels, {given.structure: given.steps})
        if given.structure in self.boxes:
            self.structure = given.structure
        if given.phase and given.phase != self.phase:
            self.set_phase(given.phase)
        return given.structure

    def opinion(self) -> ExpertOpinion:
        """Return the opinions on the current list, with the steps that differ from those of the white box."""
        structure, phase = self.key()
        own, now = self.boxes[structure].steps.get_params(), self.box().steps.get_params()
        changed = {name: value for name, value in now.items() if value != own[name]}
        return ExpertOpinion(structure, self.fingerprint, self._edits.opinions[structure, phase], phase, changed)

    def steps_on(self) -> list[str]:
        """Return the names of the post-processing steps that are on."""
        steps = self.box().steps
        return [name for name, off in STEPS.items() if any(getattr(steps, key) for key in off)]

    def set_steps(self, names: list[str]) -> None:
        """Switch the named post-processing steps of the current structure on and all others off."""
        steps, given = self.box().steps, self.boxes[self.structure].steps
        for name, off in STEPS.items():
            if name in names and name not in self.steps_on():
                on: dict[str, Any] = {key: getattr(given, key) or _ON.get(key, True) for key in off}
                steps = replace(steps, **on)
            elif name not in names:
                steps = replace(steps, **off)
        if steps != self.box().steps:
            self._take([], {}, {self.structure: steps.get_params()})

    def undo(self) -> None:
        """Undo the last change, if there is one."""
        if self._history:
            self._apply(self._history[-1])
            self._edits = self._history.pop()

    def parcel_at(self, x: float, y: float) -> int:
        """Find the parcel at a point of the picture.

        Args:
            x: Column in the picture.
            y: Row in the picture.
        """
        parcel_map, (height, width) = self._current_loop().maps[self.frame], self.picture_shape
        row = min(max(int(y * parcel_map.shape[0] / height), 0), parcel_map.shape[0] - 1)
        column = min(max(int(x * parcel_map.shape[1] / width), 0), parcel_map.shape[1] - 1)
        return int(parcel_map[row, column])

    def masks(self, frame: int | None = None) -> dict[str, BoolArray]:
        """Compute the masks (S, S) of all structures in a frame, by default in the current frame."""
        parcel_map = self._current_loop().maps[self.frame if frame is None else frame]
        return {name: self._mask(name, parcel_map) for name in self.boxes}

    def area(self) -> float:
        """Compute the area of the current structure in the current frame, as a share of the picture."""
        return float(self._mask(self.structure, self._current_loop().maps[self.frame]).mean())

    def dice(self) -> float:
        """Compute the Dice score of the current structure in the current frame; NaN without a reference."""
        reference = self._current_loop().reference_mask(self.structure, self.frame)
        if reference is None:
            return math.nan
        mask = self._mask(self.structure, self._current_loop().maps[self.frame])
        return float(dice_of_counts(np.array((mask & reference).sum()), np.array(mask.sum() + reference.sum())))

    def areas(self) -> IntArray:
        """Count the pixels (T,) of the current structure in each frame of the loop."""
        return np.array([self._mask(self.structure, one).sum() for one in self._current_loop().maps], np.int64)

    def measures(self) -> BeatMeasures | None:
        """Measure between the frames of largest and smallest ventricular area, each by the list of its phase.

        Measures that need the size of a pixel are NaN without it. None without a white box of the left ventricle
        or for a single frame.
        """
        loop = self._current_loop()
        if "lv" not in self.boxes or len(loop.maps) < 2:
            return None
        frames = {phase: self._extreme(phase) for phase in LIST_PHASES}
        masks = {
            name: np.stack([self._mask(name, loop.maps[frame], phase) for phase, frame in frames.items()])
            for name in self.boxes
        }
        return measure_pair(masks, loop.grid(self.view))

    def _extreme(self, phase: str) -> int:
        """Find the frame with the largest left ventricle by its list for ED, or the smallest by that for ES."""
        areas = [int(self._mask("lv", one, phase).sum()) for one in self._current_loop().maps]
        return int(np.argmin(areas) if phase == "ES" else np.argmax(areas))

    def rows(self) -> list[list[object]]:
        """Build the table of the parcels in the current frame, see :data:`COLUMNS`; the largest share is first."""
        selector, loop = self.box().selector_, self._current_loop()
        known = selector.posterior_
        pixels = np.bincount(loop.maps[self.frame].ravel(), minlength=selector.n_parcels_)
        order = sorted(np.flatnonzero(pixels[: selector.n_parcels_]), key=lambda k: (-selector.share_[k], k))
        mine = self._edits.opinions[self.key()]
        return [
            [
                int(k),
                "in" if self.is_in(int(k)) else "",
                f"{selector.share_[k]:.0%}",
                _words(mine.get(int(k))),
                _share(known.prior.inside[k], known.prior.outside[k]),
                _share(known.labels.inside[k], known.labels.outside[k]),
                int(pixels[k]),
            ]
            for k in order
            if k != selector.background_id
        ]

    @property
    def picture_shape(self) -> tuple[int, int]:
        """Return the (height, width) of the pictures."""
        return display_shape(self._current_loop().shape, 1.0)

    def picture(self) -> ByteArray:
        """Draw the frame with the borders of its parcels, the parcels of the structure and its outline.

        Returns:
            (height, width, 3) uint8.
        """
        loop, shape = self._current_loop(), self.picture_shape
        painter = Painter(shape, loop.maps.shape[1])
        value = list(self.boxes).index(self.structure) + 1
        mask = self.masks()[self.structure]
        chosen = np.zeros(256, np.uint8)
        chosen[self.box().selector_.interior_] = value
        outline = painter.labels((mask * value).astype(np.uint8)[None])[0]
        return painter.paint_parcels(loop.frames[self.frame], loop.maps[self.frame], outline, chosen)

    def _mask(self, structure: str, parcel_map: ByteArray, phase: str = "") -> BoolArray:
        """Return the mask of a structure by its list of a phase, by default of the current phase."""
        own = self.key(structure)[1]
        box = self._current[self.view, (structure, phase or own if own else "")]
        return box.steps(box.selector_.predict(parcel_map[None])[0], parcel_map)

    def _current_loop(self) -> ParcelLoop:
        if self.loop is None:
            raise ParameterError("no loop is loaded: load one, or take the example")
        return self.loop

    def _lists(self, structure: str, phase: str = "") -> list[ListKey]:
        """Return the lists of a structure in any view that an opinion on a phase, or without one, is about."""
        return [key for key in self._edits.opinions if key[0] == structure and phase in ("", key[1])]

    def _take(
        self,
        keys: Sequence[ListKey],
        own: Mapping[int, Opinion],
        steps: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        opinions = {**self._edits.opinions, **dict.fromkeys(keys, own)}
        self._change(_Edits(opinions, {**self._edits.steps, **steps}))

    def _change(self, edits: _Edits) -> None:
        self._apply(edits)
        self._history.append(self._edits)
        self._edits = edits

    def _apply(self, edits: _Edits) -> None:
        """Choose the parcels of structures whose edits changed; an error leaves the state unchanged."""
        fresh = dict(self._current)
        for (view, key), before in self._current.items():
            (name, phase), own, box = key, edits.opinions[key], before
            if own != self._edits.opinions[key]:
                box = before.revise(ExpertOpinion(name, self.fingerprint, own, phase) if own else None)
            steps = self.views[view][name].steps.with_params(edits.steps.get(name, {}))
            fresh[view, key] = box if steps == box.steps else box.with_steps(steps.get_params())
        self._current = fresh


def _phases(pair: PhaseBoxes) -> tuple[str, ...]:
    """Return the phases of white boxes with a list of their own; one empty name for one list."""
    return ("",) if pair.ed is pair.es else LIST_PHASES


def _share(inside: float, outside: float) -> str:
    """Format the share and weight of one kind of evidence; empty without evidence."""
    total = inside + outside
    return f"{inside / total:.0%} of {total:.0f}" if total else ""


def _words(opinion: Opinion | None) -> str:
    if opinion is None:
        return ""
    return opinion.word or f"{opinion.share:.0%} of {opinion.strength:g}"
