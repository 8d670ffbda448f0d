import numpy as np
import pytest

from alan.cardiac.areas import area_cm2, pixel_sides
from alan.errors import ParameterError


def test_areas_match_hand_computed_values():
    mask = np.zeros((2, 8, 8), bool)
    mask[0, 2:4, 1:6] = True  # 10 pixels of 0.5 x 2 mm = 10 mm2
    assert area_cm2(mask, (0.5, 2.0)).tolist() == pytest.approx([0.1, 0.0])


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, float("nan")), (-1.0, 1.0)])
def test_bad_spacing_is_refused(spacing):
    with pytest.raises(ParameterError, match="spacing"):
        area_cm2(np.ones((2, 2), bool), spacing)


def test_one_size_of_a_pixel_is_that_of_both_sides():
    assert pixel_sides(0.3) == (0.3, 0.3)
    assert pixel_sides([0.3, 0.4]) == (0.3, 0.4)
    assert pixel_sides(None) is None
    with pytest.raises(ParameterError, match=r"^spacing is \[0.3\]: give one size in mm, or two"):
        pixel_sides([0.3])
