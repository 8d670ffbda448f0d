import numpy as np
import pytest

from alan.cardiac import (
    area_length_volume,
    biplane_volume,
    ejection_fraction,
    long_axis_cm,
    myocardial_mass_g,
    shared_length_ejection_fraction,
    shortening_percent,
    simpson_volume,
)
from alan.errors import ParameterError


def ellipse(a_cm, b_cm, angle, spacing, size=(260, 320)):
    """Mask of a tilted ellipse with semi-axes a (long) and b, in cm, on a grid of the given spacing (mm)."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(float)
    y = (rows - size[0] / 2) * spacing[0] / 10
    x = (columns - size[1] / 2) * spacing[1] / 10
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    return (along / a_cm) ** 2 + (across / b_cm) ** 2 <= 1


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2])
@pytest.mark.parametrize("spacing", [(0.5, 0.5), (0.4, 0.7)])
@pytest.mark.parametrize("volume", [area_length_volume, simpson_volume])
def test_volume_of_a_spheroid_is_exact(volume, spacing, angle):
    a, b = 4.5, 2.5
    exact = 4 / 3 * np.pi * a * b**2  # ml
    assert volume(ellipse(a, b, angle, spacing), spacing) == pytest.approx(exact, rel=0.015)


def test_long_axis_of_an_ellipse_is_exact():
    assert long_axis_cm(ellipse(4.0, 2.0, 0.7, (0.4, 0.7)), (0.4, 0.7)) == pytest.approx(8.0, rel=0.01)


def test_simpson_volume_of_a_cylinder_matches_hand_computed_values():
    mask = np.zeros((120, 60), bool)
    mask[10:110, 15:45] = True  # 10 cm long, 3 cm wide at 1 mm
    assert simpson_volume(mask, (1.0, 1.0)) == pytest.approx(np.pi / 4 * 9 * 10, rel=0.01)
    # area-length uses only A and L, so a cylinder comes out larger by 8 * 4 / (3 pi^2)
    assert area_length_volume(mask, (1.0, 1.0)) == pytest.approx(8 * 30**2 / (3 * np.pi * 10), rel=0.01)


def test_more_disks_are_more_accurate():
    mask = ellipse(4.5, 2.5, 0.0, (0.5, 0.5))
    exact = 4 / 3 * np.pi * 4.5 * 2.5**2
    errors = [abs(simpson_volume(mask, (0.5, 0.5), n) / exact - 1) for n in (2, 5, 20)]
    assert errors[0] > errors[1] > errors[2]


def test_volume_of_an_empty_mask_is_undefined():
    empty = np.zeros((5, 5), bool)
    assert np.isnan([f(empty, (1.0, 1.0)) for f in (long_axis_cm, area_length_volume, simpson_volume)]).all()


def test_bad_arguments_are_refused():
    with pytest.raises(ParameterError, match="n_disks is 1"):
        simpson_volume(np.ones((4, 4), bool), (1.0, 1.0), n_disks=1)
    with pytest.raises(ParameterError, match="one mask"):
        simpson_volume(np.ones((2, 4, 4), bool), (1.0, 1.0))


def test_ejection_fraction_matches_hand_computed_values():
    assert ejection_fraction(120.0, 48.0) == pytest.approx(60.0)
    assert ejection_fraction(100.0, 110.0) == pytest.approx(-10.0)
    assert ejection_fraction(0.4, 0.1) == pytest.approx(75.0)  # fractions of a frame whose pixel size is unknown
    unknown = [ejection_fraction(*pair) for pair in ((0.0, 0.0), (float("nan"), 4.0), (4.0, float("inf")))]
    assert np.isnan(unknown).all()


@pytest.mark.parametrize("angles", [(0.0, 0.0), (0.3, -0.5)])
def test_biplane_volume_of_an_ellipsoid_is_exact(angles):
    a, b, c = 4.5, 2.6, 2.1
    spacings = ((0.5, 0.5), (0.4, 0.7))
    views = [ellipse(a, half, angle, s) for half, angle, s in zip((b, c), angles, spacings, strict=True)]
    assert biplane_volume(*views, spacings) == pytest.approx(4 / 3 * np.pi * a * b * c, rel=0.015)


def test_biplane_volume_pairs_disks_from_the_base():
    rows = np.arange(120)[:, None]
    columns = np.arange(80)[None]
    cone = (np.abs(columns - 40) < 0.25 * (rows - 10)) & (rows > 10) & (rows < 110)  # narrow end on top
    exact = biplane_volume(cone, cone, ((1.0, 1.0), (1.0, 1.0)))
    assert exact == pytest.approx(simpson_volume(cone, (1.0, 1.0)))
    assert biplane_volume(cone, cone[::-1], ((1.0, 1.0), (1.0, 1.0))) == pytest.approx(exact, rel=0.01)


def test_biplane_volume_of_one_view_twice_equals_the_single_plane_volume():
    mask = ellipse(4.0, 2.0, 0.2, (0.5, 0.5))
    spacings = ((0.5, 0.5), (0.5, 0.5))
    assert biplane_volume(mask, mask, spacings) == pytest.approx(simpson_volume(mask, (0.5, 0.5)))
    assert np.isnan(biplane_volume(mask, np.zeros_like(mask), spacings))
    with pytest.raises(ParameterError, match="n_disks is 1"):
        biplane_volume(mask, mask, spacings, n_disks=1)


def test_one_length_in_both_phases_leaves_out_the_shortening_of_the_axis():
    spacings = ((0.5, 0.5), (0.4, 0.7))
    diastole = (ellipse(4.5, 2.6, 0.3, spacings[0]), ellipse(4.5, 2.4, -0.2, spacings[1]))
    systole = (ellipse(3.6, 2.0, 0.1, spacings[0]), ellipse(3.4, 1.8, 0.0, spacings[1]))
    found = shared_length_ejection_fraction(diastole, systole, spacings)
    assert found == pytest.approx(100 * (1 - 2.0 * 1.8 / (2.6 * 2.4)), abs=0.7)
    volumes = [biplane_volume(*views, spacings) for views in (diastole, systole)]
    assert ejection_fraction(*volumes) == pytest.approx(100 * (1 - 3.6 * 2.0 * 1.8 / (4.5 * 2.6 * 2.4)), abs=0.7)
    empty = np.zeros_like(systole[0])
    assert np.isnan(shared_length_ejection_fraction(diastole, (empty, systole[1]), spacings))


def test_mass_and_shortening_match_hand_computed_values():
    assert myocardial_mass_g(200.0, 100.0) == pytest.approx(105.0)
    assert myocardial_mass_g(100.5, 100.0) == pytest.approx(0.525)
    assert np.isnan(myocardial_mass_g(100.0, 200.0))
    assert shortening_percent(9.0, 7.2) == pytest.approx(20.0)


def test_disks_match_a_histogram_of_all_sample_points():
    spacing = (0.8, 1.4)
    mask = ellipse(3.0, 2.0, 0.6, spacing, size=(110, 120))
    mask[:60, ::5] = False  # not symmetric
    points = (np.argwhere(np.kron(mask, np.ones((4, 4)))) + 0.5) / 4 * np.array(spacing) / 10
    centred = points - points.mean(0)
    positions = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    height = np.ptp(positions) / 20
    diameters = np.histogram(positions, 20)[0] * (np.prod(spacing) / 1600 / height)
    assert long_axis_cm(mask, spacing) == pytest.approx(20 * height)
    assert simpson_volume(mask, spacing) == pytest.approx(np.pi / 4 * height * (diameters**2).sum(), rel=1e-4)
