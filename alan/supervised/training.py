"""Supervised training inside a larger experiment: trials of a search, active learning, label efficiency.

``alan fit`` trains one network with checkpoints and loggers. Here a network is trained in memory and returned as a
:class:`~alan.supervised.Segmenter`; the same settings give the same weights in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from alan.arrays import FloatArray
from alan.data.loaders.labelled import LabelledFrames
from alan.data.loaders.modules import Batch
from alan.data.loaders.sampling import resumable_loader, whole
from alan.errors import CheckpointError
from alan.overlap import iou_of_counts
from alan.precision import choose_precision
from alan.supervised.module import SegmentationModule
from alan.supervised.scores import SegmentationScores
from alan.supervised.segmenter import Segmenter, load_segmenter, to_labels
from alan.supervised.settings import TrainingSettings
from alan.trainer import silent_lightning

#: Called after each validation with its number, from 1, and the scores of the module, such as ``val_iou``.
OnValidation = Callable[[int, dict[str, float]], None]


def train(
    settings: TrainingSettings,
    frames: LabelledFrames,
    seed: int,
    *,
    start: str | None = None,
    val: LabelledFrames | None = None,
    val_every: int = 1,
    on_validation: OnValidation = lambda number, scores: None,
    desc: str | None = None,
) -> Segmenter:
    """Train a network; the weights depend on the arguments alone.

    Args:
        settings: How to train.
        frames: Labelled training frames.
        seed: Seed of the initial weights, the order of frames, the augmentation and the dropout.
        start: Path of a segmenter whose weights the training starts from, see :func:`start_from`.
        val: Labelled frames to validate on during the training; None does not validate.
        val_every: Epochs (or steps, where ``settings.steps`` is set) between two validations.
        on_validation: Called after each validation; an exception that it raises ends the training.
        desc: Text of a progress bar; None shows none.

    Returns:
        The network after the last step, on the device of the training.

    Raises:
        ParameterError: A setting does not fit, or the loss is not finite.
        CheckpointError: Weights that cannot be read, or do not fit the network.
        KeyboardInterrupt: The training was interrupted.
    """
    module = SegmentationModule.from_settings(settings, frames.structures, seed)
    if start is not None:
        start_from(module, load_segmenter(start), start)
    size, workers = settings.batch_size, settings.num_workers
    loader = resumable_loader(frames, min(size, len(frames)), seed=seed, drop_last=True, num_workers=workers)
    val_loader = None if val is None else DataLoader(val, size, num_workers=workers, collate_fn=whole)
    callbacks: list[Callback] = [_Validations(on_validation)]
    if desc is not None:
        callbacks.append(_Bar(desc))
    options = settings.trainer_options(None if val is None else val_every)
    options["precision"] = choose_precision(settings.precision, settings.accelerator)
    with silent_lightning():
        trainer = Trainer(
            **options,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0 if val is None else 1.0,
        )
        try:
            trainer.fit(module, loader, val_loader)
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns it into an exit
                raise KeyboardInterrupt from error
            raise
    segmenter = Segmenter(module.averaged, module.spec, module.structures, frames.stores.size)
    return segmenter.to(trainer.strategy.root_device)


def measure(segmenter: Segmenter, frames: LabelledFrames, batch_size: int) -> tuple[dict[str, float], FloatArray]:
    """Score a network on labelled frames.

    Args:
        segmenter: The network.
        frames: Frames with their labels.
        batch_size: Frames per batch.

    Returns:
        ``iou`` and ``dice`` (means over structures), both for each structure (``iou_lv``), and ``accuracy``, as
        :class:`alan.supervised.scores.SegmentationScores` defines them; and the IoU of each frame and structure,
        (n, structures), NaN where it is undefined.
    """
    scores, images = SegmentationScores(frames.structures), []
    loader: DataLoader[Batch] = DataLoader(frames, batch_size=batch_size, collate_fn=whole)
    for batch in loader:
        with torch.no_grad():
            predicted = to_labels(segmenter.probabilities(batch["frames"]))
        values = torch.arange(1, len(frames.structures) + 1)[:, None, None]
        found, truth = predicted.cpu()[:, None] == values, batch["labels"].long()[:, None] == values
        scores.update(predicted.cpu(), batch["labels"].long())
        both, total = (found & truth).sum((2, 3)), found.sum((2, 3)) + truth.sum((2, 3))
        images.append(iou_of_counts(both, total).double().numpy())
    return {name: float(value) for name, value in scores.compute().items()}, np.concatenate(images)


def start_from(module: SegmentationModule, source: Segmenter, path: str) -> None:
    """Copy the weights of a fitted segmenter into a network that is to be trained.

    The rows of the last convolution are matched by the names of the structures; the source may have more of them.

    Args:
        module: The module to train; it is changed in place.
        source: The fitted segmenter.
        path: Its file, for messages.

    Raises:
        CheckpointError: The network, the normalisation or the structures differ.
    """
    settings = source.settings()
    wanted = replace(module.spec, encoder_weights=None).to_dict()
    for name, mine in (("network", wanted), ("normalisation", module.model.normalisation)):
        if settings[name] != mine:
            raise CheckpointError(f"{path}: cannot start from it: its {name} is {settings[name]}, not {mine}")
    lacking = [name for name in module.structures if name not in source.structures]
    if lacking or (len(module.structures) == 1) != (len(source.structures) == 1):
        raise CheckpointError(
            f"{path}: cannot start from it: it segments {', '.join(source.structures)}, asked for are "
            f"{', '.join(module.structures)}"
        )
    state = dict(source.model.state_dict())
    if len(module.structures) > 1:
        rows = [0, *(1 + source.structures.index(name) for name in module.structures)]
        for name in _last_convolution(module.model):
            state[name] = state[name][rows]
    module.model.load_state_dict(state)
    module.averaged.load_state_dict(state)


def _last_convolution(model: nn.Module) -> list[str]:
    """Return the names of the parameters of the segmentation head's last convolution."""
    last = [
        name for name, part in model.named_modules() if "segmentation_head" in name and isinstance(part, nn.Conv2d)
    ]
    return [f"{last[-1]}.{name}" for name, _ in model.get_submodule(last[-1]).named_parameters()]


class _Validations(Callback):
    """Pass the validation scores on."""

    def __init__(self, on_validation: OnValidation) -> None:
        self.on_validation = on_validation
        self.number = 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.number += 1
        found = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        self.on_validation(self.number, found)


class _Bar(Callback):
    """A progress bar that disappears when the training ends."""

    def __init__(self, desc: str) -> None:
        self.desc = desc

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar = tqdm(total=int(trainer.estimated_stepping_batches), desc=self.desc, unit="step", leave=False)

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.bar.close()
