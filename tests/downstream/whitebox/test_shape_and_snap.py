import itertools

import numpy as np
import pytest
from scipy import ndimage

from alan.downstream.whitebox.ring import ring
from alan.downstream.whitebox.shape import ShapePrior, load_shape, signed_distance
from alan.downstream.whitebox.snap import best_cycle, normals, resample, snap_outline
from alan.downstream.whitebox.steps import PostProcessing
from alan.errors import DataError, ParameterError


def ellipse(shape=(112, 112), centre=(56, 56), radii=(30, 20)):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1


def cycle_slowly(reward, smoothness):
    """Every closed path there is."""
    count, offsets = reward.shape
    best, value = None, -np.inf
    for path in itertools.product(range(offsets), repeat=count):
        steps = [abs(a - b) for a, b in zip(path, (*path[1:], path[0]), strict=True)]
        if max(steps) <= 1:
            total = sum(reward[p, o] for p, o in enumerate(path)) - smoothness * sum(steps)
            if total > value:
                best, value = path, total
    return best


@pytest.mark.parametrize("smoothness", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("seed", range(4))
def test_best_cycle_equals_trying_all(seed, smoothness):
    reward = np.random.default_rng(seed).normal(size=(6, 4))
    assert tuple(best_cycle(reward, smoothness)) == cycle_slowly(reward, smoothness)


def test_resampled_points_are_even_and_normals_point_out():
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    circle = 50 + 20 * np.stack([np.sin(angle), np.cos(angle)], 1)  # clockwise from the east, rows down
    points = resample(circle)
    gaps = np.hypot(*(points - np.roll(points, 1, 0)).T)
    assert len(points) == pytest.approx(2 * np.pi * 20, abs=2)
    assert gaps == pytest.approx(np.full(len(points), gaps.mean()), rel=0.02)
    outward = (points - 50) / np.hypot(*(points - 50).T)[:, None]
    assert (normals(points) * outward).sum(1).min() > 0.99


def test_a_mask_snaps_to_the_wall_of_a_dark_cavity(slow):
    truth = ellipse()
    frame = np.where(truth, 20, 180).astype(np.uint8)
    frame = np.clip(frame + np.random.default_rng(0).normal(0, 15, frame.shape), 0, 255).astype(np.uint8)
    for radii in ((27, 17), (33, 23)):
        before = ellipse(radii=radii)
        after = snap_outline(before, frame, width=4, stay=1)
        assert slow.dice(before, truth) < 0.93
        assert slow.dice(after, truth) > 0.97
    unmoved = snap_outline(before, frame, width=4, stay=1e6)
    assert slow.dice(unmoved, before) > 0.98
    assert slow.dice(snap_outline(before, frame, width=1, stay=1), truth) < 0.96  # the wall is out of reach


def test_snap_without_mask_or_edge():
    frame = np.full((20, 30), 9, np.uint8)
    assert not snap_outline(np.zeros((20, 30), bool), frame).any()
    dot = np.zeros((20, 30), bool)
    dot[5, 5] = True
    assert snap_outline(dot, frame).any()


@pytest.mark.parametrize("change", [{"snap_width": 1.0}, {"snap_smoothness": 50.0}, {"snap_stay": 100.0}])
def test_every_snap_parameter_changes_the_segment(change):
    rng = np.random.default_rng(1)
    frame = (ndimage.gaussian_filter(rng.normal(size=(112, 112)), 2) * 400 + 128).clip(0, 255).astype(np.uint8)
    mask, maps = ellipse(), np.zeros((112, 112), int)
    base = {"snap_width": 4.0, "contour": False}
    results = [PostProcessing(**p)(mask, maps, frame) for p in (base, base | change)]
    assert (results[0] != results[1]).any()
    with pytest.raises(ParameterError, match=r"snap_width is 4\.0: the frame is needed"):
        PostProcessing(**base)(mask, maps)


def test_signed_distance_equals_the_slow_one():
    mask = np.random.default_rng(0).random((9, 7)) < 0.6
    for place in np.ndindex(mask.shape):
        padded = np.pad(mask, 1)
        other = np.argwhere(padded != mask[place]) - 1
        nearest = np.sqrt(((other - place) ** 2).sum(1)).min()
        assert signed_distance(mask)[place] == pytest.approx(nearest - 0.5 if mask[place] else 0.5 - nearest)


@pytest.fixture(scope="module")
def ellipses():
    rng = np.random.default_rng(0)
    return np.array(
        [
            ellipse(centre=rng.uniform(40, 70, 2), radii=(r := rng.uniform(15, 30), r * rng.uniform(0.4, 0.9)))
            for _ in range(60)
        ]
    )


def test_a_bitten_ellipse_is_mended(slow, ellipses):
    prior = ShapePrior().fit(ellipses)
    assert 1 <= len(prior.deviations_) <= 6
    truth = ellipse(centre=(50, 60), radii=(28, 18))
    bitten = truth.copy()
    bitten[44:60, 60:70] = False
    bitten[28:36, 74:88] = True
    mended = prior.pull(bitten, 1.0)
    assert slow.dice(mended, truth) > slow.dice(bitten, truth) + 0.02
    assert slow.dice(prior.pull(truth, 1.0), truth) > 0.97
    half = prior.pull(bitten, 0.5)
    assert slow.dice(half, truth) > slow.dice(bitten, truth) + 0.02
    assert (half != mended).any()
    np.testing.assert_array_equal(prior.pull(bitten, 0.0), bitten)
    assert not prior.pull(np.zeros((9, 9), bool)).any()


def test_every_shape_parameter_changes_the_shape(ellipses):
    square = np.zeros((112, 112), bool)
    square[20:100, 50:62] = True
    base = ShapePrior().fit(ellipses)
    assert len(ShapePrior(variance=0.9999).fit(ellipses).deviations_) > len(base.deviations_)
    assert (ShapePrior(limit=0.0).fit(ellipses).pull(square) != base.pull(square)).any()


def test_a_shape_prior_as_a_file_and_as_a_step(tmp_path, ellipses):
    path = tmp_path / "lv.npz"
    prior = ShapePrior(limit=1.5).fit(ellipses)
    prior.save(path)
    bitten = ellipse()
    bitten[50:60, 56:80] = False
    again = load_shape(str(path))
    assert again.get_params() == prior.get_params()
    np.testing.assert_array_equal(again.pull(bitten), prior.pull(bitten))
    maps = np.zeros((112, 112), int)
    off = PostProcessing(closing_radius=None, contour=False)
    on = PostProcessing(closing_radius=None, contour=False, shape=str(path), shape_weight=0.7)
    np.testing.assert_array_equal(on(bitten, maps), prior.pull(off(bitten, maps), 0.7))
    with pytest.raises(DataError, match="no such file"):
        PostProcessing(shape=str(tmp_path / "none.npz"))(bitten, maps)
    (tmp_path / "bad.npz").write_text("x")
    with pytest.raises(DataError, match="no shape prior"):
        ShapePrior.load(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("params", "masks", "message"),
    [
        ({}, np.zeros((4, 5, 5)), "expected bool"),
        ({}, np.zeros((4, 5, 5), bool), "0 masks are not empty"),
        ({"variance": 1.0}, np.ones((4, 5, 5), bool), "variance is 1.0"),
    ],
)
def test_bad_shape_priors(params, masks, message):
    with pytest.raises(ParameterError, match=message):
        ShapePrior(**params).fit(masks)


def test_a_broken_wall_becomes_a_ring(slow):
    cavity, both = ellipse(radii=(28, 18)), ellipse(radii=(36, 26))
    wall = both & ~cavity
    broken = wall.copy()
    broken[36:50] = False
    broken[5:9, 5:9] = True  # a stray piece
    maps = wall.astype(int)[None]
    mended = ring(cavity[None], broken[None], maps)[0]
    assert not (mended & cavity).any()
    assert slow.dice(mended, wall) > 0.95 > slow.dice(broken, wall)
    alone = ring(np.zeros_like(cavity)[None], broken[None], maps)[0]
    assert alone.any()
    plain = ring(cavity[None], broken[None], maps, steps=PostProcessing.for_structure("myo"))[0]
    assert (plain != mended).any()
    with pytest.raises(ParameterError, match="shape of parcel_maps"):
        ring(cavity[None, 1:], broken[None], maps)


def test_steps_by_structure():
    assert PostProcessing.for_structure("lv") == PostProcessing()
    assert not PostProcessing.for_structure("myo").closing_radius
    assert PostProcessing.for_structure("la").median_radius == 3
