"""One clip: volumes, labels, cycle, geometry, physics."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from alan.data.sample import VIEWS
from alan.data.simulator import PatientAnatomy, Physics, simulate_sequence
from alan.data.simulator.cycle import Cycle
from alan.data.simulator.geometry import blur, ellipse_distance, gaussian_matrix, profile, segment_distance
from alan.data.simulator.parasternal import ShortAxisScene
from alan.data.simulator.scene import PAPILLARY, RV
from alan.data.simulator.tracing import trace
from alan.data.structures import label_value
from alan.errors import ParameterError

LV, MYO, LA = (label_value(name) for name in ("lv", "myo", "la"))


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def disks(mask, axis, spacing, n=40):
    """Single-plane volume in ml by the method of disks, from the pixels alone (slow loop over the disks)."""
    to_mm = np.array([spacing[1], spacing[0]])
    start, along = axis[0] * to_mm, (axis[1] - axis[0]) * to_mm
    length = np.hypot(*along)
    rows, columns = np.nonzero(mask)
    depth = (np.stack([columns, rows], 1) * to_mm - start) @ (along / length)
    volume = 0.0
    for k in range(n):
        inside = (depth >= k * length / n) & (depth < (k + 1) * length / n)
        diameter = inside.sum() * spacing[0] * spacing[1] / (length / n)
        volume += math.pi / 4 * diameter**2 * length / n
    return volume / 1000


@pytest.fixture(scope="module")
def clips():
    return {view: simulate_sequence(view, 3, n_frames=8, seed=7) for view in VIEWS}


@pytest.mark.parametrize("view", VIEWS)
def test_each_view_has_the_documented_shapes_and_structures(clips, view):
    clip = clips[view]
    assert clip.frames.shape == clip.labels.shape == (8, 112, 112)
    assert clip.frames.dtype == clip.labels.dtype == np.uint8
    names = {"A4C": "lv myo la rv ra", "A2C": "lv myo la", "PLAX": "lv myo la rv ao", "PSAX": "lv myo rv"}[view]
    assert set(np.unique(clip.labels)) == {0, *(label_value(name) for name in names.split())}
    assert np.isfinite(clip.long_axis).all() == (view in ("A4C", "A2C"))


@pytest.mark.parametrize("view", VIEWS)
def test_labels_lie_inside_the_sector(clips, view):
    clip = clips[view]
    rows, columns = np.indices((112, 112)) + 0.5
    z, x = rows * clip.spacing_mm[0], (columns - 56) * clip.spacing_mm[1]
    outside = np.abs(np.arctan2(x, z)) > math.radians(45.001 if view in ("A4C", "A2C") else 50.001)
    assert outside.sum() > 1000
    assert not clip.frames[:, outside].any()
    assert not clip.labels[:, outside].any()
    sector = clip.frames.max(0) > 0
    assert (clip.labels > 0)[:, ~sector].mean() < 0.01


@pytest.mark.parametrize("view", VIEWS)
def test_a_clip_depends_on_its_seed(clips, view):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = simulate_sequence(view, 3, n_frames=8, seed=7)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert again.frames.tobytes() == clips[view].frames.tobytes()
    assert again.labels.tobytes() == clips[view].labels.tobytes()
    other = simulate_sequence(view, 3, n_frames=8, seed=6)
    assert (other.frames != again.frames).mean() > 0.2
    assert other.edv_ml == again.edv_ml


def test_simulation_does_not_touch_global_generators():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (the global state is what is looked at)
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    simulate_sequence("PSAX", 0, n_frames=1)
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


@pytest.mark.parametrize("seed", range(5))
def test_volumes_follow_the_profile_and_the_ejection_fraction(seed):
    patient = PatientAnatomy.sample(seed)
    a = patient.shortening
    s = (np.arange(200_000) + 0.5) / 200_000
    expected = []
    for c in (0, 1):
        radius, length = patient.radius * (1 - a * c), patient.length * (1 - 0.5 * a * c)
        half = radius * profile(torch.from_numpy(s), patient.widest_at(c), patient.taper * (1 - 0.6 * c)).numpy()
        expected.append(math.pi * (half**2).sum() * length / len(s))
    found = [patient.volume_ml(0), patient.volume_ml(1)]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    clip = simulate_sequence("A2C", patient, n_frames=2, seed=seed)
    assert clip.ef_percent == pytest.approx(100 * patient.ef, abs=0.01)
    assert clip.ef_percent == pytest.approx(100 * (1 - clip.esv_ml / clip.edv_ml))
    assert 25 < clip.edv_ml < 350


def test_masks_follow_the_volumes():
    errors, true, found = [], [], []
    for seed in range(12):
        patient = PatientAnatomy.sample(seed)
        clip = simulate_sequence("A4C", patient, n_frames=2, size=160, seed=seed)
        edv, esv = (disks(clip.labels[k] == LV, clip.long_axis[k], clip.spacing_mm) for k in (clip.ed, clip.es))
        errors.append(edv / (clip.edv_ml * patient.flattening**2) - 1)
        true.append(clip.ef_percent)
        found.append(100 * (1 - esv / edv))
    assert np.median(np.abs(errors)) < 0.03
    assert np.median(np.abs(np.subtract(found, true))) < 1.5
    assert np.corrcoef(found, true)[0, 1] > 0.97


@pytest.mark.parametrize("view", VIEWS)
def test_the_ventricle_is_largest_at_ed_and_smallest_at_es_and_its_wall_thickens(view):
    clip = simulate_sequence(view, 8, n_frames=10, seed=1)
    area = (clip.labels == LV).sum((1, 2))
    assert area[clip.ed] == area.max()
    assert area[clip.es] == area.min()
    assert np.corrcoef(area, clip.contraction)[0, 1] < -0.97
    if view == "PSAX":  # a ring: wall thickness from areas
        outer = np.sqrt(((clip.labels == LV) | (clip.labels == MYO)).sum((1, 2)))
        thickness = outer - np.sqrt(area)
        patient = PatientAnatomy.sample(8)
        expected = 1 + patient.thickening * patient.shortening
        assert thickness[clip.es] == pytest.approx(expected * thickness[clip.ed], rel=0.04)


def test_short_axes_show_three_levels():
    """At the apex the ventricle is small; only at the mitral valve leaflets open and close inside it."""
    patient, shown = PatientAnatomy.sample(8), {}
    cycle = Cycle(np.array([0.0, 0.6]), np.zeros(2), np.array([0.0, 1.0]), 30.0)  # closed, then open
    grid = torch.linspace(-6, 6, 121)
    x, z = (part.reshape(1, -1) for part in torch.meshgrid(grid, grid + 6, indexing="xy"))
    for seed in range(12):
        scene = ShortAxisScene(patient, cycle, np.random.default_rng(seed))
        points = scene.paint(x, z)
        areas = [(points.label_map() == value).sum().item() for value in (LV, RV)]
        on_leaflets = (points.leaflet < 0.05).any(1).tolist()
        muscles = bool((points.labels == PAPILLARY).any())
        shown.setdefault(scene.level, []).append((*areas, on_leaflets, muscles))
        if scene.level == "mitral":
            closed, opened = (x[0, row < 0.05].numel() and (z[0, row < 0.05]).std() for row in points.leaflet)
            assert opened > 2 * closed
    assert set(shown) == {"mitral", "papillary", "apical"}
    lv, rv = ({level: np.mean([row[i] for row in rows]) for level, rows in shown.items()} for i in (0, 1))
    assert lv["apical"] < 0.6 * min(lv["mitral"], lv["papillary"])
    assert rv["apical"] < 0.6 * min(rv["mitral"], rv["papillary"])
    for level, rows in shown.items():
        assert all(row[2] == [level == "mitral"] * 2 and row[3] == (level == "papillary") for row in rows)


def test_the_cycle_reaches_both_extremes():
    for seed in range(20):
        cycle = Cycle.beating(16, 1.5, np.random.default_rng(seed))
        assert cycle.contraction[cycle.ed] == 0
        assert cycle.contraction[cycle.es] == 1
        rising = np.diff(cycle.contraction, append=np.nan) > 0.05
        assert not cycle.mitral[rising & (cycle.phase < 0.5)].any()
        assert cycle.mitral[cycle.phase > 0.5].all()
        assert 0.15 <= cycle.mitral.max() <= 1
    half = Cycle.systole(6, np.random.default_rng(0))
    assert (np.diff(half.contraction) > 0).all()
    assert (half.ed, half.es) == (0, 5)
    assert Cycle.beating(60, 2, np.random.default_rng(0)).fps == pytest.approx(
        2 * Cycle.beating(60, 4, np.random.default_rng(0)).fps
    )


def test_views_of_a_patient_share_the_anatomy(clips):
    assert len({clip.edv_ml for clip in clips.values()}) == 1
    assert simulate_sequence("A4C", 4, n_frames=1).edv_ml != clips["A4C"].edv_ml


@pytest.mark.parametrize("effect", [item.name for item in fields(Physics)])
def test_each_effect_changes_the_picture_only(effect):
    options = {"patient": 2, "n_frames": 2, "seed": 42}  # a pose with shadows
    whole = simulate_sequence("A4C", **options)
    without = simulate_sequence("A4C", **options, physics=replace(Physics(), **{effect: 0.0}))
    assert np.abs(whole.frames.astype(int) - without.frames).mean() > 0.1
    np.testing.assert_array_equal(whole.labels, without.labels)


def test_a_clip_without_speckle_is_smooth():
    def roughness(physics):
        clips = [simulate_sequence("A2C", patient, n_frames=1, physics=physics) for patient in range(4)]
        frames = np.concatenate([clip.frames for clip in clips]).astype(float)
        inside = np.minimum(frames[..., 1:], frames[..., :-1]) > 0
        return np.abs(np.diff(frames, axis=-1))[inside].mean()

    quiet = Physics(noise=0, haze=0)
    assert roughness(replace(quiet, speckle=0.0)) < 0.85 * roughness(quiet)


def test_a_threshold_does_not_find_the_ventricle():
    clips = [simulate_sequence("A4C", 50 + i, n_frames=2, seed=i) for i in range(12)]
    best = 0.0
    for level in range(10, 250, 10):
        for sign in (1, -1):
            values = []
            for clip in clips:
                sector = clip.frames.max(0) > 0
                for frame, labels in zip(clip.frames.astype(int), clip.labels, strict=True):
                    values.append(dice(sector & (sign * frame < sign * level), labels == LV))
            best = max(best, np.mean(values))
    assert 0.15 < best < 0.5


def test_anisotropic_pixels_keep_the_size_of_the_anatomy():
    square = simulate_sequence("A4C", 1, n_frames=1, size=112, seed=3)
    wide = simulate_sequence("A4C", 1, n_frames=1, size=(96, 160), seed=3)
    assert wide.frames.shape == (1, 96, 160)
    areas = [(c.labels == LV).sum() * c.spacing_mm[0] * c.spacing_mm[1] for c in (square, wide)]
    assert areas[0] == pytest.approx(areas[1], rel=0.02)


@pytest.mark.parametrize("view", ["A4C", "A2C"])
def test_a_tracing_reproduces_the_mask(view):
    draw = pytest.importorskip("skimage.draw")
    for seed in range(6):
        clip = simulate_sequence(view, seed, n_frames=2, seed=seed)
        for labels, axis in zip(clip.labels, clip.long_axis, strict=True):
            lines = trace(labels == LV, axis)
            assert lines.shape == (21, 4)
            chords = np.rint(lines[1:])
            outline = np.concatenate([chords[:, :2], chords[::-1, 2:]])
            mask = np.zeros((112, 112), bool)
            mask[draw.polygon(outline[:, 1], outline[:, 0], mask.shape)] = True
            assert dice(mask, labels == LV) > 0.95


def test_geometry_matches_hand_computed_values():
    s = torch.tensor([0.0, 0.3, 0.6, 1.0])
    np.testing.assert_allclose(profile(s, 0.6, 0.2), [0, math.sqrt(0.75), 1, 0.8], atol=1e-6)
    zero, two = torch.zeros(1, 1), torch.full((1, 1), 2.0)
    u, v = torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([[2.0, 0.0, 0.0]])
    np.testing.assert_allclose(segment_distance(u, v, (zero, zero), (two, zero)), [[2, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(ellipse_distance(u, v, (zero, 0.0), (two, two)), [[0, 1, -1]], atol=1e-6)


def test_blur_equals_a_gaussian_convolution():
    ndimage = pytest.importorskip("scipy.ndimage")
    image = torch.zeros(40, 30)
    image[20, 15] = 1
    expected = ndimage.gaussian_filter(image.numpy(), (1.5, 2.5), truncate=3.6)
    np.testing.assert_allclose(blur(image, 1.5, 2.5), expected, atol=2e-4)
    np.testing.assert_allclose(gaussian_matrix(12, 3.0).sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "A4"}, "did you mean 'A4C'"),
        ({"n_frames": 0}, "at least 1"),
        ({"beats": 0.5}, "at least 1"),
        ({"size": 8}, "from 32 to 1024"),
        ({"seed": -1}, "give 0 or more"),
        ({"patient": -1}, "give 0 or more"),
        ({"systole_only": True, "n_frames": 1}, "at least 2"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ParameterError, match=message) as caught:
        simulate_sequence(**{"view": "A4C", "patient": 0, "n_frames": 2, **options})
    assert "\n" not in str(caught.value)


def test_invalid_physics_anatomy_and_tracings_are_refused():
    with pytest.raises(ParameterError, match="shadows is -1"):
        Physics(shadows=-1)
    with pytest.raises(ParameterError, match="ef is 55"):
        replace(PatientAnatomy.sample(0), ef=55)
    with pytest.raises(ParameterError, match="empty"):
        trace(np.zeros((9, 9), bool), np.array([[4.0, 0.0], [4.0, 8.0]]))


@pytest.mark.parametrize(("n_frames", "beats"), [(2, 2.0), (3, 3.0)])
def test_frames_of_a_single_moment_are_refused(n_frames, beats):
    """Stretched to reach 0 and 1, they would give NaN, or the rounding of equal phases."""
    for seed in range(5):
        with pytest.raises(ParameterError, match="show the same phase"):
            Cycle.beating(n_frames, beats, np.random.default_rng(seed))
    with pytest.raises(ParameterError, match="more frames"):
        simulate_sequence("A4C", 0, n_frames=n_frames, beats=beats, size=32)
