import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from alan.data.preprocessing import Preprocessing
from alan.data.readers.camus import Camus
from alan.data.sample import Record, Sample
from alan.errors import DataError, ParameterError
from alan.evaluation.metrics import distances

BOTH = pytest.mark.parametrize("keep_aspect", [False, True])


def make(frames, masks=None, spacing=None):
    count = len(next(iter(masks.values()))) if masks else 0
    return Sample(Record("a", "a"), frames, spacing, masks or {}, np.arange(count, dtype=np.int64), 0, None)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def centroid(weights):
    rows, columns = np.indices(weights.shape)
    return np.array([(rows * weights).sum(), (columns * weights).sum()]) / weights.sum()


@pytest.fixture
def heart(archives):
    """Three structures that touch each other at (H, W) = (150, 210)."""
    shape = (150, 210)
    outer, inner = archives.ellipse(shape, (60, 100), (45, 38)), archives.ellipse(shape, (62, 100), (36, 28))
    la = archives.ellipse(shape, (112, 104), (22, 26)) & ~outer
    masks = {"lv": inner[None], "myo": (outer & ~inner)[None], "la": la[None]}
    frames = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    return make(frames, masks, spacing=(0.5, 0.25))


@pytest.mark.parametrize("shape", [(150, 210), (60, 49), (30, 20), (112, 300)])
def test_resized_frames_equal_pillow(shape):
    frames = np.random.default_rng(1).integers(0, 256, (40, *shape), np.uint8)
    out = Preprocessing(size=56).apply(make(frames)).frames
    for got, frame in zip(out, frames, strict=True):
        expected = np.asarray(Image.fromarray(frame).resize((56, 56), Image.Resampling.BILINEAR))
        assert np.abs(got.astype(int) - expected).max() <= 1


def test_resized_masks_equal_pillow(archives):
    mask = archives.ellipse((150, 210), (70, 90), (41.3, 60.7))
    out = Preprocessing(size=64).apply(make(np.zeros((1, 150, 210), np.uint8), {"lv": mask[None]})).masks["lv"][0]
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.array_equal(out[np.abs(share - 0.5) > 1e-4], (share > 0.5)[np.abs(share - 0.5) > 1e-4])


@BOTH
@pytest.mark.parametrize("shape", [(150, 210), (210, 151), (40, 30)])
def test_mask_and_image_share_one_geometry(archives, shape, keep_aspect):
    centre, radii = (0.41 * shape[0], 0.6 * shape[1]), (0.3 * shape[0], 0.22 * shape[1])
    mask = archives.ellipse(shape, centre, radii)[None]
    out = Preprocessing(112, keep_aspect).apply(make(mask * np.uint8(255), {"lv": mask}))
    assert np.abs(centroid(out.masks["lv"][0]) - centroid(out.frames[0].astype(float))).max() < 0.05
    area = out.frames[0].astype(float).sum() / 255
    assert out.masks["lv"].sum() == pytest.approx(area, rel=0.01)


@BOTH
def test_resized_structures_stay_disjoint_without_gaps(heart, keep_aspect):
    preprocessing = Preprocessing(56, keep_aspect)
    out = preprocessing.apply(heart)
    count = sum(mask.astype(int) for mask in out.masks.values())
    assert count.max() == 1
    whole = {"lv": np.logical_or.reduce(list(heart.masks.values()))}
    union = preprocessing.apply(make(heart.frames, whole)).masks["lv"]
    assert dice(count > 0, union) > 0.995
    full = np.zeros((1, 90, 90), bool)
    full[:, :, 30:] = True
    corner = {"lv": full & (np.arange(90)[:, None] < 45), "myo": full & (np.arange(90)[:, None] >= 45)}
    corner["la"] = ~full  # three structures that fill the image and meet at a point
    assert (
        sum(m.astype(int) for m in Preprocessing(56).apply(make(heart.frames[:, :90, :90], corner)).masks.values())
        == 1
    ).all()


@BOTH
def test_masks_of_ellipses_survive_a_round_trip(heart, keep_aspect):
    preprocessing = Preprocessing(112, keep_aspect)
    out = preprocessing.apply(heart)
    for name, mask in heart.masks.items():
        back = preprocessing.restore(out.masks[name], (150, 210))
        assert back.shape == mask.shape
        if name == "myo":  # 5 pixels thick at 112: its borders are rounded by a tenth of that
            assert dice(back, mask) > 0.96
        else:
            assert dice(back, mask) > 0.97
            assert np.abs(centroid(back[0]) - centroid(mask[0])).max() < 0.25  # an eighth of a pixel at 112


@BOTH
def test_label_maps_are_restored_like_masks(heart, keep_aspect):
    preprocessing = Preprocessing(112, keep_aspect)
    masks = preprocessing.apply(heart).masks
    for name, mask in masks.items():  # one structure alone: its label map is its mask
        back = preprocessing.restore(mask.astype(np.uint8) * 5, (150, 210))
        assert back.dtype == np.uint8
        assert np.array_equal(back, 5 * preprocessing.restore(mask, (150, 210))), name
    labels = sum(mask.astype(np.uint8) * value for value, mask in enumerate(masks.values(), 1))
    back = preprocessing.restore(labels, (150, 210))
    for value, mask in enumerate(heart.masks.values(), 1):
        assert dice(back == value, mask) > 0.95


@pytest.mark.parametrize("shape", [(16, 16), (17, 16), (64, 40), (131, 77), (16, 300)])
def test_enlarged_label_maps_have_the_largest_membership(shape):
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 4, (4, 4)), np.ones((4, 4))).astype(np.uint8)
    labels[rng.integers(0, 16, 9), rng.integers(0, 16, 9)] = 3  # single pixels
    members = torch.stack([torch.from_numpy((labels == value).astype(np.float32)) for value in range(4)])
    resized = interpolate(members[None], shape, mode="bilinear", align_corners=False)[0]
    expected = resized.argmax(0).numpy()
    found = Preprocessing(16).restore(labels[None], shape)[0]
    top = resized.topk(2, dim=0).values.numpy()
    assert (top[0] - top[1])[found != expected].max(initial=0) < 1e-6  # nothing but ties of rounding may differ
    assert (found != expected).mean() < 0.01


def test_letterboxing_matches_hand_computed_values():
    frames = np.full((2, 20, 40), 200, np.uint8)
    mask = np.ones((1, 20, 40), bool)
    preprocessing = Preprocessing(10, keep_aspect=True)
    out = preprocessing.apply(make(frames, {"lv": mask}, spacing=(0.5, 0.5)))
    expected = np.zeros((10, 10), np.uint8)
    expected[2:7] = 200
    assert np.array_equal(out.frames, [expected, expected])
    assert np.array_equal(out.masks["lv"][0], expected > 0)
    assert out.spacing == (2.0, 2.0)
    assert preprocessing.restore(out.masks["lv"], (20, 40)).all()
    tall = preprocessing.apply(make(frames.transpose(0, 2, 1).copy()))
    assert np.array_equal(tall.frames[0], expected.T)


def test_pixel_sizes_match_hand_computed_values():
    """Pixels of 2 x 1 mm become pixels of 1 mm; the frame of 8 x 6 mm is cropped or padded centrally."""
    frame = np.arange(24, dtype=np.uint8).reshape(1, 4, 6)
    for size, inside in ((6, (6, 6)), (4, (4, 4)), (10, (8, 6))):
        out = Preprocessing(size, pixel_mm=1.0).apply(make(frame, {"lv": frame > 11}, spacing=(2.0, 1.0)))
        assert out.frames.shape == (1, size, size)
        assert out.spacing == (1.0, 1.0)
        whole = np.asarray(Image.fromarray(frame[0]).resize((6, 8), Image.Resampling.BILINEAR))
        top, left = max(0, 4 - size // 2), max(0, 3 - size // 2)
        expected = np.zeros((size, size), np.uint8)
        y, x = (size - inside[0]) // 2, (size - inside[1]) // 2
        expected[y : y + inside[0], x : x + inside[1]] = whole[top : top + inside[0], left : left + inside[1]]
        assert np.abs(out.frames[0].astype(int) - expected).max() <= 1
        cut = np.zeros((size, size), bool)  # rows 2 and 3 of the original are rows 4 to 7 at 1 mm
        cut[y : y + inside[0], x : x + inside[1]] = (np.arange(top, top + inside[0]) >= 4)[:, None]
        assert np.array_equal(out.masks["lv"][0], cut)


@pytest.mark.parametrize("pixel_mm", [0.8, 1.25, 1.5])
@pytest.mark.parametrize(
    ("shape", "spacing"), [((256, 216), (1.37, 1.37)), ((154, 224), (1.875, 1.875)), ((300, 300), (0.7, 0.9))]
)
def test_masks_survive_a_round_trip_at_one_pixel_size(archives, pixel_mm, shape, spacing):
    """A structure keeps its area in mm2, and its outline returns within half a pixel."""
    centre = (0.52 * shape[0], 0.47 * shape[1])
    radii = (30 / spacing[0], 24 / spacing[1])
    mask = archives.ellipse(shape, centre, radii)[None]
    preprocessing = Preprocessing(160, pixel_mm=pixel_mm)
    out = preprocessing.apply(make(mask * np.uint8(200), {"lv": mask}, spacing))
    assert out.spacing == pytest.approx((pixel_mm, pixel_mm), rel=0.005)
    area, expected = out.masks["lv"].sum() * np.prod(out.spacing), np.pi * 30 * 24
    assert area == pytest.approx(expected, rel=0.02)
    back = preprocessing.restore(out.masks["lv"], shape, spacing)
    resized = np.array([round(n * mm / pixel_mm) for n, mm in zip(shape, spacing, strict=True)])
    middle = (160 - resized) // 2 + (resized - 1) / 2  # centre of the frame in the output
    moved = (centroid(out.frames[0].astype(float)) - middle) * out.spacing
    assert moved == pytest.approx((centroid(mask[0]) - (np.array(shape) - 1) / 2) * spacing, abs=0.02)  # mm
    coarser = max(pixel_mm, *spacing)  # largest pixel that the outline passes through
    assert np.abs((centroid(back[0]) - centroid(mask[0])) * spacing).max() < 0.5 * coarser
    hausdorff, average = distances(back[0], mask[0], spacing)
    assert average < 0.5 * coarser
    assert hausdorff <= np.hypot(*spacing)
    assert dice(back, mask) > 0.97


def test_cropped_pixels_become_background():
    mask = np.ones((1, 20, 20), bool)
    preprocessing = Preprocessing(10, pixel_mm=1.0)
    out = preprocessing.apply(make(np.full((1, 20, 20), 9, np.uint8), {"lv": mask}, spacing=(1.0, 1.0)))
    back = preprocessing.restore(out.masks["lv"], (20, 20), (1.0, 1.0))
    assert np.array_equal(np.argwhere(back[0]).min(0), [5, 5])
    assert back.sum() == 100


def test_invalid_pixel_sizes_are_refused():
    with pytest.raises(DataError, match="a: its pixel size is unknown"):
        Preprocessing(10, pixel_mm=1.0).apply(make(np.zeros((1, 10, 10), np.uint8)))
    with pytest.raises(ParameterError, match="spacing is None"):
        Preprocessing(10, pixel_mm=1.0).restore(np.zeros((1, 10, 10), bool), (20, 20))
    with pytest.raises(ParameterError, match="keep_aspect is True and pixel_mm is set"):
        Preprocessing(10, keep_aspect=True, pixel_mm=1.0)
    with pytest.raises(ParameterError, match="pixel_mm is 0: give a number above 0"):
        Preprocessing(10, pixel_mm=0)


def test_the_fingerprint_of_a_stretched_store_does_not_change():
    assert Preprocessing(64).to_dict() == {"size": 64, "keep_aspect": False}
    assert Preprocessing(64).fingerprint != Preprocessing(64, pixel_mm=1.0).fingerprint


@BOTH
def test_the_spacing_is_rescaled(heart, keep_aspect):
    out = Preprocessing(112, keep_aspect).apply(heart)
    before = heart.masks["lv"].sum() * heart.spacing[0] * heart.spacing[1]
    assert out.masks["lv"].sum() * out.spacing[0] * out.spacing[1] == pytest.approx(before, rel=0.01)
    assert (out.spacing[0] / out.spacing[1] == pytest.approx(2, rel=0.02)) is keep_aspect


def test_a_sample_of_the_target_size_is_unchanged():
    sample = make(np.zeros((3, 32, 32), np.uint8), {"lv": np.zeros((1, 32, 32), bool)})
    for keep_aspect in (False, True):
        assert Preprocessing(32, keep_aspect).apply(sample) is sample
        assert Preprocessing(32, keep_aspect).restore(sample.masks["lv"], (32, 32)) is sample.masks["lv"]


def test_other_fields_of_a_sample_are_unchanged(heart):
    out = Preprocessing(20).apply(heart)
    assert out.record is heart.record
    assert (out.ed, out.es) == (0, None)
    assert np.array_equal(out.mask_frames, heart.mask_frames)
    bare = Preprocessing(20).apply(make(heart.frames))
    assert bare.masks == {}
    assert bare.spacing is None


def test_fingerprint_covers_every_argument():
    prints = {Preprocessing(*args).fingerprint for args in [(112, False), (112, True), (64, False), (64, True)]}
    assert len(prints) == 4
    one = Preprocessing(64, True)
    assert Preprocessing(**json.loads(json.dumps(one.to_dict()))) == one
    assert Preprocessing(64, True).fingerprint == one.fingerprint


def test_invalid_arguments_are_refused():
    with pytest.raises(ParameterError, match="size is 0: give a whole number of at least 1"):
        Preprocessing(0)
    for maps in (np.zeros((1, 8, 9), bool), np.zeros((8, 8), bool), np.zeros((1, 8, 8), np.int64)):
        with pytest.raises(ParameterError, match=r"give bool or uint8 \(N, 8, 8\)"):
            Preprocessing(8).restore(maps, (20, 20))


@BOTH
def test_samples_without_masks_and_thin_pictures_are_resized(keep_aspect):
    preprocessing = Preprocessing(8, keep_aspect)
    assert preprocessing.restore(np.zeros((0, 8, 8), bool), (20, 30)).shape == (0, 20, 30)
    assert preprocessing.apply(make(np.ones((1, 1, 300), np.uint8))).frames.any()


@pytest.mark.real
@BOTH
def test_real_masks_survive_a_round_trip(real_camus, keep_aspect):
    data = Camus(real_camus)
    preprocessing = Preprocessing(112, keep_aspect)
    scores = []
    for index in range(0, len(data), 40):
        sample = data[index]
        out = preprocessing.apply(sample)
        for name, mask in sample.masks.items():
            scores.append(dice(preprocessing.restore(out.masks[name], sample.frames.shape[1:]), mask))
    assert np.mean(scores) > 0.97
    assert min(scores) > 0.94  # a thin myocardium at a quarter of the resolution
