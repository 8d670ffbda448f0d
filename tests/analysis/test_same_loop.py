"""One loop of two patients is noticed by its outlines."""

import numpy as np
import pytest

from alan.analysis import FrameResult, LoopResult, ViewEvidence
from alan.analysis.same_loop import Outlined, find_same_loops

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
