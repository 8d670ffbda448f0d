"""Acquisition functions, compared with hand-computed cases, plain loops and another formulation of BALD."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alan.active.acquisition import ACQUISITIONS, UNCERTAINTIES, PassStatistics, check_functions, random
from alan.errors import ParameterError

LOG2 = math.log(2)


def score_images(name, passes):
    """Scores (N,) of images by all passes."""
    statistics = PassStatistics()
    for probabilities in passes:
        statistics.add(probabilities)
    return statistics.scores(name)


def one_pixel(*passes):
    """Probabilities (T, 1, C, 1, 1) from T lists of C values."""
    return torch.tensor(passes, dtype=torch.float64)[:, None, :, None, None]


def draw(seed=0, passes=5, n=3, classes=3, size=4):
    logits = torch.randn(passes, n, classes, size, size, generator=torch.Generator().manual_seed(seed))
    return logits.sigmoid() if classes == 1 else (2 * logits).softmax(2)


def slow(name, probabilities):
    """Compute the scores by their definitions, in a loop over pixels."""
    p = probabilities.double().numpy()
    if p.shape[2] == 1:
        p = np.concatenate([1 - p, p], 2)
    passes, n, classes, height, width = p.shape
    out = np.zeros(n)

    def entropy(values):
        return -sum(v * math.log(v) for v in values if v > 0)

    for i, y, x in np.ndindex(n, height, width):
        each = [p[t, i, :, y, x] for t in range(passes)]
        mean = [sum(q[c] for q in each) / passes for c in range(classes)]
        first = sum(entropy(q) for q in each) / passes
        spread = [math.sqrt(sum((q[c] - mean[c]) ** 2 for q in each) / passes) for c in range(classes)]
        out[i] += {
            "cfe": first,
            "mfe": entropy(mean),
            "mi": abs(entropy(mean) - first),
            "std": sum(spread) / classes,
        }[name]
    return out


def bald(probabilities):
    """Mutual information as the mean divergence of each pass from the mean: sum p log(p / mean), by scipy."""
    from scipy.special import rel_entr

    p = probabilities.double().numpy()
    p = np.concatenate([1 - p, p], 2) if p.shape[2] == 1 else p
    return rel_entr(p, p.mean(0)).sum(2).mean(0).sum((1, 2))


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        # two certain passes that contradict each other: all of the uncertainty lies between them
        ([[1.0, 0.0], [0.0, 1.0]], {"cfe": 0, "mfe": LOG2, "mi": LOG2, "std": 0.5}),
        # two equally uncertain passes: no uncertainty lies between them
        ([[0.5, 0.5], [0.5, 0.5]], {"cfe": LOG2, "mfe": LOG2, "mi": 0, "std": 0}),
        # certain and in agreement
        ([[1.0, 0.0], [1.0, 0.0]], {"cfe": 0, "mfe": 0, "mi": 0, "std": 0}),
        # 1/4 and 3/4: the mean is 1/2
        (
            [[0.75, 0.25], [0.25, 0.75]],
            {
                "cfe": 2 * LOG2 - 0.75 * math.log(3),
                "mfe": LOG2,
                "mi": 0.75 * math.log(3) - LOG2,
                "std": 0.25,
            },
        ),
        # three classes, one pass certain of each
        (
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            {"cfe": 0, "mfe": math.log(3), "mi": math.log(3), "std": math.sqrt(2) / 3},
        ),
    ],
)
def test_scores_match_hand_computed_values(passes, expected):
    p = one_pixel(*passes)
    for name, value in expected.items():
        assert float(score_images(name, p)) == pytest.approx(value, abs=1e-12), name
        twice = p.expand(-1, 2, -1, 2, 3)  # summed over six pixels, image by image
        assert score_images(name, twice).tolist() == pytest.approx([6 * value] * 2, abs=1e-12)


@pytest.mark.parametrize("name", UNCERTAINTIES)
@pytest.mark.parametrize("classes", [1, 2, 4])
def test_scores_match_a_loop_over_pixels(name, classes):
    p = draw(1, classes=classes)
    assert score_images(name, p).numpy() == pytest.approx(slow(name, p), rel=1e-4)


@pytest.mark.parametrize("name", UNCERTAINTIES)
def test_one_channel_counts_as_two_classes(name):
    p = draw(classes=1)
    both = torch.cat([1 - p, p], 2)
    assert torch.allclose(score_images(name, p), score_images(name, both))


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), passes=st.integers(2, 6), classes=st.integers(1, 4))
def test_mutual_information_equals_bald(seed, passes, classes):
    p = draw(seed, passes=passes, classes=classes).double()
    assert score_images("mi", p).numpy() == pytest.approx(bald(p), rel=1e-9, abs=1e-12)
    assert (score_images("mfe", p) - score_images("cfe", p)).numpy() == pytest.approx(bald(p), rel=1e-9, abs=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), passes=st.integers(2, 7), classes=st.integers(1, 4))
def test_pass_statistics_match_numpy(seed, passes, classes):
    p = draw(seed, passes=passes, classes=classes)
    statistics = PassStatistics()
    for one in p:
        statistics.add(one)
    whole = (p if classes > 1 else torch.cat([1 - p, p], 2)).numpy()
    assert statistics.mean.numpy() == pytest.approx(whole.mean(0), abs=1e-6)
    assert statistics.deviation.numpy() == pytest.approx(whole.std(0), rel=1e-3, abs=1e-5)
    for name in UNCERTAINTIES:
        assert statistics.map(name).shape == (p.shape[1], *p.shape[3:])
        assert statistics.scores(name).numpy() == pytest.approx(slow(name, p), rel=1e-4, abs=1e-5)


def test_memory_does_not_grow_with_passes():
    statistics, sizes = PassStatistics(), set()
    for one in draw(passes=6):
        statistics.add(one)
        sizes.add(sum(x.numel() for x in vars(statistics).values() if isinstance(x, torch.Tensor)))
    assert len(sizes) == 1


def test_random_scores_depend_on_the_seed():
    assert np.array_equal(random(9, 3), random(9, 3))
    assert np.array_equal(random(4, 3), random(9, 3)[:4])
    assert not np.array_equal(random(9, 3), random(9, 4))
    assert not np.array_equal(random(9, [3, 1]), random(9, [3, 2]))
    assert random(2000, 0).mean() == pytest.approx(0.5, abs=0.03)


def test_invalid_passes_are_refused():
    with pytest.raises(ParameterError, match=r"passes is 1: add at least 2 \(30 is usual\)"):
        score_images("mi", draw(passes=1))
    with pytest.raises(ParameterError, match=r"follows one of .*: add the same images"):
        score_images("mi", [draw()[0], draw(n=2)[0]])
    with pytest.raises(ParameterError, match=r"give floats \(N, C, H, W\)"):
        score_images("mfe", draw()[0])
    with pytest.raises(ParameterError, match="give floats"):
        score_images("mfe", draw().long())
    for name in ("random", "mff"):
        with pytest.raises(ParameterError, match=f"no map of '{name}'"):
            score_images(name, draw())


def test_every_function_has_its_documented_name():
    assert check_functions(tuple(ACQUISITIONS)) == (
        "cfe",
        "mfe",
        "mi",
        "std",
        "random",
        "coverage",
        "disagreement",
        "k_centre",
    )
    with pytest.raises(ParameterError, match="unknown acquisition function 'mfee': did you mean 'mfe'"):
        check_functions(["mfee"])
    for wrong in ([], ["mfe", "mfe"]):
        with pytest.raises(ParameterError, match="give at least one, each once"):
            check_functions(wrong)
