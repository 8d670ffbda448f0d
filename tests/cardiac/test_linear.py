"""Dimensions of parasternal views against figures drawn with known sizes."""

import numpy as np
import pytest

from alan.cardiac import (
    anteroposterior_diameter_cm,
    linear_dimensions,
    linear_mass_g,
    mean_wall_thickness_cm,
)
from alan.errors import ParameterError

SPACING = (0.8, 1.1)
SEPTUM, INTERNAL, POSTERIOR = 0.9, 4.8, 1.1


def drawn(angle=0.0, *, apex=-5.0, base=3.0, spacing=SPACING, size=(200, 160), internal=INTERNAL):
    """Cavity and wall of a long-axis view: bars along an axis that is tilted by an angle, base on the right."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    y, x = (rows - size[0] / 2) * spacing[0] / 10, (columns - size[1] / 2) * spacing[1] / 10
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    along = (u > apex) & (u < base)
    half = internal / 2
    return (
        along & (np.abs(v) < half),
        along & (v > -half - SEPTUM) & (v < half + POSTERIOR) & (np.abs(v) >= half),
        u,
    )


@pytest.mark.parametrize("angle", [0.0, 0.3, -0.4])
@pytest.mark.parametrize("spacing", [(0.5, 0.5), SPACING])
def test_dimensions_of_bars_are_exact_at_any_tilt(angle, spacing):
    cavity, wall, _ = drawn(angle, spacing=spacing, size=(320, 320))
    assert linear_dimensions(cavity, wall, spacing) == pytest.approx((INTERNAL, SEPTUM, POSTERIOR), abs=0.04)


def test_the_band_lies_between_1_5_and_2_5_cm_from_the_base():
    cavity, wall, u = drawn(base=3.0)
    band = (u > 0.5) & (u < 1.5)
    assert linear_dimensions(cavity, wall & band, SPACING)[1:] == pytest.approx((SEPTUM, POSTERIOR), abs=0.05)
    assert np.isnan(linear_dimensions(cavity, wall & ~band, SPACING)[1:]).all()


def test_a_wedge_has_the_mean_diameter_of_the_band():
    """A cavity that widens by 0.25 cm per cm towards the base, where it is 6 cm wide: 5.5 cm at 2 cm from it."""
    spacing = (0.5, 0.5)
    rows, columns = np.mgrid[:240, :240] + 0.5
    y, x = (rows - 120) * 0.05, (columns - 120) * 0.05
    cavity = (x > -5) & (x < 3) & (np.abs(y) < 3.0 - 0.125 * (3 - x))
    assert linear_dimensions(cavity, None, spacing).internal_cm == pytest.approx(5.5, abs=0.03)


def test_a_ventricle_whose_apex_is_cut_by_the_sector_keeps_its_dimensions():
    cavity, wall, _ = drawn(0.2)
    rows, columns = np.indices(cavity.shape)
    sector = columns * SPACING[1] > 25 + rows * SPACING[0] / 2  # cuts the left part, the apex, obliquely
    assert (cavity & ~sector).sum() > 0.1 * cavity.sum()
    found = linear_dimensions(cavity & sector, wall & sector, SPACING, sector)
    assert found == pytest.approx((INTERNAL, SEPTUM, POSTERIOR), abs=0.1)


def test_a_cavity_that_the_sector_cuts_in_the_band_has_no_diameter():
    cavity, wall, _ = drawn()
    sector = np.zeros(cavity.shape, bool)
    sector[:115] = True  # cuts the cavity below its middle
    assert np.isfinite(linear_dimensions(cavity & sector, wall & sector, SPACING).internal_cm)
    found = linear_dimensions(cavity & sector, wall & sector, SPACING, sector)
    assert np.isnan(found.internal_cm)
    assert np.isnan(found.posterior_cm)


def test_a_cavity_at_the_top_of_the_picture_keeps_its_first_row():
    cavity = np.zeros((20, 8), bool)
    cavity[:8] = True
    assert linear_dimensions(cavity, None, (5.0, 10.0)).internal_cm == pytest.approx(4.0, abs=0.02)


def test_a_wall_that_is_missing_on_one_side_has_no_thickness():
    cavity, wall, _ = drawn()
    upper = wall & (np.arange(len(wall)) < len(wall) / 2)[:, None]
    assert linear_dimensions(cavity, upper, SPACING)[:2] == pytest.approx((INTERNAL, SEPTUM), abs=0.04)
    assert np.isnan(linear_dimensions(cavity, upper, SPACING).posterior_cm)
    assert np.isnan(linear_dimensions(cavity, None, SPACING)[1:]).all()


def test_a_ventricle_shorter_than_the_distance_of_the_band_has_no_diameter():
    cavity, wall, _ = drawn(apex=1.3, base=3.0)
    assert np.isnan(linear_dimensions(cavity, wall, SPACING)).all()
    cavity, wall, _ = drawn(apex=0.8, base=3.0)  # 70% of the band
    assert linear_dimensions(cavity, wall, SPACING).internal_cm == pytest.approx(INTERNAL, abs=0.05)


def test_an_empty_mask_has_no_dimensions():
    empty = np.zeros((40, 40), bool)
    assert np.isnan(linear_dimensions(empty, empty, SPACING)).all()
    assert np.isnan(anteroposterior_diameter_cm(empty, ~empty, SPACING))
    assert np.isnan(anteroposterior_diameter_cm(~empty, empty, SPACING))


def test_several_masks_and_an_impossible_spacing_are_refused():
    with pytest.raises(ParameterError, match="one mask"):
        linear_dimensions(np.ones((2, 8, 8), bool), None, SPACING)
    with pytest.raises(ParameterError, match="spacing"):
        linear_dimensions(np.ones((8, 8), bool), None, (0.0, 1.0))


@pytest.mark.parametrize("angle", [0.0, 0.35])
def test_the_diameter_of_the_atrium_is_perpendicular_to_the_axis_of_the_ventricle(angle):
    """A rhombus beyond the base, 3.6 cm across the axis at its widest and 5 cm along it."""
    cavity, _, u = drawn(angle, base=1.0, spacing=(0.5, 0.5), size=(320, 320))
    rows, columns = np.mgrid[:320, :320] + 0.5
    v = -(columns - 160) * 0.05 * np.sin(angle) + (rows - 160) * 0.05 * np.cos(angle)
    atrium = np.abs(u - 3.8) / 2.5 + np.abs(v - 1.0) / 1.8 <= 1
    assert anteroposterior_diameter_cm(atrium, cavity, (0.5, 0.5)) == pytest.approx(3.6, abs=0.08)


def test_linear_mass_by_hand():
    # (1.0 + 5.0 + 1.0)^3 - 5.0^3 = 343 - 125 = 218; 0.8 * 1.04 * 218 + 0.6 = 181.976
    assert linear_mass_g(1.0, 5.0, 1.0) == pytest.approx(181.976)
    assert linear_mass_g(0.8, 5.0, 1.2) == pytest.approx(181.976)
    assert np.isnan(linear_mass_g(np.nan, 5.0, 1.0))


def test_mean_wall_thickness_of_a_ring_by_hand():
    # circles of radius 3 and 2 cm: 28.2743 and 12.5664 cm2
    assert mean_wall_thickness_cm(28.274334, 12.566371) == pytest.approx(1.0)
    assert mean_wall_thickness_cm(3.141593, 0.785398) == pytest.approx(0.5)  # the contracted heart of a child
    for outer, inner in ((10.0, 0.0), (5.0, 6.0), (np.nan, 1.0), (3.0, np.nan)):
        assert np.isnan(mean_wall_thickness_cm(outer, inner))
