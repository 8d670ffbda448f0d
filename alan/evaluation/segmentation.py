"""The segmentation protocol: white boxes on parcels (paper, section 4.2 and Table 2), networks and baselines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alan.data.store.reader import FrameStore
from alan.downstream.whitebox.fitting import ALL_PHASES, LabelledMaps
from alan.downstream.whitebox.opinion import ExpertOpinion
from alan.evaluation.baselines import Atlas
from alan.evaluation.gains import ensemble_gains, pixel_accuracy
from alan.evaluation.networks import NetworkMaps, describe_networks, load_networks, run_networks, values_of
from alan.evaluation.priors import check_prior
from alan.evaluation.protocols import SegmentationProtocol
from alan.evaluation.results import Result
from alan.evaluation.scoring import ManualMasks, read_manual, score
from alan.evaluation.sources import MappedSource, PriorSettings, load_sources, read_sources
from alan.evaluation.splits import EvaluationSplits, count_split, describe_store
from alan.evaluation.summary import (
    CASE_COLUMNS,
    MethodMasks,
    choose_examples,
    compare_ejection_fractions,
    compare_with_atlas,
    summarise_cases,
)
from alan.evaluation.volumes import score_volumes, summarise_volumes
from alan.evaluation.whitebox import WhiteBoxFit, describe_white_boxes, fit_source, source_opinions


def measure_segmentation(protocol: SegmentationProtocol, folder: Path) -> Result:
    """Fit the white boxes on the labelled frames, and measure them and the networks on the test frames.

    Args:
        protocol: Structures, methods and frames to measure.
        folder: Run folder; parcel maps and label maps are kept in its ``maps``.

    Returns:
        The result. A rule that selects nothing has rows with the reason, and does not end the run.

    Raises:
        ParameterError: A network segments none of the structures.
        SplitLeakError: A patient is in two splits, or a network or prior learned from test patients.
        DataError: A store or structure is missing.
        CheckpointError: A parcels file or a network cannot be read.
    """
    store = FrameStore(protocol.store)
    splits = protocol.splits(store)
    store.check_structures(protocol.structures)
    if protocol.prior is not None:
        check_prior(protocol.prior, protocol.structures, store)
    loaded = load_networks(
        protocol.networks, protocol.structures, store, splits.test, protocol.test_split, flips=protocol.flips
    )
    sources = _sources(protocol, store, splits, folder / "maps")
    opinions = source_opinions(protocol.opinions, protocol.structures, sources)
    test_frames = splits.test["frame"].to_numpy()
    networks = run_networks(loaded, store, test_frames, folder / "maps", batch_size=protocol.batch_size)
    fits: list[WhiteBoxFit] = []
    scored: list[pd.DataFrame] = []
    volumes: list[pd.DataFrame] = []
    examples: dict[str, MethodMasks] = {}
    for structure in protocol.structures:
        masks = np.asarray(store.label_maps(splits.label["label"].to_numpy(), [structure]) > 0)
        own = _fit_white_boxes(protocol, structure, sources, masks, splits.label, opinions=opinions)
        methods = [
            method for source, fit in own if (method := _white_box_masks(protocol, source, fit, splits.test))
        ]
        example = _best_on_labels(methods, own, sources)
        methods += _network_masks(protocol, structure, networks)
        if not sources and methods:
            example = methods[0]
        if protocol.atlas and masks.any():
            average = Atlas().fit(masks).predict(len(splits.test))
            methods.append(MethodMasks("atlas", "atlas", "", average, protocol.phases))
        fits += [fit for _, fit in own]
        examples |= {structure: example} if example else {}
        manual = read_manual(store, splits.test, structure)
        scored += [_score(method, manual, store, splits.test) for method in methods]
        if protocol.volumes:
            volumes += [_score_volumes(method, manual, store, splits.test) for method in methods]
    cases = pd.concat(scored, ignore_index=True) if scored else pd.DataFrame(columns=list(CASE_COLUMNS))
    models, boxes = describe_white_boxes(fits)
    arrays, chosen = choose_examples(examples, cases, store, splits.test, sources[0].test if sources else None)
    summary = {
        "store": describe_store(store),
        "leaks": store.leaks,
        "label": count_split(splits.label),
        "test": count_split(splits.test),
        "train_patients": splits.train_patients,
        "published": protocol.published,
        "rows": summarise_cases(cases, fits, protocol.phases),
        "against_atlas": compare_with_atlas(cases),
        "ejection_fraction": compare_ejection_fractions(cases),
        "volumes": _summarise_volumes(volumes),
        "networks": describe_networks(networks, protocol.structures),
        "ensembles": ensemble_gains(networks, cases),
        "accuracy": pixel_accuracy(networks, protocol.structures, store, splits.test),
        "example_methods": {name: {"method": one.method, "rule": one.rule} for name, one in examples.items()},
        "white_boxes": boxes,
        "examples": chosen,
    }
    return Result(summary, cases, models, arrays, pd.concat(volumes, ignore_index=True) if volumes else None)


def _sources(
    protocol: SegmentationProtocol, store: FrameStore, splits: EvaluationSplits, folder: Path
) -> list[MappedSource]:
    """Load the sources of parcels; k-means is fitted on the training split, or on the label split without one."""
    pool = np.zeros(0, np.int64)
    if protocol.parcels:
        sequences = store.select(split=protocol.train_split or protocol.label_split, views=protocol.views)
        frames = np.concatenate([np.arange(s.start, s.start + s.length) for s in sequences])
        n = min(len(frames), protocol.kmeans_frames)
        pool = np.sort(np.random.default_rng(protocol.seed).choice(frames, n, replace=False))
    models = load_sources(
        protocol.parcels,
        store,
        kmeans=protocol.kmeans,
        random_vit=protocol.random_vit,
        pool=pool,
        seed=protocol.seed,
    )
    prior = None
    if protocol.prior is not None:
        prior = PriorSettings(FrameStore(protocol.prior), protocol.structures, _lists(protocol))
    return read_sources(
        models,
        store,
        splits.label["frame"].to_numpy(),
        splits.test["frame"].to_numpy(),
        folder,
        prior=prior,
        batch_size=protocol.batch_size,
    )


def _lists(protocol: SegmentationProtocol) -> tuple[str, ...]:
    """Return the phases that get a list of parcels of their own."""
    return protocol.phases if protocol.per_phase else (ALL_PHASES,)


def _fit_white_boxes(
    protocol: SegmentationProtocol,
    structure: str,
    sources: Sequence[MappedSource],
    masks: NDArray[np.bool_],
    table: pd.DataFrame,
    *,
    opinions: Sequence[ExpertOpinion],
) -> list[tuple[MappedSource, WhiteBoxFit]]:
    """Fit one white box for each source and rule."""
    found = []
    for source, rule in itertools.product(sources, protocol.rules):
        labels = LabelledMaps(source.label, masks, table["patient"].to_numpy(), table["phase"].to_numpy())
        fit = fit_source(
            source,
            rule,
            structure,
            labels,
            phases=_lists(protocol),
            steps=protocol.postprocessing,
            opinions=opinions,
        )
        found.append((source, fit))
    return found


def _white_box_masks(
    protocol: SegmentationProtocol, source: MappedSource, fit: WhiteBoxFit, test: pd.DataFrame
) -> MethodMasks | None:
    """Segment the test frames by a white box; None if it selected nothing."""
    if not fit.box.segmenters:
        return None
    masks = fit.box.predict(source.test, test["phase"].to_numpy())
    return MethodMasks(fit.method, fit.kind, fit.rule, masks, fit.phases(protocol.phases))


def _best_on_labels(
    methods: Sequence[MethodMasks],
    own: Sequence[tuple[MappedSource, WhiteBoxFit]],
    sources: Sequence[MappedSource],
) -> MethodMasks | None:
    """Choose the examples of the report: the first source, by the rule that is best on the labelled frames.

    A white box with a list for every phase comes before one that lacks a phase.
    """
    fits = [fit for source, fit in own if source is sources[0] and fit.box.segmenters]
    if not fits:
        return None
    best = max(fits, key=lambda fit: (fit.box.complete, np.nan_to_num(fit.mean_label_dice, nan=-1.0)))
    return next(method for method in methods if (method.method, method.rule) == (best.method, best.rule))


def _network_masks(
    protocol: SegmentationProtocol, structure: str, networks: Sequence[NetworkMaps]
) -> list[MethodMasks]:
    """Take the masks of a structure from the label maps of the networks that segment it."""
    return [
        MethodMasks(network.name, network.kind, "", np.isin(network.labels, values), protocol.phases)
        for network in networks
        if (values := values_of(network.network.structures, structure))
    ]


def _score(method: MethodMasks, manual: ManualMasks, store: FrameStore, test: pd.DataFrame) -> pd.DataFrame:
    """Measure the masks of a method in the phases that it can segment."""
    title = f"{method.method}, {method.rule}" if method.rule else method.method
    cases = score(method.masks, manual, store, test, f"{title}, {manual.structure}")
    return _add_names(cases, method, manual.structure)


def _score_volumes(
    method: MethodMasks, manual: ManualMasks, store: FrameStore, test: pd.DataFrame
) -> pd.DataFrame:
    """Measure the volumes of a method in the phases that it can segment."""
    return _add_names(score_volumes(method.masks, manual, store, test), method, manual.structure)


def _add_names(cases: pd.DataFrame, method: MethodMasks, structure: str) -> pd.DataFrame:
    """Put the names of the method and the structure first, and keep the phases that the method can segment."""
    names = {"method": method.method, "kind": method.kind, "rule": method.rule, "structure": structure}
    for place, column in enumerate(CASE_COLUMNS):
        cases.insert(place, column, names[column])
    return cases[cases["phase"].isin(method.phases)]


def _summarise_volumes(volumes: Sequence[pd.DataFrame]) -> dict[str, Any] | None:
    """Summarise volumes and their ejection fractions; None where none were measured."""
    if not volumes:
        return None
    table = pd.concat(volumes, ignore_index=True)
    return {
        "rows": summarise_volumes(table, CASE_COLUMNS),
        "ejection_fraction": compare_ejection_fractions(table),
    }
