"""Statistics of the comparison with real frames, checked on analytic pictures."""

import math

import numpy as np
import pandas as pd
import pytest

from alan.data.store.reader import FrameStore

from ...benchmarks.bench_realism import (
    border_statistics,
    compare,
    correlation_length,
    frame_statistics,
    octave_shares,
    pick,
    sector,
    shape_statistics,
    store_statistics,
)

ndimage = pytest.importorskip("scipy.ndimage")


def fan(size=112, half_angle=38.0, spacing=1.4):
    rows, columns = np.indices((size, size)) + 0.5
    z, x = rows * spacing, (columns - size / 2) * spacing
    return (np.abs(np.arctan2(x, z)) < math.radians(half_angle)) & (np.hypot(x, z) < 0.8 * size * spacing)


def test_correlation_length_of_blurred_noise_is_exact():
    # noise blurred by a Gaussian of deviation s has the autocorrelation exp(-lag^2 / 4 s^2)
    noise = np.random.default_rng(0).normal(size=(300, 300))
    inside = np.ones(noise.shape, bool)
    for axial, lateral in ((1.0, 2.0), (1.5, 0.8)):
        field = ndimage.gaussian_filter(noise, (axial, lateral), mode="wrap")
        for axis, s in ((0, axial), (1, lateral)):
            assert correlation_length(field, inside, axis) == pytest.approx(
                2 * s * math.sqrt(math.log(2)), rel=0.06
            )
    assert correlation_length(np.ones((20, 20)), np.ones((20, 20), bool), 0, most=5) == 5


def test_power_falls_into_its_octave():
    x = np.arange(128)
    for number, cycles in enumerate((1 / 64 * 1.5, 3 / 64, 3 / 32, 3 / 16, 3 / 8)):
        wave = np.cos(2 * np.pi * cycles * x)[None] * np.ones((128, 1))
        shares = octave_shares(wave)
        assert shares[number] == pytest.approx(1, abs=1e-6)
        assert sum(shares) == pytest.approx(1, abs=1e-6)


def test_the_shape_of_a_fan_is_measured():
    inside = fan()
    found = frame_statistics(np.where(inside, 100, 0).astype(np.uint8), (1.4, 1.4))
    assert (sector(np.where(inside, 100, 0).astype(np.uint8)) != inside).sum() < 20
    assert found["half angle"] == pytest.approx(38, abs=1)
    assert found["depth cm"] == pytest.approx(0.8 * 11.2 * 1.4, rel=0.04)
    assert found["width over depth"] == pytest.approx(2 * math.sin(math.radians(38)), rel=0.06)
    assert found["grey q50"] == found["grey mean"] == 100
    assert found["grey sd"] == 0
    assert found["lit"] == pytest.approx(inside.mean(), abs=0.01)
    assert "depth cm" not in frame_statistics(np.where(inside, 100, 0).astype(np.uint8))
    assert frame_statistics(np.zeros((64, 64), np.uint8)) == {}


def test_shapes_of_an_ellipse_with_a_wall_are_exact():
    rows, columns = np.indices((200, 200)) + 0.5
    turn = math.radians(15)
    y, x = (rows - 90) * 0.1, (columns - 110) * 0.1  # 1 mm pixels
    u, v = y * math.cos(turn) + x * math.sin(turn), x * math.cos(turn) - y * math.sin(turn)
    lv = np.hypot(u / 4, v / 2) < 1
    outer = np.hypot(u / 5, v / 3) < 1
    la = np.zeros_like(lv)
    la[-20:, 90:100] = True
    found = shape_statistics({"lv": lv, "myo": outer & ~lv, "la": la}, (1.0, 1.0))
    assert found["lv area"] == pytest.approx(math.pi * 8, rel=0.01)
    assert found["myo area"] == pytest.approx(math.pi * 7, rel=0.01)
    assert found["lv length"] == pytest.approx(8, abs=0.15)
    assert found["lv width 50"] == pytest.approx(4, abs=0.2)
    assert found["lv width 25"] == pytest.approx(4 * math.sqrt(0.75), abs=0.3)
    assert found["lv lean"] == pytest.approx(15, abs=1)
    assert found["wall left"] == pytest.approx(1, abs=0.1)
    assert found["wall right"] == pytest.approx(1, abs=0.1)
    assert found["wall apex"] == pytest.approx(1, abs=0.15)
    assert found["lv centre aside"] == pytest.approx(1, abs=0.1)
    assert found["la in lowest row"] == 1
    assert shape_statistics({"lv": np.zeros((9, 9), bool)}, (1.0, 1.0)) == {}


def test_differences_are_in_standard_deviations_of_real_frames():
    real = pd.DataFrame({"a": [1.0, 2.0, 3.0], "flat": [5.0, 5.0, 5.0], "only": [0.0, 0.0, 1.0]})
    found = compare(real, pd.DataFrame({"a": [4.0, 4.0], "flat": [6.0, 6.0]}))
    assert list(found.index) == ["a", "flat"]
    assert found.loc["a", "difference"] == pytest.approx(2)
    assert np.isnan(found.loc["flat", "difference"])
    assert found.loc["a", "simulated sd"] == 0


def test_spacing_is_that_of_the_stored_frames(tiny):
    store = FrameStore(tiny.store("camus"))
    found = store_statistics(store, pick(store, None, ("A4C",), 8, annotated=False), shapes=False)
    assert 29 < found["half angle"].median() < 45
    assert found["depth cm"].between(8, 22).all()


def test_greys_are_averaged_by_distance_from_the_cavity():
    # square pixels of 1 mm; a bar of 20 x 60 px, whose wall is as bright as it is far from the cavity
    lv, wall = np.zeros((112, 112), bool), np.zeros((112, 112), bool)
    wall[10:92, 30:70], lv[20:80, 40:60] = True, True
    wall &= ~lv
    beyond = ndimage.distance_transform_edt(~lv)
    frame = np.where(lv, 50, np.where(wall, 100 + 10 * beyond, 0)).astype(np.uint8)
    found = border_statistics(frame, {"lv": lv, "myo": wall}, (1.0, 1.0))
    lit = frame[frame > 0]
    assert found["border mid -6"] == pytest.approx((50 - lit.mean()) / lit.std())
    assert found["border mid 3"] == pytest.approx((100 + 10 * np.mean([3, 4, 5]) - lit.mean()) / lit.std())
    assert found["border base 3"] == pytest.approx(found["border mid 3"])
    assert border_statistics(frame, {"lv": lv}, (1.0, 1.0)) == {}
