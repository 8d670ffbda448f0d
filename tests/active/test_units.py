"""Units of labelling: images grouped by patient."""

import numpy as np

from alan.active.protocol import Units


def test_images_are_grouped_by_patient():
    units = Units(["b", "a", "b", "c", "a"], 5)
    assert len(units) == 3
    assert units.of.tolist() == [0, 1, 0, 2, 1]
    found, means = units.mean(np.array([1, 2, 4]), np.array([1.0, 5.0, 2.0]))
    assert found.tolist() == [0, 1]
    assert means.tolist() == [5.0, 1.5]
    assert units.mean(np.array([0, 2]), np.array([[1, 2], [3, 6]]))[1].tolist() == [[2, 4]]
    assert units.take([2, 0, 1], 2) == [3, 0, 2]
    assert units.take([0], 9) == [0, 2]


def test_images_can_be_labelled_one_by_one():
    units = Units(None, 4)
    assert units.take([3, 1, 0], 2) == [3, 1]
    assert units.mean(np.array([1, 3]), np.array([0.5, 0.25]))[1].tolist() == [0.5, 0.25]
