"""Which frames stand on which side: unlabelled training, labels, test."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from alan.data.splits import check_split, draw_patients
from alan.data.store.reader import FrameStore
from alan.errors import SplitLeakError


@dataclass(frozen=True)
class Sides:
    """Frames of a segmentation protocol, no patient on two sides.

    Attributes:
        label: rows of ``store.labelled`` from which the white boxes learn.
        test: rows of ``store.labelled`` on which they are measured.
        train_patients: number of patients that the networks may have seen, without labels.
    """

    label: pd.DataFrame
    test: pd.DataFrame
    train_patients: int


def check_apart(sides: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Refuse a patient or a study on two sides.

    Args:
        sides: name of a side to its (patient, study) pairs; the study may be empty.

    Raises:
        SplitLeakError: names the patient or study and both sides.
    """
    rows = [(patient, side, study) for side, pairs in sides.items() for patient, study in pairs]
    # A study's name may be unique to its patient only ("study 1"), so it is compared together with the patient.
    studies = [f"{patient}/{study}" if study else "" for patient, _, study in rows]
    check_split([row[0] for row in rows], [row[1] for row in rows], studies)


def choose_sides(
    store: FrameStore,
    *,
    train_split: str | None,
    label_split: str | None,
    test_split: str,
    views: tuple[str, ...] | None,
    phases: tuple[str, ...],
    label_patients: int | None,
    seed: int,
) -> Sides:
    """Choose the frames of a protocol and check that the sides are apart.

    Args:
        store: the frame store.
        train_split: side on which networks were trained; None where they saw nothing of this store.
        label_split: side that gives labels; None where nothing is fitted.
        test_split: side that is measured.
        views: views used; None for all.
        phases: phases used.
        label_patients: number of labelled patients used; None for all.
        seed: seed of their choice.

    Raises:
        DataError: no annotated frame on a side.
        SplitLeakError: a patient or study on two sides, or one split used as two sides.
        ParameterError: more labelled patients asked for than there are.
    """
    splits = {"train_split": train_split, "label_split": label_split, "test_split": test_split}
    for (first, a), (second, b) in itertools.combinations(splits.items(), 2):
        if a == b and a is not None:
            raise SplitLeakError(f"{first} and {second} are both {a!r}: give each side a split of its own")
    test = store.labelled(split=test_split, views=views, phases=phases)
    pairs: dict[str, list[tuple[str, str]]] = {
        f"{test_split} (test)": list(zip(test["patient"], test["study"], strict=True))
    }
    label = test.iloc[:0]
    if label_split is not None:
        label = store.labelled(split=label_split, views=views, phases=phases)
        pairs[f"{label_split} (labels)"] = list(zip(label["patient"], label["study"], strict=True))
    train = {(s.patient, s.study) for s in store.select(split=train_split)} if train_split is not None else set()
    check_apart({f"{train_split} (training)": sorted(train), **pairs})
    if label_split is not None:
        drawn = draw_patients(label["patient"], label_patients, seed)
        label = label[label["patient"].isin(drawn)].reset_index(drop=True)
    return Sides(label, test, len({patient for patient, _ in train}))


def of_phase(phases: ArrayLike, phase: str) -> NDArray[np.bool_]:
    """Which rows are of a phase.

    Args:
        phases: (n,) the phase of each row.
        phase: the one that is wanted; empty for all.

    Returns:
        (n,) bool.
    """
    known = np.asarray(phases)
    return np.asarray(known == phase) if phase else np.ones(len(known), bool)
