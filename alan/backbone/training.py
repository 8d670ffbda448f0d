"""Base of all trainings: seeded random numbers, scheduled steps, a moving average, exact resume."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from alan.errors import CheckpointError, ConfigError, ParameterError
from alan.seeding import seeded, step_generator, step_seed


class TrainingModule(LightningModule):
    """Base of the Lightning modules of ALAN.

    A subclass computes the loss in :meth:`compute_loss`, builds its optimiser in ``configure_optimizers`` and
    writes the trained model in :meth:`export`. Values of :meth:`schedules` are set on the optimiser before each
    step; with ``momentum`` among them, ``teacher`` follows ``student`` after it. :meth:`checkpoint_entry` and
    :meth:`check_entry` define what belongs to a checkpoint.

    All random numbers of a batch follow from the seed and the number of the batch (:meth:`key`), so that a resumed
    run equals the uninterrupted one, and the global generators are left alone. Batches are numbered through all
    processes.

    Checkpoints hold plain tensors, so that reading them runs no code, and no arguments of the constructor: give
    these to ``load_from_checkpoint``. To use a trained model, read the checkpoint by ``alan.load_backbone``,
    ``alan.load_parcels``, or the exported file.

    Args:
        seed: Seed of all random numbers.

    Attributes:
        method: Name of the training, for messages and checkpoints.
        entry_key: Key of the module's own entry in a checkpoint.
        export_name: Name of the exported model in a run folder.
        average_buffers: Whether the moving average covers buffers (running statistics) too.
    """

    method: ClassVar[str]
    entry_key: ClassVar[str] = "alan"
    export_name: ClassVar[str]
    average_buffers: ClassVar[bool] = False
    student: nn.Module
    teacher: nn.Module

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self._batches = 0  # that this process has finished, or its share of those before a resume

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute the loss of a batch and log its terms."""
        raise NotImplementedError

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the trained model."""
        raise NotImplementedError

    def checkpoint_entry(self) -> dict[str, Any]:
        """Return what a checkpoint records of the module, JSON-able."""
        raise NotImplementedError

    def check_entry(self, entry: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of this method that does not belong to this module.

        Raises:
            CheckpointError: It is of another network, or of other data.
        """
        raise NotImplementedError

    def schedules(self, step: int) -> dict[str, float]:
        """Return the values that are set at an optimiser step: ``lr``, ``weight_decay``, ``momentum`` ...

        A group of parameters with a ``lr_share`` gets that share of ``lr``; the weight decay is that of the
        optimiser's first group.
        """
        return {}

    # ---------------------------------------------------------------------------------------- random numbers

    def key(self, *extra: int) -> tuple[int, ...]:
        """Identify the random numbers of the current batch.

        Args:
            *extra: Distinguish several uses in one batch.
        """
        return self.seed, self._batches * self._processes + self.global_rank, 0, *extra

    def generator(self, *extra: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Make a generator for the current batch, see :meth:`key`."""
        return step_generator(device, *self.key(*extra))

    def seeded(self, *extra: int) -> AbstractContextManager[None]:
        """Seed the global generators inside a block, for dropout and the like, see :meth:`key`."""
        return seeded(step_seed(*self.key(*extra)), self.device)

    # ------------------------------------------------------------------------------------------------- steps

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a batch.

        Args:
            batch: See the class.
            batch_idx: Unused; the module counts its own batches across restarts.

        Raises:
            ParameterError: The loss is not finite.
        """
        loss = self.compute_loss(batch)
        self._batches += 1
        self.log("loss", loss, prog_bar=True)
        if not torch.isfinite(loss):
            raise ParameterError(
                f"the loss is {loss.item()} at step {self.global_step}: lower the learning rate, or use precision "
                "32-true"
            )
        return loss

    def total_steps(self) -> int:
        """Return the number of optimiser steps of the whole run.

        Raises:
            ParameterError: The run has no end.
        """
        steps = self.trainer.estimated_stepping_batches
        if not 1 <= steps < math.inf:
            raise ParameterError("the schedules need the length of the run: set trainer.max_epochs or max_steps")
        return int(steps)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Step with the scheduled values, then move the teacher: once, however many batches were accumulated.

        Lightning is asked for the length of the run here, not in ``configure_optimizers``: there it would build
        the loader before the loader's place is restored, and a resumed run would see other batches.
        """
        values = self.schedules(self.global_step)
        for group in optimizer.param_groups:
            group["lr"] = values["lr"] * group.get("lr_share", 1.0) if "lr" in values else group["lr"]
        decay = optimizer.param_groups[0].get("weight_decay", 0.0)
        optimizer.param_groups[0]["weight_decay"] = values.get("weight_decay", decay)
        self.log_dict(values)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.after_step(values)

    def after_step(self, values: Mapping[str, float]) -> None:
        """Move the teacher where there is one.

        Args:
            values: What :meth:`schedules` gave for the step.
        """
        if "momentum" in values:
            self.move_teacher(values["momentum"])

    def student_state(self) -> dict[str, Tensor]:
        """Return the student's tensors that the teacher follows, under the teacher's names."""
        return self.student.state_dict() if self.average_buffers else dict(self.student.named_parameters())

    @torch.no_grad()
    def move_teacher(self, momentum: float) -> None:
        """Move the teacher: momentum x teacher + (1 - momentum) x student."""
        fast = self.student_state()
        slow = self.teacher.state_dict() if self.average_buffers else dict(self.teacher.named_parameters())
        for name, value in slow.items():
            if value.is_floating_point():
                value.lerp_(fast[name], 1 - momentum)
            else:
                value.copy_(fast[name])

    @property
    def _processes(self) -> int:
        return self._trainer.world_size if self._trainer else 1

    def mean_over_processes(self, value: Tensor) -> Tensor:
        """Average a tensor over all processes."""
        mean = self.trainer.strategy.reduce(value, reduce_op="mean")
        return mean if isinstance(mean, Tensor) else value

    # ------------------------------------------------------------------------------------- data, checkpoints

    def check_structures(self, structures: tuple[str, ...]) -> None:
        """Check that the data module gives the labels that the network is trained on.

        Raises:
            ConfigError: It gives others.
        """
        trainer: Any = self.trainer
        given = tuple(getattr(getattr(trainer, "datamodule", None), "structures", structures))
        if given != structures:
            raise ConfigError(
                f"the data have labels of {len(given)} structure(s) ({', '.join(given)}), the network is for "
                f"{len(structures)} ({', '.join(structures)}): set both to the same"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the module's entry, and the number of batches that the random numbers depend on."""
        state = {
            "method": self.method,
            "batches": self._batches * self._processes,
            "processes": self._processes,
        }
        checkpoint[self.entry_key] = {**self.checkpoint_entry(), **state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counter of batches; a run of other processes continues with their share of the batches.

        Raises:
            CheckpointError: The checkpoint is not one of this module, is of another network, or its batches cannot
                be shared by the present processes.
        """
        entry = checkpoint.get(self.entry_key)
        if not isinstance(entry, Mapping) or entry.get("method") != self.method:
            raise CheckpointError(
                f"the checkpoint is not one of a {self.method} training: give the last.ckpt of this run"
            )
        self.check_entry(entry)
        self._batches, rest = divmod(entry["batches"], self._processes)
        if rest:
            raise CheckpointError(
                f"the checkpoint has seen {entry['batches']} batches, which {self._processes} processes cannot "
                "share evenly: resume with fewer processes"
            )
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        for counts in loops.get("epoch_loop.batch_progress", {}).values():
            if isinstance(counts, dict):  # Lightning's own count, within the epoch and in total
                for name in counts:
                    counts[name] = counts[name] * entry["processes"] // self._processes


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Split the trained parameters of a network into two groups of an optimiser: with weight decay, and without.

    Biases and the parameters of norms have no weight decay.
    """
    decayed: list[Tensor] = []
    bare: list[Tensor] = []
    for name, parameter in module.named_parameters():
        (bare if parameter.ndim <= 1 or name.endswith(".bias") else decayed).append(parameter)
    return [{"params": decayed}, {"params": bare, "weight_decay": 0.0}]
