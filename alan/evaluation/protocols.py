"""Settings of the protocols of an evaluation; they are read before PyTorch is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge

from alan.bounds import PositiveFloat, PositiveInt, Seed, bounded
from alan.data.sample import VIEWS
from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import ParameterError
from alan.evaluation.published import PublishedSegmentation
from alan.evaluation.splits import EvaluationSplits, read_splits


def check_distinct(protocol: Any, *names: str) -> None:
    """Refuse a list of a protocol that is empty or repeats a value.

    Args:
        protocol: Object with the lists as attributes.
        *names: Names of the lists.

    Raises:
        ParameterError: Names the list and its values.
    """
    for name in names:
        values = list(getattr(protocol, name))
        if not values or len(set(values)) < len(values):
            raise ParameterError(f"{name} is {values}: give at least one value, each of them once")


@bounded
@dataclass(frozen=True)
class SegmentationProtocol:
    """Settings of the segmentation protocol: frames, methods and baselines.

    Attributes:
        store: Path of the frame store.
        parcels: Names in the report and paths of parcels files; may be empty.
        networks: Names in the report and paths of networks: a segmenter.safetensors, an ensemble.json, or the JSON
            of soft parcels. Without parcels, the examples in the report are those of the first network.
        structures: Structures to segment; unions are written lv+myo.
        rules: Selection rules, each measured on its own.
        prior: Frame store of simulated frames, whose ED and ES masks are the prior of rule beta; null uses none.
        opinions: Files of an expert's opinions (JSON), which rule beta counts beside the prior on the parcels that
            they are about.
        train_split: Split on which the networks were trained without labels; null if they saw nothing of this
            store. It must share no patient with the other splits, and the k-means baselines are fitted on it. The
            training split of a network under networks is read from its file.
        label_split: Split from which white boxes and atlas learn; null if there are neither.
        label_patients: Number of labelled patients, drawn by the seed; null uses all.
        test_split: Split that is measured.
        views: Views to use; null uses all.
        phases: Phases to use, each measured on its own.
        per_phase: Fit one list of parcels for each phase, on its labelled frames alone, instead of one for all
            phases. Borders that are too narrow at ED and too wide at ES then even out, and with them the ejection
            fraction.
        kmeans: Numbers of parcels of the k-means baseline on the same backbone; an empty list leaves it out.
        kmeans_frames: Number of frames on which k-means is fitted, drawn by the seed.
        random_vit: Add the k-means baseline on an untrained backbone of the same shape.
        atlas: Add the average mask of the labelled frames.
        volumes: Measure volumes beside slices, for cardiac MR: all slices of a patient at a phase are one case,
            with Dice, IoU and surface distances of the volumes, volumes in ml, and the ejection fraction.
        flips: Average the probabilities of each network over a frame and its three flips, at four times the cost;
            for networks that were trained on flipped frames.
        postprocessing: Steps from parcels to a segment.
        published: Dataset whose published results are shown as well; only for the protocol of the paper.
        seed: Seed of all draws.
        batch_size: Frames per forward pass.
    """

    store: str
    parcels: dict[str, str] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)
    structures: tuple[str, ...] = ("lv", "la")
    rules: tuple[Literal["paper", "relaxed", "greedy", "beta"], ...] = ("paper", "relaxed", "greedy")
    prior: str | None = None
    opinions: tuple[str, ...] = ()
    train_split: str | None = "train"
    label_split: str | None = "val"
    label_patients: PositiveInt | None = None
    test_split: str = "test"
    views: tuple[str, ...] | None = None
    phases: tuple[str, ...] = ("ED", "ES")
    per_phase: bool = False
    kmeans: tuple[Annotated[int, Ge(2)], ...] = (64,)
    kmeans_frames: PositiveInt = 500
    random_vit: bool = True
    atlas: bool = True
    volumes: bool = False
    flips: bool = False
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    published: PublishedSegmentation | None = None
    seed: Seed = 0
    batch_size: PositiveInt = 32

    def __post_init__(self) -> None:
        """Refuse a protocol that contradicts itself.

        Raises:
            ParameterError: Nothing is measured, a list is empty or repeats a value, or parameters contradict each
                other.
        """
        if not (self.parcels or self.networks or self.atlas):
            raise ParameterError("parcels and networks are empty and atlas is false: give at least one to measure")
        if self.label_split is None and (self.parcels or self.atlas):
            raise ParameterError(
                "label_split is null, but parcels and atlas learn from labels: name a split, or drop both"
            )
        both = sorted({"atlas", *self.parcels} & set(self.networks))
        if both:
            raise ParameterError(
                f"networks has {both[0]!r}, the name of another row: give each method a name of its own"
            )
        check_distinct(self, "structures", "rules", "phases")
        if self.prior is not None and not ("beta" in self.rules and self.parcels):
            raise ParameterError(
                f"prior is {self.prior!r}, but only rule beta on parcels uses one: add beta to rules, or leave "
                "the prior out"
            )
        if self.opinions and not ("beta" in self.rules and self.parcels):
            raise ParameterError(
                f"opinions are {list(self.opinions)}, but only rule beta on parcels uses them: add beta to rules, "
                "or leave the opinions out"
            )

    @property
    def lists(self) -> tuple[str, ...]:
        """Phases that get a list of parcels of their own; an empty one stands for all."""
        return self.phases if self.per_phase else ("",)

    def splits(self, store: FrameStore) -> EvaluationSplits:
        """Read the frames of the label split and of the test split, with the errors of :func:`read_splits`."""
        return read_splits(
            store,
            train_split=self.train_split,
            label_split=self.label_split,
            test_split=self.test_split,
            views=self.views,
            phases=self.phases,
            label_patients=self.label_patients,
            seed=self.seed,
        )


@bounded
@dataclass(frozen=True)
class ViewProtocol:
    """Settings of the view protocol, which takes one frame per sequence: ED if it is known, else the middle one.

    Attributes:
        store: Path of the frame store.
        backbone: Path or name of the locked backbone, whose CLS feature is used.
        views: Classes; sequences of other views are left out.
        k: Numbers of neighbours, each measured on its own.
        temperature: Temperature of the votes of the neighbours.
        train_split: Split whose views are known.
        test_split: Split that is measured.
        random_vit: Add an untrained backbone of the same shape.
        pixels: Add standardised pixels, 16 x 16, without any network.
        published: Show the published results as well; only for the protocol of the paper.
        seed: Seed of the untrained backbone and of the intervals.
        batch_size: Frames per forward pass.
    """

    store: str
    backbone: str
    views: tuple[str, ...] = VIEWS
    k: tuple[PositiveInt, ...] = (2, 10)
    temperature: PositiveFloat = 0.07
    train_split: str = "train"
    test_split: str = "test"
    random_vit: bool = True
    pixels: bool = True
    published: bool = False
    seed: Seed = 0
    batch_size: PositiveInt = 32

    def __post_init__(self) -> None:
        """Refuse a list that is empty or repeats a value."""
        check_distinct(self, "views", "k")
