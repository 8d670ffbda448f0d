"""The segmentation protocol: white boxes on parcels (paper, section 4.2 and Table 2), networks and baselines."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alan.data.store.reader import FrameStore
from alan.evaluation.baselines import Atlas
from alan.evaluation.maps import check_prior
from alan.evaluation.networks import (
    NetworkMaps,
    describe_networks,
    ensemble_gains,
    load_networks,
    pixel_accuracy,
    run_networks,
    values_of,
)
from alan.evaluation.protocols import SegmentationProtocol
from alan.evaluation.results import Result
from alan.evaluation.scoring import ManualMasks, read_manual, score, score_volumes, summarise_volumes
from alan.evaluation.sources import MappedSource, read_sources
from alan.evaluation.splits import count_split, describe_store
from alan.evaluation.summary import (
    CASE_COLUMNS,
    MethodMasks,
    choose_examples,
    compare_ejection_fractions,
    compare_with_atlas,
    summarise_cases,
)
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
    loaded = load_networks(protocol, store, splits.test)
    sources = read_sources(protocol, store, splits, folder / "maps")
    opinions = source_opinions(protocol.opinions, protocol.structures, sources)
    networks = run_networks(loaded, store, splits.test, folder / "maps", protocol.batch_size)
    fits: list[WhiteBoxFit] = []
    scored: list[pd.DataFrame] = []
    volumes: list[pd.DataFrame] = []
    examples: dict[str, MethodMasks] = {}
    for structure in protocol.structures:
        masks = np.asarray(store.label_maps(splits.label["label"].to_numpy(), [structure]) > 0)
        own = [
            fit_source(protocol, source, rule, structure, masks=masks, table=splits.label, opinions=opinions)
            for source, rule in itertools.product(sources, protocol.rules)
        ]
        methods = [
            MethodMasks(
                fit.source.name,
                fit.source.kind,
                fit.rule,
                fit.box.predict(fit.source.test, splits.test["phase"].to_numpy()),
                fit.phases(protocol.phases),
            )
            for fit in own
            if fit.box.segmenters
        ]
        example = _best_on_labels(methods, own, sources)
        methods += _network_masks(protocol, structure, networks)
        if not sources and methods:
            example = methods[0]
        if protocol.atlas and masks.any():
            average = Atlas().fit(masks).predict(len(splits.test))
            methods.append(MethodMasks("atlas", "atlas", "", average, protocol.phases))
        fits += own
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


def _best_on_labels(
    methods: Sequence[MethodMasks], fits: Sequence[WhiteBoxFit], sources: Sequence[MappedSource]
) -> MethodMasks | None:
    """Choose the examples of the report: the first source, by the rule that is best on the labelled frames.

    A white box with a list for every phase comes before one that lacks a phase.
    """
    own = [fit for fit in fits if fit.source is sources[0] and fit.box.segmenters]
    if not own:
        return None
    best = max(own, key=lambda fit: (fit.box.complete, np.nan_to_num(fit.mean_label_dice, nan=-1.0)))
    return next(method for method in methods if (method.method, method.rule) == (best.source.name, best.rule))


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
