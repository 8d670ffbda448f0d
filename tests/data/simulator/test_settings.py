"""Every drawn setting changes the clip, and walls have the given thickness."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from alan.data.simulator import ApicalPose, PatientAnatomy, Physics, simulate_sequence
from alan.data.simulator.acquisition import Acquisition, Shadow
from alan.data.simulator.apical import ApicalScene
from alan.data.simulator.cycle import Cycle
from alan.data.structures import label_value
from alan.errors import ParameterError

from ...benchmarks.bench_realism import shape_statistics

LV, MYO, LA = (label_value(name) for name in ("lv", "myo", "la"))
PATIENT = replace(PatientAnatomy.sample(2), papillary=0.3, trabeculae=0.2)
#: What must not move a label.
ECHO_ONLY = {"trabeculae", "papillary", "wall_echo", "outer_echo", "habitus"}
POSE_ECHO = {
    "leaflet",
    "tenting",
    "late_closure",
    "septum_echo",
    "lateral_fade",
    "apical_fade",
    "apical_ramp",
    "rim_fade",
    "deep_gain",
    "right_fade",
    "outer_fade",
    "atrium_veil",
    "apex_veil",
    "border_veil",
    "right_veil",
    "halo",
    "margin",
}
GEOMETRY = {"depth", "half_angle", "start", "margin_depth", "margin_width"}


def clip(**options):
    return simulate_sequence(
        **{"view": "A4C", "patient": PATIENT, "n_frames": 2, "size": 64, "seed": 11, **options}
    )


@pytest.fixture(scope="module")
def plain():
    return {view: clip(view=view) for view in ("A4C", "PLAX")}


def moved(value):
    return value * 0.7 if value else 0.3


@pytest.mark.parametrize("name", [item.name for item in fields(PatientAnatomy)])
def test_each_size_of_the_heart_changes_the_clip(plain, name):
    view = "PLAX" if name == "aorta" else "A4C"
    other = clip(view=view, patient=replace(PATIENT, **{name: moved(getattr(PATIENT, name))}))
    assert (other.frames != plain[view].frames).mean() > 0.005
    assert (other.labels != plain[view].labels).any() != (name in ECHO_ONLY)


@pytest.mark.parametrize("name", [item.name for item in fields(ApicalPose)])
def test_each_part_of_the_pose_changes_the_clip(plain, name):
    value = {"apex_x": -1.0, "apex_z": 3.9, "rotation": -0.4, "atrium_offset": 0.8, "leaflet": 0.5}.get(name)
    if value is None:
        value = 0.0 if name == "septum_echo" else 0.95
    other = clip(pose={name: value})
    assert (other.frames != plain["A4C"].frames).mean() > 0.005
    assert (other.labels != plain["A4C"].labels).any() != (name in POSE_ECHO)


@pytest.mark.parametrize("name", [item.name for item in fields(Acquisition) if item.name != "apical"])
def test_each_setting_of_the_machine_changes_the_clip(plain, name):
    value = {
        "shadows": (Shadow(0.0, 0.2, 0.1, 30.0),),
        "reverberation_shift": 60,
        "reverberation": 0.5,
        "exposure": 0.9,
        "half_angle": 0.5,
        "depth": 11.0,
        "start": 5.0,
        "ragged": 0.6,
    }.get(name)
    base = {"dropout": 5.0, "near_field": 0.3}  # some clips have none
    changed = {"dropout": 30.0} if name == "dropout" else {name: 2.5 if value is None else value}
    other = clip(acquisition=base | changed)
    assert (other.frames != clip(acquisition=base).frames).mean() > 0.005
    assert (other.labels != plain["A4C"].labels).any() == (name in GEOMETRY)


def test_given_settings_do_not_change_the_others(plain):
    same = clip(pose={}, acquisition={})
    assert same.frames.tobytes() == plain["A4C"].frames.tobytes()
    wide = clip(acquisition={"half_angle": math.radians(30), "margin_width": 1.0, "margin_depth": 1.0})
    height, width = wide.spacing_mm[0] * 64, wide.spacing_mm[1] * 64
    assert width / height == pytest.approx(2 * math.sin(math.radians(30)))
    assert height == pytest.approx(plain["A4C"].spacing_mm[0] * 64, rel=0.05)


@pytest.mark.parametrize("wall", [0.8, 1.6])
@pytest.mark.parametrize("asymmetry", [-0.2, 0.0, 0.2])
def test_walls_have_the_given_thickness(wall, asymmetry):
    patient = replace(PATIENT, wall=wall, wall_asymmetry=asymmetry, apex_wall=0.9, bend=-0.4, wall_end=0.2)
    pose = {"apex_x": 0.0, "apex_z": 3.5, "rotation": 0.0}
    found = clip(patient=patient, pose=pose, size=224, labels_outside=True, systole_only=True)
    masks = {"lv": found.labels[0] == LV, "myo": found.labels[0] == MYO}
    shape = shape_statistics(masks, found.spacing_mm)
    assert shape["wall left"] == pytest.approx(wall * (1 + asymmetry), rel=0.12)
    assert shape["wall right"] == pytest.approx(wall * (1 - asymmetry), rel=0.12)
    assert shape["wall apex"] == pytest.approx(0.9 * wall, abs=0.12)
    assert shape["lv apex depth"] == pytest.approx(3.5, abs=0.12)


def test_masks_extend_outside_the_sector_on_request_only():
    options = {"pose": {"apex_x": -3.0}, "size": 96}
    inside, whole = clip(**options), clip(**options, labels_outside=True)
    np.testing.assert_array_equal(inside.frames, whole.frames)
    kept = inside.labels > 0
    np.testing.assert_array_equal(inside.labels[kept], whole.labels[kept])
    added = (whole.labels > 0) & ~kept
    assert added.mean() > 0.01
    assert not whole.frames[added].any()


def test_veil_and_halo_brighten_the_picture_left_of_the_heart():
    rv = label_value("rv")
    dark, veiled = (clip(pose={"right_veil": veil, "halo": 0.0}, size=112) for veil in (0.0, 0.4))
    brighter = veiled.frames.astype(int) - dark.frames
    assert brighter[dark.labels == rv].mean() > brighter[dark.labels == LV].mean() + 8
    dark, bright = (clip(view="A2C", pose={"halo": halo}, size=112) for halo in (0.0, 3.0))
    brighter = bright.frames.astype(int) - dark.frames
    heart = dark.labels > 0
    first, last = heart.argmax(2), heart.shape[2] - heart[..., ::-1].argmax(2)
    columns = np.arange(heart.shape[2])
    rows = heart.any(2)[..., None] & (dark.frames > 0)
    left = rows & (columns < first[..., None] - 2) & (columns > first[..., None] - 10)
    assert brighter[left].mean() > 10
    assert brighter[left].mean() > 3 * abs(brighter[rows & (columns > last[..., None] + 2)].mean())


def test_walls_fade_as_given():
    pose = {"septum_echo": 1.0, "lateral_fade": 0.95, "apical_fade": 0.0, "apex_x": 0.0}
    options = {"pose": pose, "patient": replace(PATIENT, trabeculae=0.0, papillary=0.0), "size": 112}
    whole, without = clip(**options), clip(**options, physics=Physics(fading=0.0))
    columns = np.indices(whole.labels.shape)[2]
    middle = columns[whole.labels == LV].mean()
    lateral = (whole.labels == MYO) & (columns > middle + 8)
    assert whole.frames[lateral].mean() < 0.9 * without.frames[lateral].mean()


def test_exposure_sets_the_median_grey():
    for exposure in (0.2, 0.5):
        found = clip(acquisition={"exposure": exposure}, size=112).frames[0]
        assert np.median(found[found > 0]) / 255 == pytest.approx(exposure, abs=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pose": {"apex": 1.0}}, "ApicalPose has no field 'apex': did you mean 'apex_"),
        ({"acquisition": {"haz": 1.0}}, "did you mean 'haze'"),
        ({"acquisition": {"haze": math.nan}}, "finite"),
        ({"acquisition": {"depth": 0.0}}, "depth is 0.0"),
        ({"acquisition": {"half_angle": 2.0}}, "half_angle is 2.0"),
        ({"acquisition": {"start": 40.0}}, "start is 40.0"),
        ({"acquisition": {"exposure": 1.0}}, "exposure is 1.0"),
        ({"view": "PSAX", "pose": {"apex_x": 1.0}}, "A4C and A2C only"),
    ],
)
def test_invalid_settings_are_refused(options, message):
    with pytest.raises(ParameterError, match=message):
        clip(**options)


@pytest.mark.parametrize(
    "changes",
    [{"ef": 0.05, "apical_squeeze": 0.3, "widest": 0.55, "taper": 0.0}, {"widest": 0.9, "apical_squeeze": 0.2}],
)
def test_a_squeeze_that_contradicts_the_anatomy_is_refused(changes):
    with pytest.raises(ParameterError, match="apical_squeeze"):
        replace(PATIENT, **changes)


def test_the_apical_half_narrows_more_than_the_basal_half():
    """Width over the axis at three quarters of the way to the apex, over that at one quarter, ES against ED."""
    still, squeezed = (
        clip(patient=replace(PATIENT, apical_squeeze=value), size=224, pose={"rotation": 0.0})
        for value in (0.0, 0.2)
    )
    ratios = []
    for one in (still, squeezed):
        widths = []
        for frame in (one.ed, one.es):
            rows = np.flatnonzero((one.labels[frame] == LV).any(1))
            apical, basal = (round(np.quantile(rows, share)) for share in (0.25, 0.75))
            widths.append(np.divide(*((one.labels[frame][row] == LV).sum() for row in (apical, basal))))
        ratios.append(widths[1] / widths[0])
    assert ratios[1] < ratios[0] - 0.05


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_picture_extends_beyond_what_annotators_draw(margin):
    """Along the axis, the cavity in the picture begins 0.15 cm (ED) and 0.9 cm (ES) above that of the labels."""
    cycle = Cycle.systole(2, np.random.default_rng(0))
    pose = ApicalPose.sample(PATIENT, True, np.random.default_rng(1))
    upright = replace(pose, rotation=0.0, apex_x=0.0, margin=margin)
    scene = ApicalScene(replace(PATIENT, trabeculae=0.0, papillary=0.0), cycle, upright, four_chamber=True)
    depth = torch.linspace(upright.apex_z - 1.5, upright.apex_z + 1.0, 2501)[None]
    tops = [
        [depth[0, row.nonzero()[0, 0]] for row in scene.paint(0 * depth, depth, lines=lines).label_map() == LV]
        for lines in (False, True)
    ]
    np.testing.assert_allclose(np.subtract(*tops), [0.15 * margin, 0.9 * margin], atol=0.02)
