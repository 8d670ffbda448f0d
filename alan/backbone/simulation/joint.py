"""DINO on unlabelled frames and teaching by simulation in one run, of one vision transformer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from alan.backbone.dino.module import DINOModule
from alan.backbone.simulation.heads import DenseHeads, Outputs, TargetWeights
from alan.backbone.simulation.steps import augmented, taught_losses
from alan.data.augmentation.dense import DenseAugmentation
from alan.errors import ConfigError, ParameterError
from alan.seeding import step_generator


class JointModule(DINOModule):
    """Both losses in each step: DINO's on ``unlabelled`` frames, the simulator's on simulated ones.

    Batches are those of :class:`alan.data.SimulatedDataModule` with unlabelled stores. The student's
    network is taught through heads of its own, which are thrown away at export; all else is DINO's.

    Args:
        structures: names, those of the data; ``lv`` and ``la`` among them for coordinates.
        weights: weights of the simulator's targets.
        augmentation: of the simulated frames.
        simulation_weight: of the simulator's losses beside DINO's.
        **dino: arguments of :class:`alan.backbone.DINOModule`.

    Raises:
        ParameterError: a value outside its range.
    """

    def __init__(
        self,
        *,
        structures: list[str],
        weights: TargetWeights = TargetWeights(),  # noqa: B008 (frozen)
        augmentation: DenseAugmentation = DenseAugmentation(),  # noqa: B008 (frozen)
        simulation_weight: float = 1.0,
        **dino: Any,
    ) -> None:
        super().__init__(**dino)
        if simulation_weight < 0:
            raise ParameterError(f"simulation_weight is {simulation_weight}: it must not be negative")
        lacking = [name for name in ("lv", "la") if name not in structures]
        if weights.coordinates and lacking:
            raise ParameterError(
                f"coordinates need the structure {lacking[0]!r}: name it, or set weights.coordinates to 0"
            )
        self.structures = tuple(structures)
        self.weights, self.augmentation, self.simulation_weight = weights, augmentation, simulation_weight
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.student.dense = DenseHeads(self.spec, len(structures))
        self.teacher.dense = copy.deepcopy(self.student.dense).requires_grad_(False)

    def setup(self, stage: str) -> None:
        """Check that the data have the structures and unlabelled frames.

        Raises:
            ConfigError: they have not.
        """
        trainer: Any = self.trainer
        data = getattr(trainer, "datamodule", None)
        given = tuple(getattr(data, "structures", self.structures))
        if given != self.structures:
            raise ConfigError(
                f"the data give labels of {', '.join(given)}, the network is for {', '.join(self.structures)}: "
                "set both to the same"
            )
        if data is not None and not getattr(data, "unlabelled", None):
            raise ConfigError(
                "DINO needs unlabelled frames beside the simulated ones: set data.init_args.unlabelled"
            )

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Learn the frames of an optimiser step from the unlabelled ones."""
        super().on_train_batch_start({"frames": batch["unlabelled"]}, batch_idx)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """DINO's step on ``unlabelled`` (U, S, S) uint8, plus the simulator's losses on the rest of the batch."""
        key = (self.seed, self._batches, self.global_rank, 2)
        loss = super().training_step({"frames": batch["unlabelled"]}, batch_idx)
        seen = augmented(batch["frames"], self.augmentation, self.spec, step_generator(self.device, *key))
        heads: Any = self.student.dense
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(step_generator(torch.device("cpu"), *key, 1).initial_seed())  # stochastic depth
            outputs: Outputs = heads(self.student.vit, seen.images)
        with torch.autocast(self.device.type, enabled=False):
            terms = taught_losses(outputs, batch, seen, self.structures, self.weights)
            taught = torch.stack([getattr(self.weights, name) * term for name, term in terms.items()]).sum()
        self.log("taught_loss", taught, prog_bar=True)
        return loss + self.simulation_weight * taught

    def provenance(self) -> dict[str, Any]:
        """What an exported backbone says of its origin."""
        return {
            **super().provenance(),
            "trained_by": "DINO and simulation",
            "structures": list(self.structures),
        }
