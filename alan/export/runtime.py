"""Parcels whose network is run by onnxruntime in place of torch."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alan._version import __version__
from alan.backbone.base import Backbone, Features
from alan.errors import CheckpointError, DataError
from alan.export.program import RECORD, SCHEMA, OnnxSession, write_program
from alan.extras import third_party
from alan.files import digest, fingerprint, read_json
from alan.parcels.model import ParcelModel

_log = logging.getLogger(__name__)


class OnnxBackbone(Backbone):
    """A locked backbone whose features onnxruntime computes; everything else is that of the backbone.

    Args:
        backbone: The backbone.
        session: Its program.
    """

    def __init__(self, backbone: Backbone, session: OnnxSession) -> None:
        super().__init__(backbone.network, backbone.spec, backbone.input_size, backbone.stride, {})
        self.fingerprint, self.grid = backbone.fingerprint, backbone.grid
        self._session, self._locked = session, (backbone,)

    def forward(self, frames: Tensor | NDArray[np.uint8]) -> Features:
        """Compute the features of a batch (B, size, size) uint8, see :class:`alan.backbone.Backbone`."""
        return Features(*self._session(frames, "cls", "tokens"))

    def pooled(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Compute the pooled vectors of a batch (B, size, size) uint8, see :class:`alan.backbone.Backbone`."""
        return self._session(frames, "pooled")[0]

    def certainty(self, frames: NDArray[np.uint8]) -> float:
        """Compute the certainty of frames with torch, because the program has no such output."""
        return self._locked[0].certainty(frames)

    @property
    def _window(self) -> int:
        return self._locked[0]._window

    def _features(self, normalised: Tensor, images: Tensor) -> Features:
        return self._locked[0]._features(normalised, images)


class OnnxParcels(ParcelModel):
    """A parcel model whose logits onnxruntime computes; fingerprint and interface are those of the model.

    Args:
        model: The parcel model.
        path: Its program, see :func:`write_program`.

    Raises:
        CheckpointError: The program is missing or damaged.
        ConfigError: The package onnxruntime is not installed.
    """

    def __init__(self, model: ParcelModel, path: str | os.PathLike[str]) -> None:
        session = OnnxSession(path)
        super().__init__(
            OnnxBackbone(model.backbone, session),
            model.head,
            sector_only=model.sector_only,
            source=model.source,
            refine=model.refine,
        )
        self._session = session

    @torch.no_grad()
    def logits(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Compute the parcel logits (B, K, h, w) float32 of frames (B, size, size) uint8."""
        return self._session(frames, "logits")[0]


def open_program(path: str | os.PathLike[str], model: ParcelModel) -> OnnxParcels:
    """Run a parcel model by its exported program.

    Args:
        path: The ``.onnx`` file, with its description beside it, see :func:`write_program`.
        model: The parcel model that was exported.

    Raises:
        CheckpointError: The program or its description is missing, damaged, or belongs to other parcels.
        ConfigError: The package onnxruntime is not installed.
    """
    try:
        record = read_json(f"{path}{RECORD}")
        if record["schema"] != SCHEMA:
            raise ValueError(f"its schema is {record['schema']!r}")
        expected, parcels = record["sha256"], record["parcels"]
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}{RECORD}: describes no exported program ({error}): export the model again"
        ) from error
    if parcels != model.fingerprint:
        raise CheckpointError(
            f"{path}: exported from the parcels {str(parcels)[:12]}, given the parcels {model.fingerprint[:12]}: "
            "export the model again"
        )
    if not Path(path).is_file() or digest(path) != expected:
        raise CheckpointError(f"{path}: missing, damaged or changed after the export: export the model again")
    return OnnxParcels(model, path)


def cached_program(model: ParcelModel, size: int) -> Path:
    """Export a parcel model to ONNX, once per model and user.

    The program is kept in ``$XDG_CACHE_HOME/alan``, by default ``~/.cache/alan``.

    Args:
        model: The parcel model.
        size: Side of the frames in pixels.

    Returns:
        The program, for :func:`open_program`.

    Raises:
        ConfigError: A package of the extra ``onnx`` is not installed.
    """
    third_party("onnxruntime", "onnx")  # fails before anything is exported
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    key = fingerprint([model.fingerprint, size, __version__, torch.__version__])[:24]
    path = base / "alan" / "onnx" / f"{key}.onnx"
    try:
        open_program(path, model)
    except CheckpointError:  # not exported yet, or damaged
        _log.info("%s: the model is exported to ONNX, once", path)
        write_program(model, path, size)
    return path
