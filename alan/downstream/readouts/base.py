"""What read-outs of frozen tokens share: checks, cells of a token, prediction in pieces, and their file."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from alan.errors import CheckpointError, ParameterError
from alan.files import atomic, fingerprint, fingerprint_tensors
from alan.parcels.maps import logits_to_maps

SCHEMA = "alan-token-readout/1"
#: Key of the entry in the metadata of the file.
ENTRY = "alan_readout"
#: Frames read, and turned to float32, at a time.
PIECE = 16
_NOT_FINITE = "tokens are not all finite: compute them again, in float32 where float16 is too small"
#: A feature that varies less than this is divided by 1.
_FLAT = 1e-6


class TokenReadout(BaseEstimator, ABC):
    """A classifier of pixels on frozen tokens: what its children share.

    Parameters of every child: ``n_classes`` (None takes the highest label in ``fit``, plus 1), ``size`` ((height,
    width) of predicted label maps; None takes that of ``fit``) and ``provenance`` (fingerprint of the backbone or
    parcel model that made the tokens).

    Attributes:
        n_classes_: C, the background included.
        dim_: D.
        size_: (height, width) of predicted label maps.
    """

    n_classes: int | None
    size: tuple[int, int] | None
    provenance: str
    n_classes_: int
    dim_: int
    size_: tuple[int, int]

    @abstractmethod
    def fit(self, tokens: ArrayLike, label_maps: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Learn from labelled frames.

        Args:
            tokens: (N, h, w, D) floating point, float16 too; may be mapped from a file.
            label_maps: (N, H, W) integers, 0 for background.
            groups: unused; there so that every estimator of the house can be called alike.

        Returns:
            The estimator.

        Raises:
            ParameterError: a parameter or an array is not as described.
        """

    @abstractmethod
    def _logits(self, tokens: Tensor) -> Tensor:
        """Logits (B, C, h', w') of tokens (B, h, w, D) float32."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """The fitted tensors by name."""

    @abstractmethod
    def _set_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of :meth:`_state`; ``n_classes_``, ``dim_`` and ``size_`` are there already."""

    @abstractmethod
    def _check(self) -> None:
        """Refuse parameters out of range."""

    def check_parameters(self) -> None:
        """Refuse parameters out of range before there is anything to fit.

        Raises:
            ParameterError: names the parameter, its value and its bound.
        """
        if self.n_classes is not None and self.n_classes < 2:
            raise ParameterError(f"n_classes is {self.n_classes}; the background and one more make 2 at least")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ParameterError(f"size is {self.size}; give (height, width), both 1 or more")
        self._check()

    def decision_function(self, tokens: ArrayLike) -> NDArray[np.float32]:
        """Logits before they are enlarged to the image.

        Args:
            tokens: (N, h, w, D) floating point.

        Returns:
            (N, h', w', C) float32.

        Raises:
            ParameterError: the tokens are not as in ``fit``, or not all finite.
        """
        check_is_fitted(self, "n_classes_")
        values = check_tokens(tokens, self.dim_)
        return np.concatenate(
            [self._piece(values, start).permute(0, 2, 3, 1).numpy() for start in range(0, len(values), PIECE)]
        )

    def predict(self, tokens: ArrayLike) -> NDArray[np.uint8]:
        """Label maps: logits upsampled bilinearly to the image, the most likely class of each pixel.

        Args:
            tokens: (N, h, w, D) floating point.

        Returns:
            (N, H, W) uint8.

        Raises:
            ParameterError: the tokens are not as in ``fit``, or not all finite.
        """
        check_is_fitted(self, "n_classes_")
        values, size = check_tokens(tokens, self.dim_), self.size or self.size_
        maps = np.empty((len(values), *size), np.uint8)
        for start in range(0, len(values), PIECE):
            maps[start : start + PIECE] = logits_to_maps(self._piece(values, start), size).numpy()
        return maps

    @torch.no_grad()
    def _piece(self, tokens: NDArray[Any], start: int) -> Tensor:
        logits = self._logits(torch.from_numpy(tokens[start : start + PIECE].astype(np.float32)))
        if not torch.isfinite(logits).all():
            raise ParameterError(_NOT_FINITE)
        return logits

    def _begin(self, tokens: ArrayLike, label_maps: ArrayLike) -> tuple[NDArray[Any], NDArray[np.integer[Any]]]:
        """Check parameters and arrays, and set what is known before the fit."""
        self.check_parameters()
        values, maps = check_tokens(tokens), np.asarray(label_maps)
        if maps.ndim != 3 or len(maps) != len(values) or not np.issubdtype(maps.dtype, np.integer):
            raise ParameterError(
                f"label_maps are {maps.dtype} {maps.shape}: give integers (N, H, W) for the {len(values)} frames"
            )
        highest = int(maps.max())
        classes = self.n_classes or max(highest + 1, 2)
        if int(maps.min()) < 0 or highest >= classes:
            raise ParameterError(f"label_maps hold {int(maps.min())} to {highest}: n_classes is {classes}")
        self.n_classes_, self.dim_ = classes, values.shape[3]
        self.size_ = (maps.shape[1], maps.shape[2])
        return values, maps

    def settings(self) -> dict[str, Any]:
        """All that is not a tensor, JSON-able."""
        shape = {"n_classes": self.n_classes_, "dim": self.dim_, "size": list(self.size_)}
        return {"kind": type(self).__name__, "parameters": self.get_params(), "fitted": shape}

    def fingerprint(self) -> str:
        """SHA-256 over tensors and settings of the fitted estimator."""
        check_is_fitted(self, "n_classes_")
        return fingerprint([fingerprint_tensors(self._state()), self.settings()])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator as safetensors, atomically.

        Args:
            path: the file, ending in ``.safetensors``.
        """
        entry = {"schema": SCHEMA, **self.settings(), "fingerprint": self.fingerprint()}
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self._state().items()}
        with atomic(path) as temporary:
            save_file(state, temporary, metadata={ENTRY: json.dumps(entry)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], provenance: str | None = None) -> Self:
        """Read what :meth:`save` wrote.

        Args:
            path: the file.
            provenance: refuse a read-out of the tokens of another model than this one; None: any.

        Raises:
            CheckpointError: missing, truncated, of another kind, changed after it was written, or of the tokens
                of another model.
        """
        file = Path(path)
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file; write it with save")
        try:
            with safe_open(file, framework="pt") as handle:
                entry = json.loads((handle.metadata() or {}).get(ENTRY, "{}"))
                state = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{file}: truncated or not a safetensors file; save it again") from error
        if entry.get("schema") != SCHEMA or entry.get("kind") != cls.__name__:
            found = f"{entry.get('kind')} of schema {entry.get('schema')}"
            raise CheckpointError(f"{file}: holds {found}, expected {cls.__name__} of {SCHEMA}")
        try:
            given = entry["parameters"]
            size = given.get("size")
            readout = cls(**{**given, "size": None if size is None else tuple(size)})
            fitted = entry["fitted"]
            readout.n_classes_, readout.dim_ = int(fitted["n_classes"]), int(fitted["dim"])
            readout.size_ = (int(fitted["size"][0]), int(fitted["size"][1]))
            readout._set_state(state)
            whole = readout.fingerprint() == entry["fingerprint"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{file}: tensors and settings do not belong together ({reason})") from error
        if not whole:
            raise CheckpointError(f"{file}: changed after it was written; save it again")
        if provenance is not None and readout.provenance != provenance:
            raise CheckpointError(
                f"{file}: reads the tokens of {readout.provenance[:12] or 'an unknown model'}, given those of "
                f"{provenance[:12]}: use the model it was fitted on"
            )
        return readout


def check_tokens(tokens: ArrayLike, dim: int | None = None) -> NDArray[Any]:
    """Tokens as an array, not copied.

    Args:
        tokens: (N, h, w, D) floating point.
        dim: D that they must have; None: any.

    Raises:
        ParameterError: another shape or dtype, or no frame.
    """
    values = np.asanyarray(tokens)
    if values.ndim != 4 or not np.issubdtype(values.dtype, np.floating) or not values.size:
        raise ParameterError(f"tokens are {values.dtype} {values.shape}: give floating point (N, h, w, D)")
    if dim is not None and values.shape[3] != dim:
        raise ParameterError(f"tokens have a width of {values.shape[3]}, the read-out was fitted on {dim}")
    return values


def token_statistics(tokens: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of every feature over all tokens; 1 for one that does not vary.

    Args:
        tokens: (N, h, w, D) floating point.

    Returns:
        Two (D,) float32.

    Raises:
        ParameterError: a token is not finite.
    """
    total, n = np.zeros(tokens.shape[3]), 0
    for start in range(0, len(tokens), PIECE):
        part = tokens[start : start + PIECE].reshape(-1, tokens.shape[3])
        total += part.sum(0, dtype=np.float64)
        n += len(part)
    if not np.isfinite(total).all():
        raise ParameterError(_NOT_FINITE)
    mean = total / n
    spread = np.zeros_like(mean)
    for start in range(0, len(tokens), PIECE):
        part = tokens[start : start + PIECE].reshape(-1, tokens.shape[3]) - mean
        spread += np.square(part, out=part).sum(0)
    std = np.sqrt(spread / n)
    return mean.astype(np.float32), np.where(std > _FLAT, std, 1.0).astype(np.float32)


def class_shares(label_maps: NDArray[np.integer[Any]], grid: tuple[int, int], n_classes: int) -> Tensor:
    """Share of every class in the cell of each token.

    Args:
        label_maps: (N, H, W) integers.
        grid: (h, w) tokens; the cell of a token is its part of the image cut into h x w (overlapping by a pixel
            where h does not divide H).
        n_classes: C.

    Returns:
        (N, h, w, C) float32, adding up to 1.
    """
    shares = torch.empty(len(label_maps), *grid, n_classes)
    for start in range(0, len(label_maps), PIECE):
        part = torch.from_numpy(label_maps[start : start + PIECE].astype(np.int64))
        planes = F.one_hot(part, n_classes).permute(0, 3, 1, 2).float()
        shares[start : start + PIECE] = F.adaptive_avg_pool2d(planes, grid).permute(0, 2, 3, 1)
    return shares
