"""Writing a feature cache: which frames, which models, one call."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from alan.backbone.load import load_backbone
from alan.cache.manifest import KINDS, Manifest
from alan.cache.reader import FeatureCache
from alan.cache.shard import check_space, finish, leftovers, n_bytes
from alan.cache.writer import CacheWriter, FeatureModule
from alan.data.loaders.datasets import Batch, FrameDataset, StoreSet
from alan.data.loaders.sampling import whole
from alan.data.store.choose import choose_frames
from alan.data.store.reader import FrameStore
from alan.errors import CacheError, DataError, ParameterError, nearest
from alan.parcels.model import load_parcels

log = logging.getLogger(__name__)


def write_cache(
    store: str,
    backbone: str,
    out: str,
    *,
    parcels: str | None = None,
    what: Sequence[Literal["cls", "tokens", "logits", "maps"]] = ("cls", "tokens"),
    split: str | None = None,
    views: Sequence[str] | None = None,
    frames: Literal["all", "annotated"] | int = "all",
    batch_size: int = 64,
    num_workers: int = 0,
    input_size: int | None = None,
    stride: int | None = None,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "auto",
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    overwrite: bool = False,
) -> Path:
    """Compute the features of a frame store once, and write them to HDF5.

    Killed anywhere, the same command goes on with the frames that are not written yet. A cache that is already
    there, of the same origin, is left as it is.

    Args:
        store: the frame store, written by ``alan prepare``.
        backbone: path or name of the backbone, as :func:`alan.backbone.load_backbone` takes it.
        out: the cache to write; ``<out>.part`` until it is whole.
        parcels: path of a parcel model, for ``logits`` and ``maps``.
        what: kinds of features. A token is D values of 2 bytes: 784 tokens of 384 values are 0.6 MB a frame, so
            cache what is read afterwards, not everything.
        split: ``train``, ``val``, ``test``, or null for all.
        views: views to take, or null for all.
        frames: ``all``, ``annotated`` (those with masks and at ED and ES), or a number: so many of each sequence,
            evenly spread.
        batch_size: frames a step and device.
        num_workers: processes that read frames.
        input_size: side to which the backbone resizes frames; default: its training size.
        stride: step between patches; below the patch size the token grid is denser.
        accelerator: as Lightning's ``Trainer`` takes it.
        devices: as Lightning's ``Trainer`` takes it; several write a shard each, and these read as one.
        strategy: as Lightning's ``Trainer`` takes it.
        precision: as Lightning's ``Trainer`` takes it; the features' dtypes in the file do not depend on it.
        overwrite: begin anew; a cache that is there is replaced when the new one is whole.

    Returns:
        The path of the cache.

    Raises:
        CacheError: a cache or a part of another origin is there, or there is too little space.
        ParameterError: a parameter is out of its bounds, or parcels and ``what`` do not fit together.
        DataError: the store is unreadable, or no frame is left.
        CheckpointError: the backbone or the parcels cannot be loaded.
    """
    _check(what, parcels, batch_size, num_workers)
    target = Path(out)
    if target.is_dir():
        raise DataError(f"{target}: is a folder; give the path of a file, such as {target / 'features.h5'}")
    frame_store = FrameStore(store)
    index = choose_frames(frame_store, split, views, frames)
    locked = load_backbone(backbone, input_size=input_size, stride=stride)
    model = load_parcels(parcels, locked) if parcels is not None else None
    manifest = Manifest(
        backbone=locked.fingerprint,
        parcels=model.fingerprint if model is not None else "",
        store=frame_store.fingerprint,
        preprocessing=frame_store.preprocessing.fingerprint,
        what=tuple(kind for kind in KINDS if kind in what),
        settings={
            "split": split,
            "views": None if views is None else list(views),
            "frames": frames,
            "input_size": locked.input_size,
            "stride": locked.stride,
            "precision": precision,
        },
    )
    if target.exists() and not overwrite:
        _check_same(target, manifest)
        log.info("%s: is there already, of the same origin; nothing to do", target)
        return target
    module = FeatureModule(locked, model, manifest.what)
    layout = module.layout(frame_store.size)
    if overwrite or not leftovers(target):
        check_space(target.parent, n_bytes(layout, len(index)))
    writer = CacheWriter(target, manifest, index, layout, overwrite=overwrite)
    try:
        trainer = Trainer(
            accelerator=accelerator,
            devices=devices,
            strategy=strategy,
            precision=precision,
            callbacks=[writer],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # the writer shares frames out, so that a rank can go on with its part
        )
    except (ValueError, MisconfigurationException) as error:
        raise ParameterError(
            f"accelerator={accelerator!r}, devices={devices!r}, strategy={strategy!r}: {error} Take auto, or cpu"
        ) from error
    trainer.predict(module, _LeftFrames(store, writer, batch_size, num_workers), return_predictions=False)
    trainer.strategy.barrier("all parts are written")
    if trainer.is_global_zero:
        finish(target)
    trainer.strategy.barrier("the cache is whole")
    return target


def _check(what: Sequence[str], parcels: str | None, batch_size: int, num_workers: int) -> None:
    if not what:
        raise ParameterError(f"what is empty: choose one or more of {', '.join(KINDS)}")
    for kind in what:
        if kind not in KINDS:
            raise ParameterError(f"unknown kind of features {kind!r} in what: {nearest(kind, KINDS)}")
    needs = [kind for kind in what if kind in {"logits", "maps"}]
    if needs and parcels is None:
        raise ParameterError(f"what asks for {', '.join(needs)} and parcels is not given: give a parcel model")
    if parcels is not None and not needs:
        raise ParameterError(
            f"parcels is given and what is {', '.join(what)}: add logits or maps, or leave it out"
        )
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size} and must be at least 1")
    if num_workers < 0:
        raise ParameterError(f"num_workers is {num_workers} and must be at least 0")


def _check_same(target: Path, manifest: Manifest) -> None:
    words = FeatureCache(target).manifest.differences(manifest)
    if words:
        raise CacheError(
            f"{target}: is there already, of another origin ({'; '.join(words)}): write to another name, or "
            "replace it with --overwrite true"
        )


class _LeftFrames(LightningDataModule):
    """Loads the frames that the writer of this rank still waits for."""

    def __init__(self, store: str, writer: CacheWriter, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.stores, self.writer = StoreSet([store]), writer
        self.batch_size, self.num_workers = batch_size, num_workers

    def predict_dataloader(self) -> DataLoader[Batch]:
        """One batch after the other, in the order of the file."""
        dataset = FrameDataset(self.stores, self.writer.left())
        return DataLoader(dataset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=whole)
