"""Settings of a search beside its space: the labelled frames, the training of a trial, and the study."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from alan.bounds import NonNegativeInt, PositiveInt, bounded
from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.errors import ConfigError, ParameterError
from alan.search.space import Point
from alan.supervised.networks import NetworkSpec
from alan.supervised.training import TrainingSettings


@bounded
@dataclass(frozen=True)
class SearchData:
    """Labelled frames that every trial is trained and scored on.

    Attributes:
        stores: Paths of frame stores of one size.
        structures: Names, or unions of names (``lv+myo``); the objective is the mean IoU over them.
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
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.val_split == "test":
            raise ParameterError("val_split is 'test': score trials on another split, and keep test for the end")

    def module_options(self, point: Point, num_workers: int) -> dict[str, Any]:
        """Arguments of :class:`alan.data.LabelledFrameDataModule`."""
        options = {name: list(x) if isinstance(x, tuple) else x for name, x in asdict(self).items()}
        return {**options, "batch_size": point.batch_size, "num_workers": num_workers}

    def module(self, point: Point, num_workers: int = 0) -> LabelledFrameDataModule:
        """The frames of a trial."""
        return LabelledFrameDataModule(**self.module_options(point, num_workers))


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
        pruner: ``none``; or ``median`` or ``hyperband``, which stop poor trials early and need one objective.
        seed: Seed of the points drawn; together with a trial's number it decides its point.
        name: Name of the study in its database.
        storage: URL of a database that several machines share; null uses SQLite in the run folder.
        heartbeat: Seconds between two signs of life of a running trial; a trial that is silent for six times as
            long counts as dead and is tried once more.
    """

    n_trials: PositiveInt
    val_every: PositiveInt = 1
    objectives: tuple[Literal["iou", "latency"], ...] = ("iou",)
    sampler: Literal["random", "tpe", "nsga2"] = "random"
    pruner: Literal["none", "median", "hyperband"] = "none"
    seed: NonNegativeInt = 0
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


def training_of(point: Point, training: TrainingSettings) -> TrainingSettings:
    """The training of a point: the settings that the space does not vary, and the point's own."""
    network = replace(training.network, decoder=point.decoder, encoder=point.encoder, depth=point.depth)
    return replace(training, network=network, lr=point.lr, batch_size=point.batch_size)


def count_validations(training: TrainingSettings, study: StudySettings) -> int:
    """Number of validations of a trial.

    Raises:
        ConfigError: The training ends before its first validation.
        ParameterError: The training sets what the space varies.
    """
    default = TrainingSettings()
    varied = {"lr": "lrs", "batch_size": "batch_sizes"}
    for name, axis in varied.items():
        if getattr(training, name) != getattr(default, name):
            raise ParameterError(f"training.{name} is {getattr(training, name)!r}: set space.{axis} in its place")
    for name in ("decoder", "encoder", "depth", "decoder_channels"):
        if getattr(training.network, name) != getattr(NetworkSpec(), name):
            raise ParameterError(f"training.network.{name} is set: the space chooses it; leave it out")
    length, unit = (training.steps, "steps") if training.steps else (training.epochs, "epochs")
    if study.val_every > length:
        raise ConfigError(f"val_every is {study.val_every}: give at most {length}, the {unit} of a trial")
    return length // study.val_every


def fit_config(point: Point, data: SearchData, training: TrainingSettings, study: StudySettings) -> dict[str, Any]:
    """A configuration of ``alan fit`` that trains a point as its trial was trained."""
    settings = training_of(point, training)
    model = {"structures": list(data.structures), **settings.module_options(), "seed": data.seed}
    return {
        "seed_everything": data.seed,
        "model": {
            "class_path": "alan.supervised.SegmentationModule",
            "init_args": {**model, "network": settings.network.to_dict()},
        },
        "data": {
            "class_path": "alan.data.LabelledFrameDataModule",
            "init_args": data.module_options(point, settings.num_workers),
        },
        "trainer": {**settings.trainer_options(study.val_every), "log_every_n_steps": 10},
    }
