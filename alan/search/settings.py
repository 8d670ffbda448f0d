"""What a search is asked to do beside its space: the training of a trial, and the study."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from alan.backbone.normalise import Normalisation
from alan.errors import ConfigError, ParameterError, nearest
from alan.search.space import Point

SAMPLERS = ("random", "tpe", "nsga2")
PRUNERS = ("none", "median", "hyperband")
OBJECTIVES = ("iou", "latency")


@dataclass(frozen=True)
class TrialTraining:
    """How every point is trained: all of ``alan fit`` that the space does not vary.

    Attributes:
        stores: paths of frame stores of one size.
        structures: names or unions of names; the objective is the mean IoU over them.
        max_epochs: epochs of a trial.
        val_every: epochs between two validations; the objective is the best of them.
        losses: name of a loss to its weight.
        optimiser: ``adam`` or ``adamw``.
        weight_decay: of the optimiser.
        schedule: of the learning rate, ``constant`` or ``cosine``.
        normalisation: of grey values.
        augmentation: a preset of :data:`alan.data.augmentation.presets.PRESETS`.
        in_channels: 1, or 3 (the grey image three times).
        encoder_weights: None for random ones, or the hub's by name.
        train_split: side to learn from.
        val_split: side of the objective.
        views: views to take, or None for all.
        label_patients: training patients whose labels are used, or None for all.
        num_workers: processes that read.
        accelerator: of Lightning's trainer.
        precision: of Lightning's trainer.
        seed: of weights, order and augmentation; the same for every trial.
    """

    stores: tuple[str, ...]
    structures: tuple[str, ...]
    max_epochs: int
    val_every: int = 1
    losses: dict[str, float] = field(default_factory=lambda: {"dice": 1.0})
    optimiser: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    normalisation: Normalisation = "unit"
    augmentation: str = "none"
    in_channels: int = 1
    encoder_weights: str | None = None
    train_split: str = "train"
    val_split: str = "val"
    views: tuple[str, ...] | None = None
    label_patients: int | None = None
    num_workers: int = 0
    accelerator: str = "auto"
    precision: str = "32-true"
    seed: int = 0

    def check(self) -> None:
        """Refuse a training that never validates.

        Raises:
            ParameterError: ``max_epochs`` or ``val_every`` below 1, or ``val_every`` above ``max_epochs``.
        """
        if not 1 <= self.val_every <= self.max_epochs:
            raise ParameterError(
                f"val_every {self.val_every} must be in 1..{self.max_epochs} (max_epochs): else no trial is scored"
            )
        if self.val_split == "test":
            raise ParameterError("val_split is 'test': choose on another side, and keep test for the end")

    @property
    def validations(self) -> int:
        """Validations of a trial."""
        return self.max_epochs // self.val_every

    def network(self, point: Point) -> dict[str, Any]:
        """Settings of a :class:`alan.supervised.NetworkSpec`."""
        return {
            "decoder": point.decoder,
            "encoder": point.encoder,
            "in_channels": self.in_channels,
            "depth": point.depth,
            "encoder_weights": self.encoder_weights,
        }

    def module(self, point: Point) -> dict[str, Any]:
        """Settings of a :class:`alan.supervised.SegmentationModule`, its network apart."""
        return {
            "structures": list(self.structures),
            "losses": dict(self.losses),
            "optimiser": self.optimiser,
            "lr": point.lr,
            "weight_decay": self.weight_decay,
            "schedule": self.schedule,
            "normalisation": self.normalisation,
            "augmentation": self.augmentation,
            "seed": self.seed,
        }

    def data(self, point: Point) -> dict[str, Any]:
        """Settings of a :class:`alan.data.LabelledFrameDataModule`."""
        return {
            "stores": list(self.stores),
            "structures": list(self.structures),
            "train_split": self.train_split,
            "val_split": self.val_split,
            "views": None if self.views is None else list(self.views),
            "label_patients": self.label_patients,
            "batch_size": point.batch_size,
            "num_workers": self.num_workers,
            "seed": self.seed,
        }

    def trainer(self) -> dict[str, Any]:
        """Settings of Lightning's trainer."""
        return {
            "max_epochs": self.max_epochs,
            "check_val_every_n_epoch": self.val_every,
            "accelerator": self.accelerator,
            "devices": 1,
            "precision": self.precision,
        }

    def fit_config(self, point: Point) -> dict[str, Any]:
        """A configuration of ``alan fit`` that trains a point as its trial was trained."""
        return {
            "seed_everything": self.seed,
            "model": {
                "class_path": "alan.supervised.SegmentationModule",
                "init_args": {**self.module(point), "network": self.network(point)},
            },
            "data": {
                "class_path": "alan.data.LabelledFrameDataModule",
                "init_args": self.data(point),
            },
            "trainer": {**self.trainer(), "log_every_n_steps": 10},
        }


@dataclass(frozen=True)
class StudySettings:
    """How the space is searched.

    Attributes:
        n_trials: points to be trained in all, by all processes together; more continue a finished study.
        objectives: ``iou``, or ``iou`` and ``latency`` (then the result is a Pareto front).
        sampler: ``random`` (uniform over the points not yet trained, the paper's), ``tpe``, or ``nsga2`` for two
            objectives.
        pruner: ``none``; or ``median`` or ``hyperband``, which stop poor trials early, for one objective.
        seed: of the draws; with the number of a trial it decides what is drawn.
        name: of the study in its database.
        storage: URL of a database that several machines share; None for SQLite in the run folder.
        heartbeat: seconds between two signs of life of a running trial; one that is silent for six times as long
            counts as dead and is tried once more.
    """

    n_trials: int
    objectives: tuple[Literal["iou", "latency"], ...] = ("iou",)
    sampler: Literal["random", "tpe", "nsga2"] = "random"
    pruner: Literal["none", "median", "hyperband"] = "none"
    seed: int = 0
    name: str = "search"
    storage: str | None = None
    heartbeat: int = 10

    def check(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            ParameterError: a number out of range, an unknown name, or objectives that are none.
            ConfigError: a pruner or a sampler that does not fit the number of objectives.
        """
        if self.n_trials < 1 or self.heartbeat < 1:
            raise ParameterError(f"n_trials {self.n_trials} and heartbeat {self.heartbeat}: give at least 1")
        for kind, value, known in (("sampler", self.sampler, SAMPLERS), ("pruner", self.pruner, PRUNERS)):
            if value not in known:
                raise ParameterError(f"unknown {kind} {value!r}: {nearest(value, known)}")
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown:
            raise ParameterError(f"unknown objective {unknown[0]!r}: {nearest(unknown[0], OBJECTIVES)}")
        if self.objectives not in (("iou",), ("iou", "latency")):
            raise ParameterError(f"objectives {list(self.objectives)}: give [iou] or [iou, latency]")
        if self.pruner != "none" and len(self.objectives) > 1:
            raise ConfigError(
                f"pruner {self.pruner!r} works with one objective: set it to none, or objectives to [iou]"
            )
        if self.sampler == "nsga2" and len(self.objectives) == 1:
            raise ConfigError("sampler 'nsga2' is for two objectives: take tpe, or objectives [iou, latency]")

    @property
    def grace(self) -> int:
        """Seconds of silence after which a running trial counts as dead."""
        return 6 * self.heartbeat
