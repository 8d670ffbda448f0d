import re

import numpy as np
import pytest

from alan.data.structures import (
    STRUCTURES,
    check_structures,
    label_colour,
    label_names,
    label_palette,
    label_value,
    masks_from_labels,
    n_classes,
    parts,
)
from alan.errors import DataError, ParameterError


def test_label_values_are_fixed_for_known_names():
    assert label_names(("rv", "lv")) == STRUCTURES
    assert label_value("rv", label_names(("rv", "lv"))) == 4
    assert label_names(("valve", "lv")) == ("valve", "lv")
    assert label_value("lv", ("valve", "lv")) == 2
    with pytest.raises(DataError, match="did you mean 'valve'"):
        label_value("valv", ("valve", "lv"))


def test_masks_are_taken_from_labels():
    maps = np.array([[[0, 1, 3]], [[3, 2, 2]]], np.uint8)
    masks = masks_from_labels(maps, ("lv", "la"))
    assert masks["lv"].tolist() == [[[False, True, False]], [[False, False, False]]]
    assert masks["la"].tolist() == [[[False, False, True]], [[True, False, False]]]


def test_structures_choose_channels_of_the_logits():
    assert n_classes(check_structures(["lv"])) == 1
    assert n_classes(check_structures(["lv+myo", "la"])) == 3
    assert parts("lv+myo") == ("lv", "myo")


@pytest.mark.parametrize(
    ("structures", "message"),
    [([], "structures is empty"), (["lv", "lv+myo"], "'lv' is given twice"), (["lv+"], "has an empty name")],
)
def test_ambiguous_structures_are_refused(structures, message):
    with pytest.raises(ParameterError, match=message):
        check_structures(structures)


def test_every_label_value_has_its_own_colour():
    colours = [label_colour(value) for value in range(256)]
    assert colours[0] == "#000000"
    assert len(set(colours)) == 256
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for colour in colours)
    assert label_palette().hex().upper() == "".join(colours).replace("#", "")
