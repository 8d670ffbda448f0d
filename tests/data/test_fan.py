"""Detection of the sector on screens where its position is known."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from alan.data import Fan, find_fans
from alan.data.blanking import find_blanking
from alan.data.fan import enclosing
from alan.data.fan_search import find_panels
from alan.data.io.cine import frame_source
from alan.data.io.frames import open_stream
from alan.data.simulator.layouts import write_avi
from alan.data.simulator.screen import simulate_screen
from alan.errors import DataError


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("seed", range(5))
def test_a_single_panel_is_found(seed):
    screen = simulate_screen(seed, n_frames=5)
    (fan,) = find_fans(screen.frames)
    assert overlap(fan.mask(), screen.sectors[0]) > 0.95
    assert fan.shape == screen.frames.shape[1:]


def test_two_panels_are_found_from_left_to_right():
    screen = simulate_screen(5, n_frames=5, panels=2)
    fans = find_fans(screen.frames)
    assert [overlap(fan.mask(), sector) > 0.93 for fan, sector in zip(fans, screen.sectors, strict=True)] == [
        True
    ] * 2


def test_a_panel_with_text_across_its_border_is_found():
    screen = simulate_screen(453, n_frames=8, panels=2)
    fans = find_fans(screen.frames)
    assert len(fans) == 2
    assert all(overlap(fan.mask(), sector) > 0.93 for fan, sector in zip(fans, screen.sectors, strict=True))


def test_text_and_ecg_are_outside_the_sector():
    screen = simulate_screen(0, n_frames=6)
    (fan,) = find_fans(screen.frames)
    outside = ~screen.sectors[0]
    assert (fan.mask() & outside & (screen.frames.max(0) > 100)).sum() < 0.01 * fan.mask().sum()


@pytest.mark.parametrize(
    ("seed", "least"),
    [
        pytest.param(8, 0.97, id="dark on one side"),
        pytest.param(126, 0.97, id="flat, on a screen that is brighter than its dark side"),
        pytest.param(288, 0.97, id="text below"),
        pytest.param(483, 0.97, id="black on one side"),
        pytest.param(80, 0.95, id="text across a narrow sector"),
        pytest.param(58, 0.97, id="text over the lower end"),
        pytest.param(48, 0.95, id="an ECG below a narrow sector"),
    ],
)
def test_a_difficult_sector_is_found(seed, least):
    screen = simulate_screen(seed, n_frames=8)
    (fan,) = find_fans(screen.frames)
    assert overlap(fan.mask(), screen.sectors[0]) > least


@pytest.mark.parametrize("change", ["dark", "saturated"])
def test_a_sector_that_hardly_moves_is_found(change):
    """Dark grey values change by one or two, and saturated ones not at all."""
    screen = simulate_screen(3, n_frames=6)
    frames = screen.frames * 0.15 if change == "dark" else np.minimum(screen.frames * 2.2, 255.0)
    (fan,) = find_fans(frames.astype(np.uint8))
    assert overlap(fan.mask(), screen.sectors[0]) > 0.95


def test_a_large_screen_is_searched_in_steps():
    screen = simulate_screen(11, n_frames=4)
    large = screen.frames.repeat(4, 1).repeat(4, 2)
    found = find_panels(large)
    sector = screen.sectors[0].repeat(4, 0).repeat(4, 1)
    assert large.shape[2] > 2000
    assert found.regions[0].shape == found.fans[0].shape == sector.shape
    assert overlap(found.fans[0].mask(), sector) > 0.95
    assert overlap(found.regions[0], sector) > 0.9


@pytest.mark.parametrize("wedge", [(-0.2, 0.1), (0.25, 0.45), (-0.5, -0.4)])
def test_a_shadow_does_not_divide_a_sector(wedge):
    exact = Fan(5.0, 150.0, 20.0, 215.0, -0.6, 0.6, "curved", (230, 300))
    rows, columns = np.mgrid[:230, :300]
    angle = np.arctan2(columns - exact.column, rows - exact.row)
    lit = exact.mask() & ((angle < wedge[0]) | (angle > wedge[1]))
    frames = np.zeros((5, 230, 300), np.uint8)
    frames[:, lit] = np.random.default_rng(0).integers(20, 200, (5, lit.sum()))
    (fan,) = find_fans(frames)
    assert overlap(fan.mask(), exact.mask()) > 0.96


@pytest.mark.parametrize("tilt", [-0.2, 0.15])
def test_a_tilted_sector_is_found(tilt):
    exact = Fan(20.0, 150.0, 0.0, 190.0, tilt - 0.5, tilt + 0.5, "curved", (230, 300))
    frames = np.zeros((5, 230, 300), np.uint8)
    frames[:, exact.mask()] = np.random.default_rng(0).integers(20, 200, (5, exact.mask().sum()))
    (fan,) = find_fans(frames)
    assert overlap(fan.mask(), exact.mask()) > 0.97
    assert 0.5 * (fan.left + fan.right) == pytest.approx(tilt, abs=0.03)


def test_the_apex_of_a_sector_is_found():
    exact = Fan(20.0, 150.0, 0.0, 190.0, -0.13, 0.13, "curved", (230, 300))
    frames = np.zeros((5, 230, 300), np.uint8)
    frames[:, exact.mask()] = np.random.default_rng(0).integers(20, 200, (5, exact.mask().sum()))
    (fan,) = find_fans(frames)
    assert fan.row + fan.near < 30  # the smoothed region alone begins at 40
    blind = Fan(0.0, 150.0, 60.0, 200.0, -0.5, 0.5, "curved", (230, 300))
    frames = np.zeros((5, 230, 300), np.uint8)
    frames[:, blind.mask()] = np.random.default_rng(0).integers(20, 200, (5, blind.mask().sum()))
    (fan,) = find_fans(frames)
    assert fan.near == pytest.approx(60, abs=3)


def test_the_sector_of_a_still_is_found():
    frames = np.zeros((1, 200, 240), np.uint8)
    exact = Fan(10.0, 120.0, 0.0, 170.0, -0.6, 0.6, "curved", (200, 240))
    frames[0][exact.mask()] = np.random.default_rng(0).integers(30, 200, exact.mask().sum())
    (fan,) = find_fans(frames)
    assert overlap(fan.mask(), exact.mask()) > 0.97
    assert (fan.left, fan.right) == pytest.approx((-0.6, 0.6), abs=0.04)


@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (1, 2)])
def test_a_sector_of_anisotropic_pixels_is_found(rows, columns):
    """Every second row makes pixels twice as high, every second column twice as wide."""
    exact = Fan(8.0, 160.0, 30.0, 220.0, -0.7, 0.7, "curved", (240, 320))
    frames = np.zeros((5, 240, 320), np.uint8)
    frames[:, exact.mask()] = np.random.default_rng(0).integers(20, 200, (5, exact.mask().sum()))
    thin = (slice(None, None, rows), slice(None, None, columns))
    (fan,) = find_fans(frames[:, *thin], rows / columns)
    assert overlap(fan.mask(), exact.mask()[thin]) > 0.96
    assert (fan.left, fan.right) == pytest.approx((-0.7, 0.7), abs=0.03)
    assert fan.far * columns == pytest.approx(220, rel=0.03)
    assert fan.row * rows == pytest.approx(8, abs=5)


@pytest.mark.parametrize("top", ["curved", "flat"])
def test_the_geometry_of_a_mask_is_measured(top):
    fan = Fan(-20.0, 100.0, 60.0, 180.0, -0.5, 0.5, top, (200, 200))
    mask = fan.mask()
    assert not mask[:30].any()
    assert mask[100, 100]
    area = (180**2 - 60**2) * 0.5 if top == "curved" else 180**2 * 0.5 - 60**2 * np.cos(0.5) * np.sin(0.5)
    assert mask.sum() == pytest.approx(area, rel=0.01)
    rows, columns = enclosing(mask)
    assert mask[rows, columns].sum() == mask.sum()
    assert mask[rows, columns].any(0).all()


def test_no_sector_is_found_in_pictures_without_one():
    rng = np.random.default_rng(0)
    black = np.zeros((4, 100, 120), np.uint8)
    moving = black.copy()
    moving[:, 20:80, 10:110] = rng.integers(0, 255, (4, 60, 100))  # a rectangle, as of an M-mode strip
    assert find_fans(black) == []
    assert find_fans(moving) == []


def test_invalid_frames_are_refused():
    with pytest.raises(DataError, match="give uint8"):
        find_fans(np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(DataError, match="float64"):
        find_fans(np.zeros((2, 80, 80)))


def test_samples_of_large_frames_are_thinned_and_the_sector_is_scaled(tmp_path):
    """The sector of a screen of 1,908 columns, of which every second row and column is searched."""
    screen = simulate_screen(11, n_frames=4)
    large = screen.frames.repeat(3, 1).repeat(3, 2)
    write_avi(tmp_path / "a.avi", large, 20.0)
    stream = open_stream(frame_source(tmp_path / "a.avi"))
    height, width = large.shape[1:]
    assert stream.samples.step == 2
    assert stream.samples.grey.shape[1:] == stream.samples.span.shape == (-(-height // 2), -(-width // 2))
    found = find_blanking(stream.samples, stream.shape)
    sector = screen.sectors[0].repeat(3, 0).repeat(3, 1)
    assert found.kept.shape == found.text.shape == sector.shape
    assert overlap(found.kept, sector) > 0.92  # with a margin
    assert found.kept[sector].mean() > 0.995


def test_the_mask_of_a_large_sector_is_computed_in_strips():
    fan = Fan(30.0, 700.0, 50.0, 1000.0, -0.6, 0.6, "curved", (1100, 1400))
    rows, columns = np.ogrid[:1100, :1400]
    np.testing.assert_array_equal(fan.mask(2.0), fan.depth(rows, columns) > -2.0)


@pytest.mark.parametrize("top", ["curved", "flat"])
@pytest.mark.parametrize("middle", [0.0, 0.35])
def test_the_depth_is_the_distance_to_the_border(top, middle):
    """Against the nearest of many points on both edges, which begin in the centre, and against both ends."""
    fan = Fan(20.5, 40.2, 9.0, 52.0, middle - 0.6, middle + 0.6, top, (90, 90), aspect=1.25)
    axis = np.array([np.cos(middle), np.sin(middle)])
    rows, columns = np.indices(fan.shape, float)
    points = np.stack([(rows - fan.row) * fan.aspect, columns - fan.column], axis=-1)
    angle = np.arctan2(points[..., 1], points[..., 0])
    radius = np.hypot(*np.moveaxis(points, -1, 0))
    ends = np.array([(np.cos(edge), np.sin(edge)) for edge in (fan.left, fan.right)])
    lines = (np.linspace(0, 200, 4001)[:, None, None] * ends).reshape(-1, 2)
    to_edge = KDTree(lines).query(points)[0] * np.where(np.abs(angle - middle) < 0.6, 1, -1)
    begins = radius - fan.near if top == "curved" else points @ axis - fan.near * np.cos(0.6)
    expected = np.minimum(np.minimum(to_edge, begins), fan.far - radius)
    np.testing.assert_allclose(fan.depth(rows, columns), expected, atol=0.02)
