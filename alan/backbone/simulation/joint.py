"""DINO on unlabelled frames and training on simulation in one run, of one vision transformer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from alan.backbone.dino.module import DINOModule
from alan.backbone.simulation.heads import DenseHeads, Outputs
from alan.backbone.simulation.objective import SimulationObjective
from alan.bounds import NonNegativeFloat, bounded
from alan.errors import ConfigError
from alan.seeding import seeded


class JointModule(DINOModule):
    """Train with both losses in each step: DINO's on ``unlabelled`` frames, the simulator's on simulated ones.

    Batches are those of :class:`alan.data.SimulatedDataModule` with unlabelled stores. The student's network has
    heads for the simulator's targets, which are discarded at export; everything else is DINO's.

    Args:
        objective: Targets, losses and augmentation of the training on simulated frames.
        simulation_weight: Weight of the simulator's losses relative to DINO's.
        **dino: Arguments of :class:`alan.backbone.DINOModule`.

    Raises:
        ParameterError: A value is out of range.
    """

    method = "DINO and simulation"

    @bounded
    def __init__(
        self, *, objective: SimulationObjective, simulation_weight: NonNegativeFloat = 1.0, **dino: Any
    ) -> None:
        super().__init__(**dino)
        self.objective, self.simulation_weight = objective, simulation_weight
        with seeded(self.seed):
            self.student.dense = DenseHeads(self.spec, len(objective.structures))
        self.teacher.dense = copy.deepcopy(self.student.dense).requires_grad_(False)

    def setup(self, stage: str) -> None:
        """Check that the data have the structures and unlabelled frames.

        Raises:
            ConfigError: A structure or the unlabelled frames are missing.
        """
        self.check_structures(tuple(self.objective.structures))
        trainer: Any = self.trainer
        data = getattr(trainer, "datamodule", None)
        if data is not None and not getattr(data, "unlabelled", None):
            raise ConfigError(
                "DINO needs unlabelled frames in addition to the simulated ones: set data.init_args.unlabelled"
            )

    def on_train_batch_start(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Count the unlabelled frames of an optimiser step in the first batch."""
        super().on_train_batch_start({"frames": batch["unlabelled"]}, batch_idx)

    def compute_loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Compute DINO's loss of the unlabelled frames, plus the simulator's losses of the others."""
        loss = super().compute_loss({"frames": batch["unlabelled"]})
        frames = self.objective.augment(batch["frames"], self.spec, self.generator(2, device=self.device))
        heads: Any = self.student.dense
        with self.seeded(2, 1):  # stochastic depth
            outputs: Outputs = heads(self.student.network, frames.images)
        with torch.autocast(self.device.type, enabled=False):
            simulation = self.objective.weighted_sum(self.objective.losses(outputs, batch, frames))
        self.log("simulation_loss", simulation, prog_bar=True)
        return loss + self.simulation_weight * simulation

    def provenance(self) -> dict[str, Any]:
        """Describe the origin of an exported backbone."""
        return {
            **super().provenance(),
            "trained_by": self.method,
            "structures": list(self.objective.structures),
        }
