"""Overlap from counts, in NumPy and in PyTorch."""

import math

import numpy as np
import pytest
import torch

from alan.backbone.simulation.objective import frame_dice
from alan.evaluation.metrics import dice, iou
from alan.overlap import dice_of_counts, iou_of_counts
from alan.supervised.scores import SegmentationScores


@pytest.mark.parametrize("make", [np.array, torch.tensor])
def test_overlap_matches_hand_computed_values(make):
    both, total = make([3, 0, 0]), make([8, 5, 0])
    found = dice_of_counts(both, total)
    assert found[:2].tolist() == [0.75, 0.0]
    assert math.isnan(found[2])
    found = iou_of_counts(both, total)
    assert found[:2].tolist() == pytest.approx([0.6, 0.0])
    assert math.isnan(found[2])


def test_the_undefined_case_is_defined_once(monkeypatch):
    """The overlap of two empty masks follows the one definition in masks, trainings and simulation."""
    empty, labels = np.zeros((1, 4, 4), bool), torch.zeros(1, 4, 4, dtype=torch.long)
    for value in (math.nan, 0.5):
        monkeypatch.setattr("alan.overlap.UNDEFINED", value)
        scores = SegmentationScores(["lv"])
        scores.update(labels, labels)
        found = [
            *dice(empty, empty),
            *iou(empty, empty),
            *frame_dice(labels, labels, 1)[0],
            scores.compute()["dice"],
        ]
        np.testing.assert_array_equal(np.array([float(x) for x in found]), value)
