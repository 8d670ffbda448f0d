"""Features of frozen models: computed once for all labelled and test frames and kept in files."""

from __future__ import annotations

import functools
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alan.arrays import load_arrays
from alan.backbone.load import load_backbone
from alan.data.store.reader import FrameStore
from alan.devices import choose_device
from alan.errors import DataError, damaged
from alan.evaluation.maps import parcel_maps
from alan.files import atomic, fingerprint
from alan.parcels.model import ParcelModel, load_parcels
from alan.progress import batches
from alan.supervised.segmenter import load_segmenter

#: Bytes of the check sum at the end of a file of features.
_CHECK = 4


class Models:
    """Loaders that read each model file once; they raise :class:`alan.errors.CheckpointError`."""

    def __init__(self) -> None:
        self.backbone = functools.cache(load_backbone)
        self.parcels = functools.cache(load_parcels)
        self.segmenter = functools.cache(load_segmenter)


@dataclass(frozen=True)
class FeatureFile:
    """File with the features of all labelled and test frames, in that order.

    Attributes:
        path: ``.npz`` file of parcel maps, or ``.npy`` file of tokens or soft scores with their CRC-32 at its end.
        fingerprint: Fingerprint of the model that made them.
        n_parcels: Number of parcels; 0 for tokens and soft scores.
        background_id: Parcel id of the background, if there is one.
    """

    path: str
    fingerprint: str
    n_parcels: int = 0
    background_id: int | None = None

    def read(self) -> NDArray[Any]:
        """Read parcel maps (n, S, S) uint8 into memory, or map tokens (n, h, w, D) float16 from the file."""
        if self.path.endswith(".npz"):
            return load_arrays(Path(self.path), ("maps",))["maps"]
        with damaged(DataError, f"{self.path}: is damaged", "delete it and run the same command again"):
            raw = np.memmap(self.path, np.uint8, "r")
            if zlib.crc32(raw[:-_CHECK].data) != int.from_bytes(raw[-_CHECK:].tobytes(), "little"):
                raise ValueError("its check sum is wrong")
            return np.asarray(np.load(self.path, mmap_mode="r", allow_pickle=False))


class FeatureFiles:
    """Computes features of frames, or finds the file that an earlier call wrote.

    Args:
        store: Frame store.
        frames: (n,) global frame indices.
        folder: Folder of the files.
        batch_size: Frames per forward pass.
    """

    def __init__(self, store: FrameStore, frames: NDArray[np.int64], folder: Path, batch_size: int) -> None:
        self.store, self.frames = store, frames
        self.folder, self.batch_size = folder, batch_size
        self.device = choose_device()

    def parcel_maps(self, model: ParcelModel, title: str) -> FeatureFile:
        """Compute parcel maps; ``title`` is shown by the progress bar."""
        path = self._path("maps", model.fingerprint, ".npz")
        parcel_maps(model, self.store, self.frames, path, batch_size=self.batch_size, name=title)
        return FeatureFile(str(path), model.fingerprint, model.n_parcels, model.background_id)

    def dense(self, model: Any, compute: Callable[[Tensor], Tensor], prefix: str, title: str) -> FeatureFile:
        """Compute features of every position of a grid, in half precision.

        Args:
            model: Frozen model.
            compute: Frames (B, S, S) uint8 to features (B, h, w, D) of the model.
            prefix: Start of the file name, one for each kind of features.
            title: Title of the progress bar.
        """
        path = self._path(prefix, model.fingerprint, ".npy")
        if not path.exists():  # the name identifies the content
            model.to(self.device)
            self._write(compute, path, title)
        return FeatureFile(str(path), model.fingerprint)

    def _path(self, prefix: str, model: str, suffix: str) -> Path:
        key = fingerprint([prefix, model, self.store.fingerprint, self.frames.tolist()])
        return self.folder / f"{prefix}-{key[:16]}{suffix}"

    def _write(self, compute: Callable[[Tensor], Tensor], path: Path, title: str) -> None:
        """Write (n, h, w, D) float16 batch by batch."""
        n = len(self.frames)
        crc, head = 0, io.BytesIO()
        with atomic(path) as temporary, temporary.open("wb") as file, torch.inference_mode():
            for part in batches(n, self.batch_size, f"features: {title}"):
                frames = torch.from_numpy(self.store.frames(self.frames[part])).to(self.device)
                values = compute(frames).half().cpu().numpy()
                if part.start == 0:
                    header = {"descr": "<f2", "fortran_order": False, "shape": (n, *values.shape[1:])}
                    np.lib.format.write_array_header_1_0(head, header)
                    file.write(head.getvalue())
                    crc = zlib.crc32(head.getvalue())
                file.write(values.tobytes())
                crc = zlib.crc32(values.tobytes(), crc)
            file.write(crc.to_bytes(_CHECK, "little"))
