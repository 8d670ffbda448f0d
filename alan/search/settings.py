"""Settings of a search other than its space: the labelled frames, the training of a trial, and the study."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from alan import data
from alan.bounds import PositiveInt, Seed, bounded
from alan.errors import ConfigError, ParameterError
from alan.runs import plain
from alan.search.space import Point, SearchSpace
from alan.supervised.settings import TrainingSettings


@bounded
@dataclass(frozen=True)
class SearchData:
    """Labelled frames that every trial is trained and scored on.

    Attributes:
        stores: Paths of frame stores of one size.
        structures: Structures to segment, or unions of them (``lv+myo``); the objective is their mean IoU.
        train_split: Split that trials are trained on.
        val_split: Split that trials are scored on; never ``test``.
        views: Views used; null uses all.
        label_patients: Number of training patients whose labels are used; null uses all.
        seed: Seed of the patients drawn, the order of frames, the initial weights and the augmentation; it is the
            same for every trial.
    """

    stores: tuple[str, ...]
    structures: tuple[str, ...]
    train_split: str = "train"
    val_split: str = "val"
    views: tuple[str, ...] | None = None
    label_patients: PositiveInt | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        if self.val_split == "test":
            raise ParameterError("val_split is 'test': score trials on another split, and keep test for the end")

    def module(self) -> data.LabelledFrameDataModule:
        """Open the frames.

        Raises:
            DataError: A store cannot be read, a split is empty, or a structure is missing.
            SplitLeakError: A patient is in both splits.
        """
        frames = data.LabelledFrameDataModule(**plain(self))
        frames.setup()
        return frames


@bounded
@dataclass(frozen=True)
class StudySettings:
    """Settings of the study: how the space is searched.

    Attributes:
        n_trials: Number of points to train, by all processes together; a larger number continues a finished study.
        val_every: Epochs between two validations of a trial (steps, where ``training.steps`` is set); the best
            validation is the trial's score.
        objectives: ``iou``, or ``iou`` and ``latency``, whose result is a Pareto front.
        sampler: ``random`` (uniform over the points not yet trained, as in the paper), ``tpe``, or ``nsga2`` for
            two objectives.
        pruner: ``none``; or ``median``, ``halving`` (successive halving: the better half continues at the first,
            second, fourth ... validation) or ``hyperband``, which stop poor trials early and need one objective.
        seed: Seed of the points drawn.
        name: Name of the study in its database.
        storage: URL of a database that several machines share; null uses SQLite in the run folder.
        heartbeat: Seconds between two heartbeats of a running trial; a trial without a heartbeat for six times as
            long counts as dead and is tried once more.
    """

    n_trials: PositiveInt
    val_every: PositiveInt = 1
    objectives: tuple[Literal["iou", "latency"], ...] = ("iou",)
    sampler: Literal["random", "tpe", "nsga2"] = "random"
    pruner: Literal["none", "median", "halving", "hyperband"] = "none"
    seed: Seed = 0
    name: str = "search"
    storage: str | None = None
    heartbeat: PositiveInt = 10

    def __post_init__(self) -> None:
        if self.objectives not in (("iou",), ("iou", "latency")):
            raise ParameterError(f"objectives is {list(self.objectives)}: give [iou] or [iou, latency]")
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


@dataclass(frozen=True)
class SearchSettings:
    """All settings of a search.

    Attributes:
        space: Space of the points.
        data: Labelled frames.
        training: Settings of a training that the space does not vary.
        study: Settings of the study.

    Raises:
        ConfigError: The training ends before its first validation, or sets what the space varies.
    """

    space: SearchSpace
    data: SearchData
    training: TrainingSettings
    study: StudySettings

    def __post_init__(self) -> None:
        given, default = asdict(self.training), asdict(TrainingSettings())
        for name, axis in {"lr": "lrs", "batch_size": "batch_sizes"}.items():
            if given[name] != default[name]:
                raise ConfigError(f"training.{name} is set: the search chooses it; set space.{axis} instead")
        for name in ("decoder", "encoder", "depth"):
            if given["network"][name] != default["network"][name]:
                raise ConfigError(
                    f"training.network.{name} is set: the search chooses it; set space.{name}s instead"
                )
        length, unit = (steps, "steps") if (steps := self.training.steps) else (self.training.epochs, "epochs")
        if self.study.val_every > length:
            raise ConfigError(
                f"study.val_every is {self.study.val_every}: give at most {length}, the {unit} of a trial"
            )

    @property
    def validations(self) -> int:
        """Number of validations of a trial."""
        return (self.training.steps or self.training.epochs) // self.study.val_every

    def training_of(self, point: Point) -> TrainingSettings:
        """Return the settings of the training of a point."""
        network = replace(
            self.training.network,
            decoder=point.decoder,
            encoder=point.encoder,
            depth=point.depth,
            encoder_weights=self.space.weights.get(point.encoder, self.training.network.encoder_weights),
        )
        return replace(self.training, network=network, lr=point.lr, batch_size=point.batch_size)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide the scores: all but data path, machine and varied settings."""
        settings = {**asdict(self.data), **asdict(self.training), "val_every": self.study.val_every}
        return {k: v for k, v in settings.items() if k not in ("stores", "num_workers", "accelerator")}

    def fit_config(self, point: Point) -> dict[str, Any]:
        """Return a configuration of ``alan fit`` that trains a point as its trial was trained."""
        training, data = self.training_of(point), plain(self.data)
        model = {"structures": data["structures"], **training.module_options(), "seed": data["seed"]}
        loader = {"batch_size": training.batch_size, "num_workers": training.num_workers}
        config = {
            "seed_everything": data["seed"],
            "model": {
                "class_path": "alan.supervised.SegmentationModule",
                "init_args": {**model, "network": training.network},
            },
            "data": {"class_path": "alan.data.LabelledFrameDataModule", "init_args": {**data, **loader}},
            "trainer": {**training.trainer_options(self.study.val_every), "log_every_n_steps": 10},
        }
        return dict(plain(config))
