"""Model of an analysis: parcels, and for each view white boxes of its structures at ED and ES."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from alan.analysis.manifest import SCHEMA, SUFFIX, Manifest, list_views, shipped_models
from alan.analysis.phase_boxes import LEVEL, MapArray, PhaseBoxes
from alan.analysis.results import Spread
from alan.analysis.views import ViewBank
from alan.arrays import Float32Array
from alan.data.preprocessing import resize_frames
from alan.downstream.whitebox.opinion import ExpertOpinion, read_phase_opinions
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.several import check_parcels
from alan.errors import AlanError, ConfigError, DataError, nearest
from alan.export.program import BACKBONE, PARCELS, write_weights
from alan.export.runtime import OnnxParcels, cached_program, open_program
from alan.files import fingerprint, write_json, write_text
from alan.parcels.model import ParcelModel, load_parcels
from alan.shipped import shipped_parcels

#: Files of a saved model, beside its manifest and weights: white boxes, bank of views, exported program, and the
#: folder of further models.
BOXES, VIEWS, PROGRAM, OTHERS = "boxes", "views.safetensors", "network.onnx", "others"
#: Library that runs the network.
Runtime = Literal["torch", "onnx"]
_CAVITIES = ("lv", "la", "rv", "ra")


@dataclass(eq=False, repr=False)
class AnalysisModel:
    """Parcels, and white boxes for each view that can be measured; further models may measure further views.

    ``dataclasses.replace`` makes a model that differs in one attribute, such as the bank.

    Attributes:
        parcels: The locked parcel model.
        views: Mapping from view to structure to its white boxes; the structures are in the order of the labels.
        size: Side in pixels to which frames are resized for the model.
        bank: Bank of labelled frames by which views are recognised; None without one.
        spread: Error of the model in each measure, which widens its interval, see
            :class:`alan.analysis.Manifest`.
        others: Mapping from the names of further models to these, which measure views that this one does not.
        fingerprint: SHA-256 of everything that determines labels and intervals.

    Raises:
        CheckpointError: A white box was fitted on other parcels.
        DataError: Two models measure the same view, or have frames of different sizes.
    """

    parcels: ParcelModel
    views: Mapping[str, Mapping[str, PhaseBoxes]]
    size: int = 112
    bank: ViewBank | None = None
    _: KW_ONLY
    spread: Mapping[str, Spread] = field(default_factory=dict)
    others: Mapping[str, AnalysisModel] = field(default_factory=dict)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        for boxes in self.views.values():
            for name, pair in boxes.items():
                check_parcels(name, pair.ed.selector_, self.parcels)
                check_parcels(name, pair.es.selector_, self.parcels)
        self.all_views()
        for name, other in self.others.items():
            if other.size != self.size:
                raise DataError(
                    f"{name} has frames of {other.size} pixels, the model of {self.size}: give the same size"
                )
        values = cache(lambda box: json.loads(box.to_json()))  # views share white boxes
        contents = {
            view: {name: [values(pair.ed), values(pair.es)] for name, pair in boxes.items()}
            for view, boxes in self.views.items()
        }
        bank = None if self.bank is None else self.bank.fingerprint
        own = [self.parcels.fingerprint, contents, self.size, bank, dict(self.spread)]
        self.fingerprint = fingerprint([*own, *(other.fingerprint for other in self.others.values())])

    @classmethod
    def load(
        cls,
        path_or_name: str | os.PathLike[str],
        runtime: Runtime = "torch",
        opinions: Sequence[str | os.PathLike[str]] = (),
    ) -> Self:
        """Load a model by the path or the name of its manifest.

        Args:
            path_or_name: JSON file, its folder, or name of a shipped one (``alan-sim``), see
                :class:`alan.analysis.Manifest`.
            runtime: Library that runs the network: ``torch``, or ``onnx`` for onnxruntime on the CPU, which uses
                the program beside the manifest, or else a program that is exported once per user.
            opinions: Files of an expert's opinions on the parcels of a structure, or of its list of one phase;
                they take the place of opinions in the white boxes, in all views of the model with these parcels.

        Raises:
            DataError: A manifest is missing or damaged, names a file that is missing, or measures a view of
                another one.
            ParameterError: An opinion is about another structure or other parcels, or is the second one.
            SelectionError: An opinion leaves no parcel.
            CheckpointError: A white box was fitted on other parcels, or the exported program is damaged.
            ConfigError: The runtime is not installed.
        """
        manifest = Manifest.load(path_or_name)
        others = manifest.load_others()
        names = {Path(path_or_name).name.removesuffix(SUFFIX): manifest} | others
        list_views(names)
        own, elsewhere = _share_opinions(opinions, manifest, others)
        further = {name: cls._of(other, runtime, elsewhere[name]) for name, other in others.items()}
        return cls._of(manifest, runtime, own, further)

    @classmethod
    def _of(
        cls,
        manifest: Manifest,
        runtime: Runtime,
        opinions: Sequence[str | os.PathLike[str]],
        others: Mapping[str, AnalysisModel] | None = None,
    ) -> Self:
        """Load the files of one manifest."""
        boxes = {name: ParcelSegmenter.from_json(manifest.find(name)) for name in manifest.box_names()}
        views = {
            view: {structure: PhaseBoxes(boxes[ed], boxes[es]) for structure, (ed, es) in structures.items()}
            for view, structures in manifest.views.items()
        }
        parcels = load_parcels(manifest.find(manifest.parcels))
        if runtime == "onnx":
            beside = manifest.folder / PROGRAM
            path = beside if beside.is_file() else cached_program(parcels, manifest.size)
            parcels = open_program(path, parcels)
        structures = {structure for boxes in views.values() for structure in boxes}
        for opinion in read_phase_opinions(opinions, structures, parcels.fingerprint).values():
            views = {
                view: {
                    name: pair.revise(opinion) if name == opinion.structure else pair for name, pair in own.items()
                }
                for view, own in views.items()
            }
        name = manifest.view_bank
        bank = None if name is None else ViewBank.load(manifest.find(name), parcels.backbone)
        return cls(parcels, views, manifest.size, bank, spread=manifest.spread, others=others or {})

    def save(self, folder: str | os.PathLike[str], name: str) -> None:
        """Write the model into a folder of its own: manifest, weights, white boxes and bank of views.

        Further models get folders of the same kind in it.

        Args:
            folder: The folder, by which :meth:`load` finds the model; it may be moved.
            name: Name of the manifest, ``NAME.model.json``.
        """
        root = Path(folder)
        write_weights(self.parcels, root)
        named: dict[str, dict[str, str | dict[str, str]]] = {}
        for view, structures in self.views.items():
            named[view] = {}
            for structure, pair in structures.items():
                boxes = {"": pair.ed} if pair.ed is pair.es else {"-ED": pair.ed, "-ES": pair.es}
                for end, box in boxes.items():
                    write_text(root / BOXES / f"{view}-{structure}{end}.json", box.to_json())
                own = f"{BOXES}/{view}-{structure}"
                named[view][structure] = own if len(boxes) == 1 else {"ED": f"{own}-ED", "ES": f"{own}-ES"}
        if self.bank is not None:
            self.bank.save(root / VIEWS, "backbone")
        manifest = {"schema": SCHEMA, "parcels": PARCELS, "size": self.size, "views": named}
        bank = {} if self.bank is None else {"view_bank": VIEWS}
        spread = {"spread": {measure: list(pair) for measure, pair in self.spread.items()}} if self.spread else {}
        others = {"others": [f"{OTHERS}/{other}" for other in self.others]} if self.others else {}
        for other, model in self.others.items():
            model.save(root / OTHERS / Path(other).name, Path(other).name)
        write_json(root / f"{name}{SUFFIX}", manifest | bank | spread | others)

    def to(self, device: torch.device) -> Self:
        """Move backbone and parcels to a device, and return the model.

        Raises:
            ConfigError: The network is run by onnxruntime, which uses the processor.
        """
        if isinstance(self.parcels, OnnxParcels):
            if device.type != "cpu":
                raise ConfigError(
                    f"device is '{device}' with the runtime onnx, which uses the processor: give cpu"
                )
            return self
        self.parcels.to(device)  # the bank of views has the same backbone
        for other in self.others.values():
            other.to(device)
        return self

    @staticmethod
    def files(name: str) -> list[str]:
        """Return the names of all files and folders that :meth:`save` may write for a model of that name."""
        return [BACKBONE, PARCELS, VIEWS, BOXES, OTHERS, f"{name}{SUFFIX}"]

    @property
    def runtime(self) -> str:
        """Library that runs the network, with its version."""
        name = "onnxruntime" if isinstance(self.parcels, OnnxParcels) else "torch"
        return f"{name} {version(name)}"

    @property
    def boxes(self) -> dict[str, PhaseBoxes]:
        """Map each structure to its white boxes in the first view that has it."""
        found: dict[str, PhaseBoxes] = {}
        for boxes in self.views.values():
            found |= {name: pair for name, pair in boxes.items() if name not in found}
        return found

    def all_views(self) -> list[str]:
        """List the views that this model and the others measure."""
        return list_views({"the model": self, **self.others})

    def of(self, view: str) -> AnalysisModel:
        """Return the model that measures a view: this one or one of the others.

        Raises:
            DataError: None of them knows the view.
        """
        for model in (self, *self.others.values()):
            if view in model.views:
                return model
        raise DataError(f"view {view!r} is not known to the model: give one of {', '.join(self.all_views())}")

    def structures(self, view: str) -> tuple[str, ...]:
        """List the structures of a view in the order of the labels.

        Raises:
            DataError: The model does not know the view.
        """
        if view not in self.views:
            raise DataError(f"view {view!r} is not known to the model: give one of {', '.join(self.views)}")
        return tuple(self.views[view])

    def maps(self, frames: NDArray[np.uint8]) -> MapArray:
        """Compute the parcel maps of frames of the size of the model.

        Args:
            frames: (B, size, size) uint8.

        Returns:
            (B, size, size) uint8.
        """
        return self.parcels.maps(frames).numpy()

    def resize(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Stretch frames (B, H, W) uint8 to (B, size, size)."""
        return resize_frames(frames, (self.size, self.size))

    def score(
        self,
        maps: MapArray,
        view: str,
        phase: NDArray[np.floating],
        shares: Mapping[str, Float32Array] | None = None,
    ) -> Float32Array:
        """Compute the membership of each pixel in each structure; lists are interpolated by the phase of the beat.

        Args:
            maps: (B, H, W) parcel maps.
            view: The view.
            phase: (B,) 1 at end-diastole, 0 at end-systole.
            shares: Mapping from structure to (2, n_ids) memberships to use instead of those of the model.

        Returns:
            (B, S, H, W) float32 in [0, 1].
        """
        out = np.empty((len(maps), len(self.structures(view)), *maps.shape[1:]), np.float32)
        weight = np.asarray(phase, np.float32)
        for s, (name, pair) in enumerate(self.views[view].items()):
            table = pair.memberships(self.parcels.n_ids) if shares is None else shares[name]
            for t, parcel_map in enumerate(maps):
                out[t, s] = (weight[t] * table[0] + (1 - weight[t]) * table[1])[parcel_map]
        return out

    def label(self, scores: Float32Array, maps: MapArray, view: str) -> NDArray[np.uint8]:
        """Turn memberships into label maps by the post-processing of each structure.

        A pixel in several segments is decided by :func:`combine`.

        Args:
            scores: (B, S, H, W), see :meth:`score`.
            maps: (B, H, W) parcel maps.
            view: The view.

        Returns:
            (B, H, W) uint8; 0 is background, 1 the first structure.
        """
        labels = np.zeros(maps.shape, np.uint8)
        for t, parcel_map in enumerate(maps):
            labels[t] = combine(
                {
                    name: pair.steps(scores[t, s] >= LEVEL, parcel_map)
                    for s, (name, pair) in enumerate(self.views[view].items())
                }
            )
        return labels


def _share_opinions(
    opinions: Sequence[str | os.PathLike[str]], manifest: Manifest, others: Mapping[str, Manifest]
) -> tuple[list[str | os.PathLike[str]], dict[str, list[str | os.PathLike[str]]]]:
    """Give opinions to the models with their parcels; the first gets those on unknown parcels and refuses them.

    Returns:
        The opinions of the first model, and those of each further model.
    """
    if not (opinions and others):
        return list(opinions), {name: [] for name in others}
    about = {file: _parcels_of(file) for file in opinions}
    own = load_parcels(manifest.find(manifest.parcels)).fingerprint
    parcels = {name: load_parcels(one.find(one.parcels)).fingerprint for name, one in others.items()}
    first = [file for file in opinions if about[file] == own or about[file] not in parcels.values()]
    return first, {name: [file for file in opinions if about[file] == parcels[name]] for name in others}


def _parcels_of(opinion: str | os.PathLike[str]) -> str:
    """Return the fingerprint of the parcels that an opinion is about; empty if it cannot be read."""
    try:
        return ExpertOpinion.from_json(opinion).provenance
    except AlanError:  # reported when the opinion is applied
        return ""


def combine(masks: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Combine masks (H, W) of one frame into a label map; a pixel in several goes to the cavity, not to the wall.

    The rule does not depend on the sizes of the masks: their order changes within a beat, which would bias the
    volumes.

    Args:
        masks: Mapping from structure to its mask, in the order of the labels; of two cavities the first one
            counts.

    Returns:
        (H, W) uint8; 0 is background, 1 the first structure.
    """
    values = {name: value for value, name in enumerate(masks, 1)}
    labels = np.zeros(next(iter(masks.values())).shape, np.uint8)
    for name in sorted(masks, key=lambda name: (name in _CAVITIES, -values[name])):
        labels[masks[name]] = values[name]
    return labels


def load_model_or_parcels(model: str) -> AnalysisModel | ParcelModel:
    """Load a model of an analysis, or parcels alone.

    Args:
        model: Path or name of either.

    Raises:
        DataError: There is nothing of that name.
        CheckpointError: The model is damaged.
    """
    path, models, parcels = Path(model), shipped_models(), shipped_parcels()
    if path.is_dir() or path.suffix == ".json" or model in models:
        return AnalysisModel.load(model)
    if not path.is_file() and model not in parcels:
        raise DataError(
            f"{model}: no such model and no such parcels; {nearest(model, [*sorted(models), *parcels])}"
        )
    return load_parcels(model)
