"""Settings of active learning: the frames and the loop, read before PyTorch is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from alan.bounds import PositiveInt, Seed, Share, bounded

#: Number of stochastic passes of a score; 30 is usual.
Passes = Annotated[int, Ge(2)]
#: The baseline, which uses no network.
RANDOM = "random"
#: Functions that use parcels: coverage of parcel histograms, and disagreement of white boxes and network.
COVERAGE, DISAGREEMENT = "coverage", "disagreement"
#: Diversity alone: k-centre on the features of all images that have no label.
K_CENTRE = "k_centre"
#: Functions that use no dropout.
WITHOUT_DROPOUT = (RANDOM, COVERAGE, DISAGREEMENT, K_CENTRE)


@dataclass(frozen=True)
class PoolData:
    """Frames of active learning: a pool whose masks are the oracle, and the measured splits.

    Attributes:
        store: Path of the frame store.
        structures: Structures to segment, or unions of them (``lv+myo``); a single one gives binary segmentation.
        pool_split: Split whose annotated frames are the pool.
        val_split: Split that is measured in every phase and decides when to stop.
        test_split: Split that is measured as well and shown in the report; null shows ``val_split``.
        views: Views used; null uses all.
        phases: Phases of the beat used, ``ED`` and ``ES``; null uses every annotated frame.
    """

    store: str
    structures: tuple[str, ...] = ("lv",)
    pool_split: str = "train"
    val_split: str = "val"
    test_split: str | None = None
    views: tuple[str, ...] | None = None
    phases: tuple[str, ...] | None = ("ED", "ES")


@bounded
@dataclass(frozen=True)
class ActiveLoop:
    """Loop of active learning (EDNAS, section III-B): train, score the pool, label the best images, repeat.

    Attributes:
        functions: Acquisition functions, each with a loop of its own: ``cfe``, ``mfe``, ``mi``, ``std``,
            ``random``, ``coverage`` (images that cover the parcel histograms of the pool), ``disagreement``
            (images on which white boxes and network differ most) and ``k_centre`` (images whose features are the
            farthest from those of labelled images).
        seeds: Seeds of the repetitions: initial set, weights and draws; all functions of a seed share the initial
            set.
        initial: Number of labelled images in the first phase.
        per_phase: Number of images labelled after each phase.
        phases: Number of trainings of each loop.
        unit: Unit of labelling: an ``image``, or all images of a ``patient``, whose score is the mean over its
            images. The last patient may exceed the given number of images.
        warm_start: Whether each training starts from the weights of its loop's last phase, so that few steps per
            phase are enough; false trains every network anew, as in the study.
        two_networks: Whether a phase trains one network without dropout, which is measured, and one with it, which
            scores, as in the study; false measures and scores with one network with dropout, half the trainings.
        budget: Number of labelled images at which a loop ends; null sets no limit.
        stop_iou: IoU on ``val_split`` at which a loop ends; null sets no limit.
        passes: Number of stochastic passes of a score, T.
        diversity: Features for a diverse choice by k-centre: ``encoder`` (those of the scoring network) or a
            backbone (its CLS token); null takes the highest scores. The random loop stays random, and ``k_centre``
            uses ``encoder`` where this is null.
        candidates: With ``diversity``, images are chosen among this many times as many of the highest scores.
        parcels: Path or name of the parcel model of ``coverage`` and ``disagreement``.
        white_boxes: Paths or names of white boxes on these parcels, one for each structure, for ``disagreement``.
        targets: Values of the IoU for which the report gives the number of labels needed, with intervals.
        batch_size: Number of images scored or measured at a time.
    """

    functions: tuple[str, ...] = ("random", "mfe", "cfe", "mi", "std")
    seeds: tuple[Seed, ...] = (0,)
    initial: PositiveInt = 40
    per_phase: PositiveInt = 50
    phases: PositiveInt = 21
    unit: Literal["image", "patient"] = "image"
    warm_start: bool = False
    two_networks: bool = True
    budget: PositiveInt | None = None
    stop_iou: Annotated[float, Interval(gt=0, le=1)] | None = None
    passes: Passes = 30
    diversity: str | None = None
    candidates: PositiveInt = 5
    parcels: str | None = None
    white_boxes: tuple[str, ...] = ()
    targets: tuple[Share, ...] = ()
    batch_size: PositiveInt = 16
