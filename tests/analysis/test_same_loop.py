"""One loop of two patients is noticed by its outlines."""

import numpy as np
import pytest

from alan.analysis import FrameResult, LoopResult, ViewEvidence
from alan.analysis.same_loop import Outlined, find_same_loops, near_pairs

T, SIZE = 12, 60


def beating(radius=12.0, seed=None):
    """Label maps of a beating ventricle (1) above an atrium (2); a seed moves the borders of each frame."""
    y, x = np.indices((SIZE, SIZE))
    labels = np.zeros((T, SIZE, SIZE), np.uint8)
    rng = np.random.default_rng(seed)
    for t in range(T):
        r = radius * (1 - 0.3 * np.sin(np.pi * t / T) ** 2) + (0 if seed is None else rng.normal(0, 0.1))
        labels[t][np.hypot(y - 20, x - 30) < r] = 1
        labels[t][np.hypot(y - 45, x - 30) < 0.6 * radius] = 2
    return labels


def result_of(loop, patient, labels, scale=2.0, **changes):
    """A loop whose pixels are those of the labels, enlarged."""
    sizes = [{"lv": (one == 1).sum() * scale**2, "la": (one == 2).sum() * scale**2} for one in labels]
    frames = tuple(FrameResult(t, None, area, {}, None, None, 0.5, repaired=False) for t, area in enumerate(sizes))
    side = round(SIZE * scale)
    known = {"view": ViewEvidence("A4C", 1.0), "structures": ("lv", "la"), "box": (0, 0, side, side)}
    return LoopResult(loop, patient, "measured", frames=frames, **(known | changes))


def find(loops):
    """The doubts about (loop, patient, labels, ...)."""
    labels = {loop: maps for loop, _, maps, *_ in loops}
    results = [result_of(*one[:3], **(one[3] if len(one) > 3 else {})) for one in loops]
    return find_same_loops(filter(None, map(Outlined.of, results)), labels.__getitem__)


def test_one_loop_in_two_formats_is_noticed():
    doubts = find([("a", "p1", beating()), ("b", "p2", beating(seed=0), {"scale": 3.0}), ("c", "p3", beating(15))])
    assert doubts == {
        "p1": "loop a shows the same as loop b of another patient: give --patient if it is one",
        "p2": "loop b shows the same as loop a of another patient: give --patient if it is one",
    }


@pytest.mark.parametrize(
    "other",
    [
        ("b", "p1", beating()),  # one patient
        ("b", "p2", beating(12.5)),
        ("b", "p2", np.roll(beating(), 8, 2)),  # equal areas elsewhere
        ("b", "p2", beating()[:-1]),
        ("b", "p2", beating(), {"view": ViewEvidence("A2C", 1.0)}),
        ("b", "p2", beating(), {"view": None}),
    ],
)
def test_other_loops_raise_no_doubt(other):
    assert find([("a", "p1", beating()), other]) == {}


def test_short_loops_are_not_compared():
    assert find([("a", "p1", beating()[:4]), ("b", "p2", beating()[:4])]) == {}
    assert find([]) == {}


def test_pairs_equal_a_comparison_of_all_loops():
    rng = np.random.default_rng(0)
    areas = [rng.uniform(0.02, 0.3, (2, 1)) * (1 + 0.2 * rng.random((2, T))) for _ in range(150)]
    areas += [one * (1 + rng.uniform(-0.06, 0.06, (2, 1))) for one in areas[:100]]  # copies, and almost copies
    areas += [one * np.array([[1], [scale]]) for one in areas[:10] for scale in (0, 0, 1e-7, 1e-5)]  # no atrium
    kind = ("A4C", T, ("lv", "la"))
    group = [Outlined(str(n), f"p{n}", kind, one.astype(np.float32)) for n, one in enumerate(areas)]
    expected = []
    for n, one in enumerate(group):
        for other in group[n + 1 :]:
            mean = np.maximum((one.areas + other.areas).mean(-1) / 2, 1e-6)
            if (np.abs(one.areas - other.areas).mean(-1) <= 0.05 * mean).all():
                expected.append((one.loop, other.loop))
    assert 90 < len(expected) < 1000
    assert [(one.loop, other.loop) for one, other in near_pairs(group)] == expected
