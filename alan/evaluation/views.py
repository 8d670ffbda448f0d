"""The view protocol: recognise the view of a frame by its nearest neighbours (paper, section 4.3 and Table 3)."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, recall_score

from alan.backbone.base import Backbone
from alan.backbone.load import load_backbone, random_like
from alan.data.splits import check_different
from alan.data.store.layout import StoredSequence
from alan.data.store.reader import FrameStore
from alan.devices import choose_device
from alan.downstream.neighbors import WeightedKNNClassifier
from alan.errors import DataError, SplitLeakError
from alan.evaluation.baselines import pixel_features
from alan.evaluation.intervals import bootstrap_interval, percentile_interval, resample_weights
from alan.evaluation.protocols import ViewProtocol
from alan.evaluation.results import Result
from alan.evaluation.splits import check_disjoint, describe_store
from alan.progress import batches

_log = logging.getLogger(__name__)


def measure_views(protocol: ViewProtocol) -> Result:
    """Fit the nearest neighbours on the training split and measure them on the test split.

    Args:
        protocol: Views, methods and frames to measure.

    Returns:
        The result; ``summary["leaks"]`` describes how the split leaks, and is empty if it does not.

    Raises:
        SplitLeakError: A patient or study is in both splits, and the store does not announce that it leaks.
        DataError: A split has no sequence of these views, or the training split lacks one of the views.
        CheckpointError: The backbone cannot be loaded.
    """
    store = FrameStore(protocol.store)
    train = store.select(split=protocol.train_split, views=protocol.views)
    test = store.select(split=protocol.test_split, views=protocol.views)
    leaks = _check_leak(store, protocol, train, test)
    missing = [view for view in protocol.views if view not in {s.view for s in train}]
    if missing:
        raise DataError(f"{store.name}: no {missing[0]} in split {protocol.train_split!r}: leave it out of views")
    backbone = load_backbone(protocol.backbone)
    frames = [store.frames([_frame(sequence) for sequence in split]) for split in (train, test)]
    methods: list[tuple[str, str, list[NDArray[np.float32]]]] = [
        ("backbone", "backbone", [_cls(backbone, part, protocol.batch_size, "backbone") for part in frames])
    ]
    if protocol.random_vit:
        random = random_like(backbone, protocol.seed)
        methods.append(
            ("random ViT", "random", [_cls(random, part, protocol.batch_size, "random") for part in frames])
        )
    if protocol.pixels:
        methods.append(("standardised pixels", "pixels", [pixel_features(part) for part in frames]))
    rows, cases = [], []
    for name, kind, (x, queries) in methods:
        for k in protocol.k:
            neighbours = WeightedKNNClassifier(n_neighbors=k, temperature=protocol.temperature)
            table = _predict(neighbours.fit(x, [s.view for s in train]), queries, test)
            rows.append({"method": name, "kind": kind, "k": k, **_summary(table, protocol.views, protocol.seed)})
            table.insert(0, "k", k)
            table.insert(0, "method", name)
            cases.append(table)
    summary = {
        "store": describe_store(store),
        "leaks": leaks,
        "views": list(protocol.views),
        "train": _count(train),
        "test": _count(test),
        "published": protocol.published,
        "rows": rows,
    }
    return Result(summary, pd.concat(cases, ignore_index=True))


def _check_leak(
    store: FrameStore, protocol: ViewProtocol, train: tuple[StoredSequence, ...], test: tuple[StoredSequence, ...]
) -> str:
    """Refuse a leak unless the store announces one; return the announcement, or an empty string."""
    splits = {protocol.train_split: train, protocol.test_split: test}
    check_different(train_split=protocol.train_split, test_split=protocol.test_split)
    try:
        check_disjoint({name: [(s.patient, s.study) for s in split] for name, split in splits.items()})
    except SplitLeakError as error:
        if not store.leaks:
            raise
        _log.warning("%s: %s", store.name, error)
        return store.leaks
    return ""


def _frame(sequence: StoredSequence) -> int:
    return sequence.start + sequence.length // 2 if sequence.ed is None else sequence.ed


def _cls(backbone: Backbone, frames: NDArray[np.uint8], batch_size: int, name: str) -> NDArray[np.float32]:
    """Compute CLS features (n, D)."""
    backbone = backbone.to(choose_device())
    with torch.inference_mode():
        parts = batches(len(frames), batch_size, f"features: {name}")
        return np.concatenate([backbone(frames[part]).cls.cpu().numpy() for part in parts])


def _predict(
    classifier: WeightedKNNClassifier, queries: NDArray[np.float32], test: tuple[StoredSequence, ...]
) -> pd.DataFrame:
    """Make one row per test image: its names, its view, the predicted view and its share of the votes."""
    votes = classifier.predict_proba(queries)
    predicted = classifier.classes_[votes.argmax(axis=1)]
    rows = {name: [getattr(s, name) for s in test] for name in ("id", "patient", "study", "view")}
    table = pd.DataFrame({**rows, "predicted": predicted, "votes": votes.max(axis=1)})
    table["correct"] = table["view"] == table["predicted"]
    return table


def _summary(table: pd.DataFrame, views: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Compute accuracies (total, by view, balanced over views) with intervals, and the confusion matrix."""
    by_view = {
        view: bootstrap_interval(part["correct"], part["patient"], seed=seed).to_dict()
        for view in views
        if len(part := table[table["view"] == view])
    }
    balanced = recall_score(table["view"], table["predicted"], labels=list(by_view), average="macro")
    low, high = _balanced_interval(table, seed)
    return {
        "total": bootstrap_interval(table["correct"], table["patient"], seed=seed).to_dict(),
        "balanced": {"mean": balanced, "low": low, "high": high},
        "by_view": by_view,
        "confusion": confusion_matrix(table["view"], table["predicted"], labels=list(views)).tolist(),
    }


def _balanced_interval(table: pd.DataFrame, seed: int, n_resamples: int = 2000) -> tuple[float, float]:
    """Compute the interval of the balanced accuracy over patients; a resample without a view is left out."""
    patients, index = np.unique(table["patient"].to_numpy(dtype=str), return_inverse=True)
    if len(patients) < 2:
        return float("nan"), float("nan")
    weights = resample_weights(len(patients), n_resamples, seed)  # (R, P)
    recalls = []
    for view in sorted(set(table["view"])):
        of_view = (table["view"] == view).to_numpy()
        hits = np.bincount(index, weights=of_view & table["correct"].to_numpy(), minlength=len(patients))
        counts = np.bincount(index, weights=of_view, minlength=len(patients))
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls.append((weights @ hits) / (weights @ counts))
    return percentile_interval(np.mean(recalls, axis=0), 0.95)


def _count(sequences: tuple[StoredSequence, ...]) -> dict[str, Any]:
    views = pd.Series([s.view for s in sequences]).value_counts().sort_index()
    return {
        "patients": len({s.patient for s in sequences}),
        "images": len(sequences),
        "views": {str(view): int(n) for view, n in views.items()},
    }
