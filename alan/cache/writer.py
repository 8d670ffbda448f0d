"""Prediction that writes the cache: a Lightning module with the locked models, and the callback that writes."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from alan.arrays import IntArray
from alan.backbone.base import Backbone
from alan.cache.layout import FEATURES, CacheManifest, RowLayout
from alan.cache.shard import Shard, begin, part_path
from alan.data.loaders.modules import Batch, FrameDataset, StoreSet
from alan.data.loaders.sampling import whole
from alan.errors import CacheError
from alan.parcels.model import ParcelModel

_log = logging.getLogger(__name__)
_DTYPES = {name: torch.from_numpy(np.empty(0, dtype)).dtype for name, dtype in FEATURES.items()}


class FeatureModule(LightningModule):
    """Lightning module that predicts the features of a locked backbone and of parcels on it.

    Args:
        backbone: The locked backbone.
        parcels: Parcel model on that backbone; required for ``logits`` and ``maps``.
        kinds: Kinds of features to compute, a subset of :data:`alan.cache.layout.KINDS`. ``tokens`` are
            accompanied by ``sector``, the tokens inside the ultrasound sector.
    """

    def __init__(self, backbone: Backbone, parcels: ParcelModel | None, kinds: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.parcels = parcels
        self.kinds = tuple(kinds)
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a rank may have nothing to do

    @torch.no_grad()
    def features(self, frames: Tensor) -> dict[str, Tensor]:
        """Compute the features of a batch in the dtypes of the cache, with one pass through the backbone.

        Args:
            frames: (B, H, W) uint8.

        Returns:
            The requested kinds: ``cls`` (B, D) float32, ``tokens`` (B, h, w, D) float16 with ``sector`` (B, h, w)
            bool, ``logits`` (B, K, h, w) float16, ``maps`` (B, H, W) uint8.
        """
        cls, tokens = self.backbone(frames)
        found = {"cls": cls, "tokens": tokens}
        with torch.autocast(frames.device.type, enabled=False):
            if "tokens" in self.kinds:
                found["sector"] = self.backbone.sector(frames)
            if self.parcels is not None:
                found["logits"] = self.parcels.head(tokens.float()).permute(0, 3, 1, 2)
                if "maps" in self.kinds:
                    size = (frames.shape[1], frames.shape[2])
                    found["maps"] = self.parcels.maps_from_logits(found["logits"], frames, size)
        kept = {name: found[name].to(_DTYPES[name]) for name in self.kinds}
        return kept | {"sector": found["sector"]} if "sector" in found else kept

    def layout(self, size: int) -> RowLayout:
        """Return the shapes and dtypes of the features of one frame, from the features of an empty frame.

        Args:
            size: Side of the frames in pixels.
        """
        found = self.features(torch.zeros(1, size, size, dtype=torch.uint8, device=self.device))
        return {name: (tuple(x.shape[1:]), _numpy(x).dtype) for name, x in found.items()}

    @override
    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> dict[str, Tensor]:
        """Compute the features of ``batch["frames"]``.

        Raises:
            CacheError: A feature is not finite, or exceeds the range of float16 (65,504).
        """
        found = self.features(batch["frames"])
        for name, x in found.items():
            if x.is_floating_point() and not torch.isfinite(x).all():
                row = int((~torch.isfinite(x.flatten(1)).all(1)).nonzero()[0])
                raise CacheError(
                    f"{name} of frame {int(batch['index'][row])} is not finite in {x.dtype}: check the weights, "
                    "or compute with precision 32-true"
                )
        return found


class CacheWriter(BasePredictionWriter):
    """Callback that writes predictions to the part of this rank, and lists the frames that are missing.

    Args:
        out: The cache to be written.
        manifest: Inputs and settings of the cache.
        index: (n,) global frame indices of all ranks, ascending and unique; each rank gets a contiguous share.
        layout: Shapes and dtypes of the features of one frame.
        overwrite: Delete the parts of an earlier run.
    """

    def __init__(
        self, out: Path, manifest: CacheManifest, index: IntArray, layout: RowLayout, *, overwrite: bool
    ) -> None:
        super().__init__("batch")
        self.out = out
        self.manifest = manifest
        self.index = index
        self.layout = layout
        self.overwrite = overwrite
        self.shard: Shard | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Open the part of this rank."""
        super().setup(trainer, pl_module, stage)
        if trainer.is_global_zero:
            begin(self.out, overwrite=self.overwrite)
        trainer.strategy.barrier("leftovers are tidied up")
        self.open(trainer.global_rank, trainer.world_size)

    def open(self, rank: int, ranks: int) -> None:
        """Open the part of a rank: a new one, or that of an earlier run."""
        share = np.array_split(self.index, ranks)[rank]
        self.shard = Shard(part_path(self.out, rank), self.manifest, share, self.layout, rank=rank, ranks=ranks)
        self.share = share

    def missing(self) -> IntArray:
        """Return the global frame indices of this rank that are not written yet, (m,) ascending."""
        if self.shard is None:
            raise CacheError(f"{self.out}: the part is not open: add the writer to the callbacks of the trainer")
        return self.share[~self.shard.done]

    @override
    def write_on_batch_end(
        self,
        trainer: Trainer | None,
        pl_module: LightningModule | None,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write one batch; ``batch["index"]`` holds the global indices of its frames.

        Raises:
            SystemExit: The process received SIGTERM; the exit code is 143.
        """
        if self.shard is not None:
            rows = np.searchsorted(self.share, _numpy(batch["index"]))
            self.shard.write(rows, {name: _numpy(x) for name, x in prediction.items()})
        if trainer is not None and trainer.received_sigterm:  # Lightning only notes the signal while it predicts
            _log.warning("%s: terminated; the same command continues from the rows that are written", self.out)
            raise SystemExit(128 + signal.SIGTERM)

    @override
    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the part."""
        self.close()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the part, so that the next run can resume it."""
        self.close()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the part of a rank that had nothing to do."""
        self.close()

    def close(self) -> None:
        """Close the part if it is open."""
        if self.shard is not None:
            self.shard.close()
            self.shard = None


def _numpy(x: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    return x.detach().cpu().numpy()


class MissingFrames(LightningDataModule):
    """Loader of the frames that the writer of this rank has not written yet."""

    def __init__(self, store: str, writer: CacheWriter, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.stores, self.writer = StoreSet([store]), writer
        self.batch_size, self.num_workers = batch_size, num_workers

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Return the batches in the order of the file."""
        dataset = FrameDataset(self.stores, self.writer.missing())
        return DataLoader(dataset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=whole)
