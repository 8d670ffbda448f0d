"""The share at which the parcels of a list have the area of the structure."""

import numpy as np
import pytest

from alan.downstream.whitebox.fitting import LabelledMaps
from alan.downstream.whitebox.naming import share_of_equal_area
from alan.downstream.whitebox.prior import ParcelPrior

#: Parcels 0 to 3, of 10 pixels each.
MAPS = np.repeat(np.arange(4), 10).reshape(1, 4, 10)


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ((10, 8, 5, 1), 0.65),  # 24 pixels: two parcels of 20, not three of 30; between 0.8 and 0.5
        ((10, 8, 8, 2), 0.5),  # 28 pixels: three parcels, between 0.8 and 0.2
        ((10, 10, 10, 10), 0.5),  # all of them: between 1 and 0
        ((2, 0, 0, 0), 0.1),  # at least one parcel
    ],
)
def test_parcels_are_added_until_they_have_the_given_area(inside, expected):
    masks = np.zeros(MAPS.shape, bool)
    for parcel, count in enumerate(inside):
        masks[0, parcel, :count] = True
    prior = ParcelPrior.count(MAPS, masks, n_parcels=4)
    frames = LabelledMaps(MAPS, masks, np.array(["p"]))
    assert share_of_equal_area(prior, frames) == pytest.approx(expected)
