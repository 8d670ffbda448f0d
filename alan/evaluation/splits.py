"""Frames of an evaluation: those that give labels and those that are measured, without a shared patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alan.data.splits import check_different, check_split, draw_patients
from alan.data.store.reader import FrameStore
from alan.errors import SplitLeakError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class EvaluationSplits:
    """Frames of a protocol; no patient is in two splits.

    Attributes:
        label: Rows of ``store.labelled`` from which methods learn.
        test: Rows of ``store.labelled`` that are measured.
        train_patients: Number of patients that the networks may have seen without labels.
    """

    label: pd.DataFrame
    test: pd.DataFrame
    train_patients: int


def check_disjoint(splits: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Refuse a patient, or a study of an unknown patient, in two splits.

    Args:
        splits: Mapping from the name of a split to its (patient, study) pairs; either may be empty.

    Raises:
        SplitLeakError: Names the patient or study and both splits.
    """
    rows = [(patient, split, study) for split, pairs in splits.items() for patient, study in pairs]
    # A study's name may be unique to its patient only ("study 1"), so studies of known patients are not compared.
    studies = ["" if patient else study for patient, _, study in rows]
    check_split([row[0] for row in rows], [row[1] for row in rows], studies)


def check_unseen(
    provenance: Mapping[str, Any], name: str, store: FrameStore, split: str, *, chosen: bool = True
) -> None:
    """Refuse a network that learned from a split of a store.

    Args:
        provenance: Origin of the network.
        name: Name or file of the network, for the message.
        store: The frame store.
        split: Split whose patients the network must not have seen.
        chosen: Whether a network whose checkpoint was chosen on the split is refused, too.

    Raises:
        SplitLeakError: The network was trained (or chosen) on the split.
    """
    known = (provenance.get("train_split"), provenance.get("val_split") if chosen else None)
    if store.fingerprint in (provenance.get("stores") or ()) and split in known:
        raise SplitLeakError(
            f"{name} learned from split {split!r} of this store: give a network trained on other patients, or "
            "measure another split"
        )


def read_splits(
    store: FrameStore,
    *,
    train_split: str | None,
    label_split: str | None,
    test_split: str,
    views: Sequence[str] | None,
    phases: Sequence[str],
    label_patients: int | None,
    seed: int,
) -> EvaluationSplits:
    """Read the frames of a protocol and check that its splits share no patient.

    Args:
        store: Frame store.
        train_split: Split on which networks were trained; None if they saw nothing of this store.
        label_split: Split that gives labels; None if nothing is fitted.
        test_split: Split that is measured.
        views: Views to use; None uses all.
        phases: Phases to use.
        label_patients: Number of labelled patients to use; None uses all.
        seed: Seed of their draw.

    Raises:
        DataError: A split has no annotated frame.
        SplitLeakError: A patient or study is in two splits, or one split has two uses.
        ParameterError: There are fewer labelled patients than asked for.
    """
    check_different(train_split=train_split, label_split=label_split, test_split=test_split)
    test = store.labelled(split=test_split, views=views, phases=phases)
    pairs: dict[str, list[tuple[str, str]]] = {
        f"{test_split} (test)": list(zip(test["patient"], test["study"], strict=True))
    }
    label = test.iloc[:0]
    if label_split is not None:
        label = store.labelled(split=label_split, views=views, phases=phases)
        pairs[f"{label_split} (labels)"] = list(zip(label["patient"], label["study"], strict=True))
    train = {(s.patient, s.study) for s in store.select(split=train_split)} if train_split is not None else set()
    check_disjoint({f"{train_split} (training)": sorted(train), **pairs})
    if label_split is not None:
        drawn = draw_patients(label["patient"], label_patients, seed)
        label = label[label["patient"].isin(drawn)].reset_index(drop=True)
    return EvaluationSplits(label, test, len({patient for patient, _ in train}))


def describe_store(store: FrameStore) -> dict[str, Any]:
    """Describe a frame store for ``results.json``."""
    return {
        "name": store.name,
        "fingerprint": store.fingerprint,
        "size": store.size,
        "skipped": store.skipped,
        "simulated": store.simulated,
    }


def count_split(table: pd.DataFrame) -> dict[str, Any]:
    """Count the patients, frames, views and phases of a split."""
    return {
        "patients": int(table["patient"].nunique()),
        "frames": len(table),
        "views": {str(view): int(n) for view, n in table["view"].value_counts().sort_index().items()},
        "phases": {str(phase): int(n) for phase, n in table["phase"].value_counts().sort_index().items()},
    }
