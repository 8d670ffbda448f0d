"""Base of probes of frozen tokens: checks, class shares of a token, prediction in pieces, and the file format."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from alan.bounds import PositiveInt, check_parameters
from alan.errors import CheckpointError, ParameterError, damaged
from alan.files import check_schema, fingerprint, fingerprint_tensors
from alan.parcels.maps import logits_to_maps
from alan.progress import batches
from alan.tensors import read_tensors, write_tensors

SCHEMA = "alan-token-probe/1"
#: Key of the entry in the metadata of the file.
ENTRY = "alan_probe"
#: Number of frames that are read and converted to float32 at a time.
PIECE = 16
_NOT_FINITE = "tokens are not all finite: compute them again, in float32 if float16 overflows"
#: Standard deviation below which a feature counts as constant and is divided by 1.
_FLAT = 1e-6


#: Number of classes, including the background.
ClassCount = Annotated[int, Ge(2)]
#: (height, width) in pixels.
MapSize = tuple[PositiveInt, PositiveInt]


class TokenProbe(BaseEstimator, ABC):
    """Base class of pixel classifiers on frozen tokens.

    Every subclass has the parameters ``n_classes`` (None uses the highest label in ``fit`` plus 1), ``size``
    ((height, width) of the predicted label maps; None uses the size in ``fit``) and ``provenance`` (fingerprint of
    the backbone or parcel model that made the tokens).

    Attributes:
        n_classes_: Number of classes C, including the background.
        dim_: Width D of a token.
        size_: (height, width) of the predicted label maps.
    """

    n_classes: int | None
    size: tuple[int, int] | None
    provenance: str
    n_classes_: int
    dim_: int
    size_: tuple[int, int]

    @abstractmethod
    def fit(self, tokens: ArrayLike, label_maps: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Fit to labelled frames.

        Args:
            tokens: (N, h, w, D) floating point, including float16; may be mapped from a file.
            label_maps: (N, H, W) integers, 0 for background.
            groups: Ignored; present for API consistency.

        Returns:
            The fitted probe.

        Raises:
            ParameterError: A parameter is out of bounds, or an array is not as described.
        """

    @abstractmethod
    def _logits(self, tokens: Tensor) -> Tensor:
        """Compute the logits (B, C, h', w') of tokens (B, h, w, D) float32."""

    @abstractmethod
    def _state(self) -> dict[str, Tensor]:
        """Return the fitted tensors by name."""

    @abstractmethod
    def _set_state(self, state: dict[str, Tensor]) -> None:
        """Invert :meth:`_state`; ``n_classes_``, ``dim_`` and ``size_`` are set already."""

    def check_parameters(self) -> None:
        """Check the parameters before fitting.

        Raises:
            ParameterError: A parameter is out of bounds.
        """
        check_parameters(self)

    def decision_function(self, tokens: ArrayLike) -> NDArray[np.float32]:
        """Compute logits at the resolution of the probe.

        Args:
            tokens: (N, h, w, D) floating point.

        Returns:
            (N, h', w', C) float32.

        Raises:
            ParameterError: The tokens differ in width from those in ``fit``, or are not all finite.
        """
        check_is_fitted(self, "n_classes_")
        values = check_tokens(tokens, self.dim_)
        return np.concatenate(
            [self._piece(values[part]).permute(0, 2, 3, 1).numpy() for part in batches(len(values), PIECE)]
        )

    def predict(self, tokens: ArrayLike) -> NDArray[np.uint8]:
        """Predict label maps: logits are upsampled bilinearly, and each pixel gets its most likely class.

        Args:
            tokens: (N, h, w, D) floating point.

        Returns:
            (N, H, W) uint8.

        Raises:
            ParameterError: The tokens differ in width from those in ``fit``, or are not all finite.
        """
        check_is_fitted(self, "n_classes_")
        values, size = check_tokens(tokens, self.dim_), self.size or self.size_
        maps = np.empty((len(values), *size), np.uint8)
        for part in batches(len(values), PIECE):
            maps[part] = logits_to_maps(self._piece(values[part]), size).numpy()
        return maps

    @torch.no_grad()
    def _piece(self, tokens: NDArray[Any]) -> Tensor:
        logits = self._logits(torch.from_numpy(tokens.astype(np.float32)))
        if not torch.isfinite(logits).all():
            raise ParameterError(_NOT_FINITE)
        return logits

    def _begin(self, tokens: ArrayLike, label_maps: ArrayLike) -> tuple[NDArray[Any], NDArray[np.integer[Any]]]:
        """Check parameters and arrays, and set the attributes that are known before the fit."""
        self.check_parameters()
        values, maps = check_tokens(tokens), np.asarray(label_maps)
        if maps.ndim != 3 or len(maps) != len(values) or not np.issubdtype(maps.dtype, np.integer):
            raise ParameterError(
                f"label_maps are {maps.dtype} {maps.shape}: give integers (N, H, W) for {len(values)} frames"
            )
        highest = int(maps.max())
        classes = self.n_classes or max(highest + 1, 2)
        if int(maps.min()) < 0 or highest >= classes:
            raise ParameterError(
                f"label_maps contain {int(maps.min())} to {highest}: give labels from 0 to {classes - 1}"
            )
        self.n_classes_, self.dim_ = classes, values.shape[3]
        self.size_ = (maps.shape[1], maps.shape[2])
        return values, maps

    def settings(self) -> dict[str, Any]:
        """Return everything that is not a tensor, as JSON-able values."""
        check_is_fitted(self, "n_classes_")
        shape = {"n_classes": self.n_classes_, "dim": self.dim_, "size": list(self.size_)}
        return {"kind": type(self).__name__, "parameters": self.get_params(), "fitted": shape}

    def fingerprint(self) -> str:
        """Compute the SHA-256 of the tensors and settings of the fitted probe."""
        settings = self.settings()
        return fingerprint([fingerprint_tensors(self._state()), settings])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted probe as safetensors, atomically.

        Args:
            path: File to write, ending in ``.safetensors``.
        """
        entry = {"schema": SCHEMA, **self.settings(), "fingerprint": self.fingerprint()}
        write_tensors(path, self._state(), ENTRY, entry)

    @classmethod
    def load(cls, path: str | os.PathLike[str], provenance: str | None = None) -> Self:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.
            provenance: Fingerprint of the model whose tokens the probe must expect; None accepts any.

        Raises:
            CheckpointError: The file is missing, truncated, of another kind, was changed after it was written, or
                belongs to the tokens of another model.
        """
        file = Path(path)
        state, entry = read_tensors(file, ENTRY)
        entry = check_schema(entry, SCHEMA, f"{file}: ", "give a file that save has written", CheckpointError)
        if entry.get("kind") != cls.__name__:
            raise CheckpointError(
                f"{file}: contains {entry.get('kind')}, expected {cls.__name__}: load it by its own class"
            )
        with damaged(CheckpointError, f"{file}: tensors and settings do not fit together", "save it again"):
            given = entry["parameters"]
            size = given.get("size")
            probe = cls(**{**given, "size": None if size is None else tuple(size)})
            probe.check_parameters()
            fitted = entry["fitted"]
            probe.n_classes_, probe.dim_ = int(fitted["n_classes"]), int(fitted["dim"])
            probe.size_ = (int(fitted["size"][0]), int(fitted["size"][1]))
            probe._set_state(state)
            whole = probe.fingerprint() == entry["fingerprint"]
        if not whole:
            raise CheckpointError(f"{file}: changed after it was written; save it again")
        if provenance is not None and probe.provenance != provenance:
            raise CheckpointError(
                f"{file}: expects the tokens of {probe.provenance[:12] or 'an unknown model'}, given those of "
                f"{provenance[:12]}: use the model it was fitted on"
            )
        return probe


def check_tokens(tokens: ArrayLike, dim: int | None = None) -> NDArray[Any]:
    """Check tokens and return them as an array without a copy.

    Args:
        tokens: (N, h, w, D) floating point.
        dim: Required width D; None accepts any.

    Raises:
        ParameterError: The shape or dtype is another, or there is no frame.
    """
    values = np.asanyarray(tokens)
    if values.ndim != 4 or not np.issubdtype(values.dtype, np.floating) or not values.size:
        raise ParameterError(f"tokens are {values.dtype} {values.shape}: give floating point (N, h, w, D)")
    if dim is not None and values.shape[3] != dim:
        raise ParameterError(
            f"tokens have a width of {values.shape[3]}, the probe was fitted on {dim}: use the same model"
        )
    return values


def token_statistics(tokens: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the mean and standard deviation of every feature over all tokens; a constant feature gets 1.

    Args:
        tokens: (N, h, w, D) floating point.

    Returns:
        Two (D,) float32.

    Raises:
        ParameterError: A token is not finite.
    """
    n, dim = int(np.prod(tokens.shape[:3])), tokens.shape[3]
    total = np.zeros(dim)
    for part in batches(len(tokens), PIECE):
        total += tokens[part].reshape(-1, dim).sum(0, dtype=np.float64)
    if not np.isfinite(total).all():
        raise ParameterError(_NOT_FINITE)
    mean = total / n
    spread = np.zeros_like(mean)
    for part in batches(len(tokens), PIECE):
        centred = tokens[part].reshape(-1, dim) - mean
        spread += np.square(centred, out=centred).sum(0)
    std = np.sqrt(spread / n)
    return mean.astype(np.float32), np.where(std > _FLAT, std, 1.0).astype(np.float32)


def class_shares(label_maps: NDArray[np.integer[Any]], grid: tuple[int, int], n_classes: int) -> Tensor:
    """Compute the share of each class in the cell of each token.

    Args:
        label_maps: (N, H, W) integers.
        grid: (h, w) of the tokens. The image is divided into h x w cells, which overlap by a pixel if h does not
            divide H.
        n_classes: Number of classes C.

    Returns:
        (N, h, w, C) float32, which sum to 1 over the classes.
    """
    shares = torch.empty(len(label_maps), *grid, n_classes)
    for part in batches(len(label_maps), PIECE):
        labels = torch.from_numpy(label_maps[part].astype(np.int64))
        planes = F.one_hot(labels, n_classes).permute(0, 3, 1, 2).float()
        shares[part] = F.adaptive_avg_pool2d(planes, grid).permute(0, 2, 3, 1)
    return shares
