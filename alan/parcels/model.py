"""Parcel model: a locked backbone with a locked head that gives parcel maps, and its file format."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from alan.backbone.base import Backbone, Features, frame_batch
from alan.backbone.checkpoint import load_plain
from alan.backbone.conv import ConvSpec
from alan.backbone.frozen import FrozenModule
from alan.backbone.load import load_backbone
from alan.data.store.reader import FrameStore
from alan.errors import CheckpointError, ParameterError, damaged, nearest
from alan.files import check_schema, fingerprint, fingerprint_tensors
from alan.parcels.guided import GuidedFilter
from alan.parcels.heads import TokenHead, build_head
from alan.parcels.maps import ImageSize, logits_to_maps, pixel_sector
from alan.progress import batches
from alan.shipped import shipped_or_path, shipped_parcels
from alan.tensors import read_tensors, write_tensors

SCHEMA = "alan-parcels/1"
#: Key of the description in the metadata of a safetensors file and in a Lightning checkpoint.
ENTRY = "alan_parcels"
_PREFIX = "head."


class ParcelModel(FrozenModule):
    """A locked backbone and a locked head that turn frames into parcel maps.

    Args:
        backbone: The locked backbone.
        head: Head for tokens of its width; frozen and put into eval mode here.
        sector_only: Give pixels outside the ultrasound sector the id K instead of a parcel.
        source: Path or name from which :func:`alan.backbone.load_backbone` loaded the backbone; the file records
            it, so that the backbone can be found again.
        refine: Guided filter that aligns the borders between parcels with edges of the image; None upsamples
            bilinearly.

    Attributes:
        n_parcels: Number of parcels K.
        background_id: K with ``sector_only``, otherwise None.
        n_ids: Number of different ids in a map: K, or K + 1 with a background.
        fingerprint: SHA-256 of backbone, head, ``sector_only`` and ``refine``.

    Raises:
        ParameterError: The head expects tokens of another width.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: TokenHead,
        *,
        sector_only: bool = False,
        source: str | None = None,
        refine: GuidedFilter | None = None,
    ) -> None:
        super().__init__()
        if head.dim != backbone.dim:
            raise ParameterError(
                f"the head expects tokens of width {head.dim}, the backbone gives {backbone.dim}: "
                "use the backbone it was trained on"
            )
        self.backbone = backbone
        self.head = head.requires_grad_(False)
        self.sector_only = sector_only
        self.source = source
        self.refine = refine
        self.n_parcels = head.n_parcels
        self.background_id = head.n_parcels if sector_only else None
        self.n_ids = head.n_parcels + sector_only
        identity: list[Any] = [backbone.fingerprint, fingerprint_tensors(head.state_dict()), sector_only]
        if head.variant:
            identity.append(head.variant)
        if refine is not None:
            identity.append(refine.to_dict())
        self.fingerprint = fingerprint(identity)
        self.train(False)

    def __repr__(self) -> str:
        """Describe the model in one line; ``model.head`` and ``model.backbone.network`` show its layers."""
        return f"ParcelModel({self.n_parcels} parcels, {self.backbone!r}, fingerprint {self.fingerprint[:12]})"

    def refined(self, refine: GuidedFilter | None) -> ParcelModel:
        """Return the model with another upsampling, None for the plain one; backbone and head are shared."""
        return ParcelModel(
            self.backbone, self.head, sector_only=self.sector_only, source=self.source, refine=refine
        )

    @torch.no_grad()
    def logits(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Compute the parcel logits of a batch.

        Args:
            frames: (B, H, W) uint8.

        Returns:
            (B, K, h, w) float32 on the model's device.

        Raises:
            ParameterError: The frames have another shape or dtype.
        """
        return self.logits_of(self.backbone(torch.as_tensor(frames)))

    @torch.no_grad()
    def logits_of(self, features: Features) -> Tensor:
        """Compute the parcel logits (B, K, h, w) float32 from features of the backbone."""
        logits: Tensor = self.head(features.tokens)
        return logits.permute(0, 3, 1, 2)

    @torch.no_grad()
    def maps(
        self, frames: Tensor | NDArray[np.uint8], size: ImageSize | None = None, batch_size: int = 32
    ) -> Tensor:
        """Compute parcel maps: logits are upsampled to the image, and each pixel gets its most likely parcel.

        Args:
            frames: (B, H, W) uint8, any number.
            size: (H, W) of the maps; None uses the size of the frames.
            batch_size: Number of frames that go through the backbone at a time.

        Returns:
            (B, H, W) uint8 on the CPU: 0 to K - 1, and with ``sector_only`` K outside the sector.

        Raises:
            ParameterError: The frames have another shape or dtype.
        """
        batch = frame_batch(frames)
        height, width = (size, size) if isinstance(size, int) else size or tuple(batch.shape[1:])
        maps = torch.empty(len(batch), height, width, dtype=torch.uint8)
        for part in batches(len(batch), batch_size):
            features, some = self.backbone(batch[part]), batch[part]
            on_cpu = features.tokens.device.type == "cpu"
            step = 1 if on_cpu else len(some)  # the logits of one frame fit the cache of a CPU
            for one in batches(len(some), step):
                logits = self.logits_of(Features(features.cls[one], features.tokens[one]))
                maps[part][one] = self.maps_from_logits(logits, some[one], (height, width))
        return maps

    def store_maps(self, store: FrameStore, frames: ArrayLike, batch_size: int = 32) -> NDArray[np.uint8]:
        """Compute the parcel maps of frames of a store, with a progress bar.

        Args:
            store: The frame store.
            frames: (n,) global frame indices.
            batch_size: Number of frames that go through the backbone at a time.

        Returns:
            (n, S, S) uint8, at the size of the store.
        """
        index = np.asarray(frames, np.int64)
        maps = np.empty((len(index), store.size, store.size), np.uint8)
        for part in batches(len(index), batch_size, f"parcels of {store.path.name}"):
            maps[part] = self.maps(store.frames(index[part]), batch_size=batch_size).numpy()
        return maps

    def maps_from_logits(self, logits: Tensor, frames: Tensor, size: ImageSize) -> Tensor:
        """Compute parcel maps from given logits.

        Args:
            logits: (B, K, h, w), as :meth:`logits` gives.
            frames: (B, H0, W0) uint8, the frames of the logits, for the sector and for ``refine``.
            size: (H, W) of the maps.

        Returns:
            (B, H, W) uint8 on the device of the logits.
        """
        if self.background_id is None:
            return logits_to_maps(logits, size, frames, self.refine)
        inside = pixel_sector(frames.to(logits.device), size)
        maps = logits_to_maps(logits, size, frames, self.refine, inside)
        maps[~inside] = self.background_id
        return maps

    def entry(self, folder: Path) -> dict[str, Any]:
        """Describe the model for a file in ``folder``: everything but the tensors of the head, JSON-able."""
        entry = parcel_entry(self.head, self.backbone, self.source, folder, sector_only=self.sector_only)
        refine = None if self.refine is None else self.refine.to_dict()
        return entry | {"refine": refine, "fingerprint": self.fingerprint}


def parcel_entry(
    head: TokenHead, backbone: Backbone, source: str | None, folder: Path | None, *, sector_only: bool
) -> dict[str, Any]:
    """Describe a parcel model without refinement: everything but the tensors of the head, JSON-able.

    Args:
        head: The head.
        backbone: The backbone.
        source: Path or name from which the backbone was loaded.
        folder: Folder of the file; if ``source`` is a path, it is also recorded relative to the folder. None if
            the folder is unknown.
        sector_only: Whether pixels outside the sector are background.
    """
    relative = None
    if source is not None and folder is not None and Path(source).exists():
        relative = Path(os.path.relpath(Path(source).resolve(), folder.resolve())).as_posix()
    levels = backbone.spec.feature_levels if isinstance(backbone.spec, ConvSpec) else None
    origin = {
        "source": source,
        "relative": relative,
        "fingerprint": backbone.fingerprint,
        "input_size": backbone.input_size,
        "stride": backbone.stride,
        "feature_levels": None if levels is None else list(levels),
    }
    return {"schema": SCHEMA, "head": head.settings(), "sector_only": sector_only, "backbone": origin}


def save_parcels(model: ParcelModel, path: str | os.PathLike[str]) -> None:
    """Write head and provenance as safetensors, atomically; the backbone stays in its own file.

    Args:
        model: The parcel model.
        path: File to write, ending in ``.safetensors``.
    """
    write_tensors(path, model.head.state_dict(), ENTRY, model.entry(Path(path).parent))


def load_parcels(path_or_name: str | os.PathLike[str], backbone: Backbone | None = None) -> ParcelModel:
    """Load a parcel model.

    Args:
        path_or_name: File of :func:`save_parcels`, Lightning ``.ckpt`` of a head training, or name of shipped
            parcels (``alan-sim-parcels``, a file in ``checkpoints`` without its suffix).
        backbone: Backbone of the parcels; None loads it from where it was at training time, first from the path
            relative to the file.

    Raises:
        CheckpointError: The file is missing, truncated, unsafe or no parcel model; the backbone cannot be found;
            or it is not the backbone that the head was trained on (the message gives both fingerprints).

    Examples:
        >>> model = load_parcels("alan-sim-small-parcels")
        >>> model.maps(np.zeros((2, 112, 112), np.uint8)).shape
        torch.Size([2, 112, 112])
    """
    file = shipped_or_path(path_or_name)
    if not file.is_file():
        raise CheckpointError(
            f"{file}: no such file and no shipped parcels: {nearest(str(file), shipped_parcels())}"
        )
    state, entry = _read_checkpoint(file) if file.suffix == ".ckpt" else read_tensors(file, ENTRY)
    remedy = "not a parcel model; give a file of `alan parcels` or of a RAPTOR run"
    entry = check_schema(entry, SCHEMA, f"{file}: ", remedy, CheckpointError)
    with damaged(CheckpointError, f"{file}: the description of the parcel model is damaged", "export it again"):
        origin, settings, sector_only = entry["backbone"], entry["head"], bool(entry["sector_only"])
        source, expected = origin["source"], str(origin["fingerprint"])
        if not isinstance(settings, dict) or not isinstance(source, str | None):
            raise TypeError(f"head is {settings!r}, source {source!r}")
    if backbone is None:
        backbone = _find_backbone(file, origin)
    check_backbone(str(file), expected, source, backbone.fingerprint)
    refine = _refine(file, entry.get("refine"))
    head = build_head(settings, state)
    model = ParcelModel(backbone, head, sector_only=sector_only, source=source, refine=refine)
    if entry.get("fingerprint", model.fingerprint) != model.fingerprint:  # a checkpoint of a training states none
        raise CheckpointError(f"{file}: damaged or changed after it was written: export it again")
    return model


def _refine(file: Path, settings: Mapping[str, Any] | None) -> GuidedFilter | None:
    if settings is None:
        return None
    with damaged(CheckpointError, f"{file}: its refinement {settings!r} cannot be read", "export it again"):
        kind = settings["kind"]
        if kind != "guided":
            raise CheckpointError(f"{file}: unknown kind of refinement {kind!r}: {nearest(str(kind), ['guided'])}")
        return GuidedFilter(int(settings["radius"]), float(settings["eps"]), int(settings["subsample"]))


def check_backbone(where: str, expected: str, source: str | None, given: str) -> None:
    """Check that a backbone is the one that a head was trained on.

    Args:
        where: Start of the message.
        expected: Fingerprint of the backbone of the head.
        source: Path or name of that backbone, if known.
        given: Fingerprint of the given backbone.

    Raises:
        CheckpointError: The fingerprints differ; the message gives both.
    """
    if given != expected:
        raise CheckpointError(
            f"{where}: trained on the backbone {expected[:12]} ({source or 'unknown origin'}), given the backbone "
            f"{given[:12]}: use the same weights, input_size, stride and feature_levels"
        )


def _find_backbone(file: Path, origin: Mapping[str, Any]) -> Backbone:
    source = origin["source"]
    if source is None:
        raise CheckpointError(f"{file}: does not record its backbone: give load_parcels the backbone")
    beside = file.parent / origin["relative"] if origin.get("relative") else None
    place = str(beside) if beside is not None and beside.exists() else source
    try:
        return load_backbone(
            place,
            input_size=origin["input_size"],
            stride=origin["stride"],
            feature_levels=origin.get("feature_levels"),
        )
    except CheckpointError as error:
        raise CheckpointError(
            f"{file}: its backbone cannot be loaded ({error}): give load_parcels the backbone"
        ) from error


def _read_checkpoint(file: Path) -> tuple[dict[str, Tensor], Any]:
    content = load_plain(file)
    state = content.get("state_dict", {})
    head = {name.removeprefix(_PREFIX): x for name, x in state.items() if name.startswith(_PREFIX)}
    return head, content.get(ENTRY)
