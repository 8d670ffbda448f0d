"""Write a feature cache: choose frames, load the models, and compute what is missing."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from alan.bounds import NonNegativeInt, PositiveInt, bounded
from alan.cache.layout import KINDS, PARCEL_KINDS, CacheManifest, FeatureKind, n_bytes
from alan.cache.reader import FeatureCache
from alan.cache.shard import check_limit, check_space, finish, leftovers
from alan.errors import CacheError, DataError, ParameterError
from alan.locks import lock_file
from alan.progress import quiet
from alan.words import plural

log = logging.getLogger(__name__)


@bounded
def write_cache(
    store: str,
    backbone: str,
    out: str,
    *,
    parcels: str | None = None,
    features: Sequence[FeatureKind] = ("cls", "tokens"),
    split: str | None = None,
    views: Sequence[str] | None = None,
    frames: Literal["all", "annotated"] | int = "all",
    batch_size: PositiveInt = 64,
    num_workers: NonNegativeInt = 0,
    input_size: PositiveInt | None = None,
    stride: PositiveInt | None = None,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "auto",
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    overwrite: bool = False,
) -> Path:
    """Compute the features of a frame store once, and write them to HDF5.

    If it is interrupted or killed, the same command continues with the frames that are not written yet. An
    existing cache of the same origin is left unchanged.

    Args:
        store: Frame store, written by ``alan prepare``.
        backbone: Path or name of the backbone.
        out: Cache to write; the file is called ``<out>.part`` until it is complete.
        parcels: Path or name of a parcel model, for logits and maps.
        features: Kinds of features: cls, tokens, logits, maps. 784 tokens of 384 values take 0.6 MB per frame, so
            cache only the kinds that are needed.
        split: Split of the store (train, val or test); null for all.
        views: Views taken from the store; null for all.
        frames: Frames taken from the store: all, annotated (with masks, and ED and ES), or N evenly spread frames
            per sequence.
        batch_size: Number of frames per step and device.
        num_workers: Number of processes that read frames.
        input_size: Side in pixels to which the backbone resizes frames; null for its training size.
        stride: Distance between tokens in pixels; a stride below the patch size gives a denser grid; null for the
            default of the backbone.
        accelerator: Accelerator of Lightning's Trainer, such as cpu, gpu or auto.
        devices: Devices of Lightning's Trainer; each of several devices writes a shard, and these read as one.
        strategy: Strategy of Lightning's Trainer.
        precision: Precision of Lightning's Trainer; the dtypes in the file do not depend on it.
        overwrite: Start again; an existing cache is replaced once the new one is complete.

    Returns:
        The path of the cache.

    Raises:
        CacheError: There is a cache or a part of another origin, or there is too little space.
        ParameterError: A parameter is out of its bounds, or parcels and ``features`` do not fit together.
        DataError: The store cannot be read, or no frame is left.
        CheckpointError: The backbone or the parcels cannot be loaded.
        KeyboardInterrupt: The computation was interrupted.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import TQDMProgressBar

    from alan.backbone.load import load_backbone
    from alan.cache.writer import CacheWriter, FeatureModule, MissingFrames
    from alan.data.store.reader import FrameStore
    from alan.parcels.model import load_parcels
    from alan.trainer import Trainer, silent_lightning

    _check(features, parcels)
    target = Path(out)
    if target.is_dir():
        raise DataError(f"{target}: is a folder; give the path of a file, such as {target / 'features.h5'}")
    frame_store = FrameStore(store)
    index = frame_store.choose_frames(split, views, frames)
    locked = load_backbone(backbone, input_size=input_size, stride=stride)
    model = load_parcels(parcels, locked) if parcels is not None else None
    manifest = CacheManifest(
        backbone=locked.fingerprint,
        parcels=model.fingerprint if model is not None else "",
        store=frame_store.fingerprint,
        preprocessing=frame_store.preprocessing.fingerprint,
        features=tuple(kind for kind in KINDS if kind in features),
        settings={
            "split": split,
            "views": None if views is None else list(views),
            "frames": frames,
            "input_size": locked.input_size,
            "stride": locked.stride,
            "precision": precision,
        },
    )
    with lock_file(target), silent_lightning():
        if target.exists() and not overwrite:
            _check_same(target, manifest)
            log.info("%s: exists and has the same origin, nothing to do", target)
            return target
        module = FeatureModule(locked, model, manifest.features)
        layout = module.layout(frame_store.size)
        if overwrite or not leftovers(target):
            check_space(target.parent, n_bytes(layout, len(index)))
        writer = CacheWriter(target, manifest, index, layout, overwrite=overwrite)
        bars = [] if quiet() else [TQDMProgressBar()]
        try:
            trainer = Trainer(
                accelerator=accelerator,
                devices=devices,
                strategy=strategy,
                precision=precision,
                callbacks=[writer, *bars],
                enable_progress_bar=bool(bars),
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                use_distributed_sampler=False,  # the writer distributes the frames: a rank can resume
            )
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise ParameterError(
                f"accelerator={accelerator!r}, devices={devices!r}, strategy={strategy!r}: {error} "
                "Take auto, or cpu"
            ) from error
        check_limit(target, n_bytes(layout, len(index)) // trainer.world_size)
        with _interruptible():
            trainer.predict(
                module, MissingFrames(store, writer, batch_size, num_workers), return_predictions=False
            )
        trainer.strategy.barrier("all parts are written")
        if trainer.is_global_zero:
            finish(target)
            log.info("%s: %s of %s", target, ", ".join(manifest.features), plural(len(index), "frame"))
        trainer.strategy.barrier("the cache is complete")
        return target


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the exit that Lightning makes of an interruption into ``KeyboardInterrupt`` again."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning ignores the signal from then on


def _check(features: Sequence[str], parcels: str | None) -> None:
    if not features:
        raise ParameterError(f"features is empty: choose one or more of {', '.join(KINDS)}")
    needs = [kind for kind in features if kind in PARCEL_KINDS]
    if needs and parcels is None:
        raise ParameterError(f"features is {', '.join(features)}, which needs parcels: give a parcel model")
    if parcels is not None and not needs:
        raise ParameterError(
            f"parcels is given and features is {', '.join(features)}: add logits or maps, or omit parcels"
        )


def _check_same(target: Path, manifest: CacheManifest) -> None:
    words = FeatureCache(target).manifest.differences(manifest)
    if words:
        raise CacheError(
            f"{target}: exists and has another origin ({'; '.join(words)}): write to another name, or "
            "replace it with --overwrite true"
        )
