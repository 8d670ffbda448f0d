"""Segments, measured: white boxes on parcels (the paper's section 4.2 and Table 2), networks, and baselines."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import ParameterError
from alan.evaluation.baselines import Atlas
from alan.evaluation.gains import ensemble_gains, pixel_accuracy
from alan.evaluation.networks import describe_networks, load_networks, run_networks, values_of
from alan.evaluation.published import PublishedSegmentation
from alan.evaluation.results import Result
from alan.evaluation.scoring import Truth, read_truth, score
from alan.evaluation.sources import read_sources
from alan.evaluation.splits import EvaluationSplits, count_split, describe_store, read_splits
from alan.evaluation.summary import (
    CASE_COLUMNS,
    Shown,
    choose_examples,
    compare_ejection_fractions,
    compare_with_atlas,
    summarise,
)
from alan.evaluation.whitebox import Fitted, describe_white_boxes, fit_white_box, segment_phases


@dataclass(frozen=True)
class SegmentationProtocol:
    """What is measured, on which frames.

    Attributes:
        store: path of the frame store.
        parcels: name shown in the report to the path of a parcels file; may be empty.
        networks: name shown in the report to a ``segmenter.safetensors``, an ``ensemble.json``, or the JSON of
            soft parcels. Where there are no parcels, the report's examples are those of the first.
        structures: structures to segment; unions are written ``lv+myo``.
        rules: selection rules, each measured under its own name.
        train_split: side on which the networks were trained, without labels; None where they saw nothing of this
            store. Only checked for patients it shares with the other sides, and used to fit the k-means baselines.
            What a network of ``networks`` learnt from is read from its file.
        label_split: side from which white boxes and atlas learn; None where there are neither.
        label_patients: number of labelled patients used, drawn by ``seed``; None for all.
        test_split: side that is measured.
        views: views used; None for all.
        phases: phases used, each measured by itself.
        per_phase: a white box for each phase, learnt from its labelled frames alone and used on its test frames,
            in place of one for all: borders that lie too far inside at ED and too far outside at ES even out, and
            with them the ejection fraction.
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
    parcels: dict[str, str] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)
    structures: tuple[str, ...] = ("lv", "la")
    rules: tuple[Literal["paper", "relaxed", "greedy", "beta"], ...] = ("paper", "relaxed", "greedy")
    train_split: str | None = "train"
    label_split: str | None = "val"
    label_patients: int | None = None
    test_split: str = "test"
    views: tuple[str, ...] | None = None
    phases: tuple[str, ...] = ("ED", "ES")
    per_phase: bool = False
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
    if not (protocol.parcels or protocol.networks or protocol.atlas):
        raise ParameterError("parcels and networks are empty and atlas is false: give at least one to measure")
    if protocol.label_split is None and (protocol.parcels or protocol.atlas):
        raise ParameterError(
            "label_split is null, but parcels and atlas learn from labels: name a split, or drop both"
        )
    both = sorted({"atlas", *protocol.parcels} & set(protocol.networks))
    if both:
        raise ParameterError(
            f"networks has {both[0]!r}, the name of another row: give each method a name of its own"
        )
    for name in ("structures", "rules", "phases"):
        values = list(getattr(protocol, name))
        if not values or len(set(values)) < len(values):
            raise ParameterError(f"{name}={values}: give at least one, each once")
    for name, low in (("batch_size", 1), ("kmeans_frames", 1)):
        if getattr(protocol, name) < low:
            raise ParameterError(f"{name}={getattr(protocol, name)}: give at least {low}")
    if any(k < 2 for k in protocol.kmeans):
        raise ParameterError(f"kmeans={list(protocol.kmeans)}: a clustering needs K of at least 2")


def measure_segmentation(protocol: SegmentationProtocol, folder: Path) -> Result:
    """Fit the white boxes on the labelled frames and measure them, and the networks, on the test frames.

    Args:
        protocol: what to measure.
        folder: run folder; parcel maps and label maps are kept in its ``maps``.

    Returns:
        The result. A rule that chooses nothing is a row of its own with the reason, and all other rows stand.

    Raises:
        ParameterError: the protocol contradicts itself, or a network segments none of its structures.
        SplitLeakError: a patient stands on two sides, or a network learnt from test patients.
        DataError: a store or structure that is not there.
        CheckpointError: a parcels file or a network that cannot be read.
    """
    check_protocol(protocol)
    store = FrameStore(protocol.store)
    splits = read_splits(
        store,
        train_split=protocol.train_split,
        label_split=protocol.label_split,
        test_split=protocol.test_split,
        views=protocol.views,
        phases=protocol.phases,
        label_patients=protocol.label_patients,
        seed=protocol.seed,
    )
    store.check_structures(protocol.structures)  # refuse an unknown one before the long work
    loaded = load_networks(protocol.networks, protocol.structures, store, splits.test, protocol.test_split)
    test_frames = splits.test["frame"].to_numpy()
    sources = read_sources(
        protocol.parcels,
        store,
        splits.label["frame"].to_numpy(),
        test_frames,
        folder / "maps",
        kmeans=protocol.kmeans,
        random_vit=protocol.random_vit,
        pool=_pool(protocol, store),
        seed=protocol.seed,
        batch_size=protocol.batch_size,
    )
    networks = run_networks(loaded, store, test_frames, folder / "maps", batch_size=protocol.batch_size)
    fitted: list[Fitted] = []
    scored: list[pd.DataFrame] = []
    shown: dict[str, Shown] = {}
    for structure in protocol.structures:
        truth = read_truth(store, splits.test, structure)
        masks = store.label_maps(splits.label["label"].to_numpy(), [structure]) > 0
        for source, rule in itertools.product(sources, protocol.rules):
            white_boxes = [
                fit_white_box(
                    source,
                    rule,
                    structure,
                    masks=masks,
                    patients=splits.label["patient"].to_numpy(),
                    phases=splits.label["phase"].to_numpy(),
                    phase=phase,
                    postprocessing=protocol.postprocessing,
                )
                for phase in (protocol.phases if protocol.per_phase else ("",))
            ]
            fitted += white_boxes
            predicted = segment_phases(white_boxes, source.test, splits.test["phase"].to_numpy())
            if predicted is None:
                continue
            label_dice = float(np.mean([one.label_dice for one in white_boxes]))
            row = Shown(source.name, source.kind, rule, predicted, label_dice)
            scored.append(_measured(row, truth, store, splits))
            # Shown in the report: the first parcels file, by the rule that is best on the labelled frames.
            if source is sources[0] and (structure not in shown or label_dice > shown[structure].label_dice):
                shown[structure] = row
        for network in networks:
            values = values_of(network.network.structures, structure)
            if values:
                row = Shown(network.name, network.kind, "", np.isin(network.labels, values), float("nan"))
                scored.append(_measured(row, truth, store, splits))
                if not sources:
                    shown.setdefault(structure, row)
        if protocol.atlas and masks.any():
            average = Atlas().fit(masks).predict(len(splits.test))
            scored.append(_measured(Shown("atlas", "atlas", "", average, float("nan")), truth, store, splits))
    cases = pd.concat(scored, ignore_index=True) if scored else pd.DataFrame(columns=list(CASE_COLUMNS))
    models, boxes = describe_white_boxes(fitted)
    arrays, chosen = choose_examples(shown, cases, store, splits.test, sources[0].test if sources else None)
    summary = {
        "store": describe_store(store),
        "leaks": store.leaks,
        "label": count_split(splits.label),
        "test": count_split(splits.test),
        "train_patients": splits.train_patients,
        "published": protocol.published,
        "rows": summarise(cases, fitted, protocol.phases),
        "against_atlas": compare_with_atlas(cases),
        "ejection_fraction": compare_ejection_fractions(cases),
        "networks": describe_networks(networks, protocol.structures),
        "ensembles": ensemble_gains(networks, cases),
        "accuracy": pixel_accuracy(networks, protocol.structures, store, splits.test),
        "shown": {structure: {"method": one.method, "rule": one.rule} for structure, one in shown.items()},
        "white_boxes": boxes,
        "examples": chosen,
    }
    return Result(summary, cases, models, arrays)


def _pool(protocol: SegmentationProtocol, store: FrameStore) -> NDArray[np.int64]:
    """Frames on which k-means is fitted: drawn from the training side, or the label side where there is none."""
    if not protocol.parcels:
        return np.zeros(0, np.int64)
    sequences = store.select(split=protocol.train_split or protocol.label_split, views=protocol.views)
    frames = np.concatenate([np.arange(s.start, s.start + s.length) for s in sequences])
    n = min(len(frames), protocol.kmeans_frames)
    return np.sort(np.random.default_rng(protocol.seed).choice(frames, n, replace=False))


def _measured(row: Shown, truth: Truth, store: FrameStore, splits: EvaluationSplits) -> pd.DataFrame:
    """Score masks and put what was measured in front of the measurements."""
    what = f"{row.method}, {row.rule}" if row.rule else row.method
    cases = score(row.masks, truth, store, splits.test, f"{what}, {truth.structure}")
    names = (("structure", truth.structure), ("rule", row.rule), ("kind", row.kind), ("method", row.method))
    for column, value in names:
        cases.insert(0, column, value)
    return cases
