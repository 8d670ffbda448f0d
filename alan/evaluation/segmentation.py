"""Parcels to segments, measured: the paper's section 4.2 and Table 2, with the baselines beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.data.store import FrameStore
from alan.downstream.postprocess import PostProcessing
from alan.errors import ParameterError
from alan.evaluation.baselines import Atlas
from alan.evaluation.cases import Sides, choose_sides
from alan.evaluation.published import PublishedSegmentation
from alan.evaluation.results import Result
from alan.evaluation.scoring import Truth, read_truth, score
from alan.evaluation.sources import read_sources
from alan.evaluation.summary import (
    CASE_COLUMNS,
    choose_examples,
    compare_ejection_fractions,
    compare_with_atlas,
    count_side,
    summarise,
)
from alan.evaluation.whitebox import Fitted, describe_white_boxes, fit_white_box, segment


@dataclass(frozen=True)
class SegmentationProtocol:
    """What is measured, on which frames.

    Attributes:
        store: path of the frame store.
        parcels: name shown in the report to the path of a parcels file.
        structures: structures to segment.
        rules: selection rules, each measured under its own name.
        train_split: side on which the networks were trained, without labels; None where they saw nothing of this
            store. Only checked for patients it shares with the other sides, and used to fit the k-means baselines.
        label_split: side from which the white boxes learn.
        label_patients: number of labelled patients used, drawn by ``seed``; None for all.
        test_split: side that is measured.
        views: views used; None for all.
        phases: phases used, each measured by itself.
        kmeans: numbers of parcels K of the k-means baseline on the same backbone; empty leaves it out.
        kmeans_frames: frames on which k-means is fitted, drawn by ``seed``.
        random_vit: also k-means on an untrained backbone of the same shape.
        atlas: also the average mask of the labelled cases.
        postprocessing: the steps from parcels to segment.
        published: data set whose published rows are shown beside ours; only where the protocol is the paper's.
        seed: of every draw.
        batch_size: frames through the network at a time.
    """

    store: str
    parcels: dict[str, str]
    structures: tuple[str, ...] = ("lv", "la")
    rules: tuple[Literal["paper", "relaxed", "greedy"], ...] = ("paper", "relaxed", "greedy")
    train_split: str | None = "train"
    label_split: str = "val"
    label_patients: int | None = None
    test_split: str = "test"
    views: tuple[str, ...] | None = None
    phases: tuple[str, ...] = ("ED", "ES")
    kmeans: tuple[int, ...] = (64,)
    kmeans_frames: int = 500
    random_vit: bool = True
    atlas: bool = True
    postprocessing: PostProcessing = field(default_factory=PostProcessing)
    published: PublishedSegmentation | None = None
    seed: int = 0
    batch_size: int = 32


def check_protocol(protocol: SegmentationProtocol) -> None:
    """Refuse a protocol that measures nothing or twice.

    Raises:
        ParameterError: an empty or repeated list, or a number out of range.
    """
    for name in ("parcels", "structures", "rules", "phases"):
        values = list(getattr(protocol, name))
        if not values or len(set(values)) < len(values):
            raise ParameterError(f"{name}={values}: give at least one, each once")
    for name, low in (("batch_size", 1), ("kmeans_frames", 1)):
        if getattr(protocol, name) < low:
            raise ParameterError(f"{name}={getattr(protocol, name)}: give at least {low}")
    if any(k < 2 for k in protocol.kmeans):
        raise ParameterError(f"kmeans={list(protocol.kmeans)}: a clustering needs K of at least 2")


def measure_segmentation(protocol: SegmentationProtocol, folder: Path) -> Result:
    """Fit the white boxes on the labelled frames and measure them on the test frames.

    Args:
        protocol: what to measure.
        folder: run folder; parcel maps are kept in its ``maps``.

    Returns:
        The result. A rule that chooses nothing is a row of its own with the reason, and all other rows stand.

    Raises:
        ParameterError: the protocol contradicts itself.
        SplitLeakError: a patient stands on two sides.
        DataError: a store or structure that is not there.
        CheckpointError: a parcels file that cannot be read.
    """
    check_protocol(protocol)
    store = FrameStore(protocol.store)
    sides = choose_sides(
        store,
        train_split=protocol.train_split,
        label_split=protocol.label_split,
        test_split=protocol.test_split,
        views=protocol.views,
        phases=protocol.phases,
        label_patients=protocol.label_patients,
        seed=protocol.seed,
    )
    for structure in protocol.structures:  # refuse an unknown one before the long work
        store.masks([], structure)
    sources = read_sources(
        protocol.parcels,
        store,
        sides.label["frame"].to_numpy(),
        sides.test["frame"].to_numpy(),
        folder / "maps",
        kmeans=protocol.kmeans,
        random_vit=protocol.random_vit,
        pool=_pool(protocol, store),
        seed=protocol.seed,
        batch_size=protocol.batch_size,
    )
    fitted: list[Fitted] = []
    scored: list[pd.DataFrame] = []
    shown: dict[str, tuple[Fitted, NDArray[np.bool_]]] = {}
    for structure in protocol.structures:
        truth = read_truth(store, sides.test, structure)
        masks = store.masks(sides.label["label"].to_numpy(), structure)
        for source in sources:
            for rule in protocol.rules:
                patients = sides.label["patient"].to_numpy()
                one = fit_white_box(
                    source, rule, structure, masks=masks, patients=patients, postprocessing=protocol.postprocessing
                )
                fitted.append(one)
                if one.segmenter is None:
                    continue
                predicted = segment(one.segmenter, source.test)
                scored.append(_measured(predicted, truth, store, sides, (source.name, source.kind, rule)))
                # Shown in the report: the first parcels file, by the rule that is best on the labelled frames.
                best = shown.get(structure)
                if source is sources[0] and (best is None or one.label_dice > best[0].label_dice):
                    shown[structure] = (one, predicted)
        if protocol.atlas and masks.any():
            predicted = Atlas().fit(masks).predict(len(sides.test))
            scored.append(_measured(predicted, truth, store, sides, ("atlas", "atlas", "")))
    cases = pd.concat(scored, ignore_index=True) if scored else pd.DataFrame(columns=list(CASE_COLUMNS))
    models, boxes = describe_white_boxes(fitted)
    arrays, chosen = choose_examples(shown, cases, store, sides.test, sources[0].test)
    summary = {
        "store": {
            "name": store.name,
            "fingerprint": store.fingerprint,
            "size": store.size,
            "skipped": store.skipped,
        },
        "leaks": store.leaks,
        "label": count_side(sides.label),
        "test": count_side(sides.test),
        "train_patients": sides.train_patients,
        "published": protocol.published,
        "rows": summarise(cases, fitted, protocol.phases),
        "against_atlas": compare_with_atlas(cases),
        "ejection_fraction": compare_ejection_fractions(cases),
        "shown": {structure: {"method": one.method, "rule": one.rule} for structure, (one, _) in shown.items()},
        "white_boxes": boxes,
        "examples": chosen,
    }
    return Result(summary, cases, models, arrays)


def _pool(protocol: SegmentationProtocol, store: FrameStore) -> NDArray[np.int64]:
    """Frames on which k-means is fitted: drawn from the training side, or the label side where there is none."""
    sequences = store.select(split=protocol.train_split or protocol.label_split, views=protocol.views)
    frames = np.concatenate([np.arange(s.start, s.start + s.length) for s in sequences])
    n = min(len(frames), protocol.kmeans_frames)
    return np.sort(np.random.default_rng(protocol.seed).choice(frames, n, replace=False))


def _measured(
    predicted: NDArray[np.bool_], truth: Truth, store: FrameStore, sides: Sides, names: tuple[str, str, str]
) -> pd.DataFrame:
    """Score masks and put what was measured in front of the measurements."""
    method, kind, rule = names
    cases = score(predicted, truth, store, sides.test, f"{method}, {rule or 'no rule'}, {truth.structure}")
    for column, value in (("structure", truth.structure), ("rule", rule), ("kind", kind), ("method", method)):
        cases.insert(0, column, value)
    return cases
