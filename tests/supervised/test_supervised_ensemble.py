"""Weighted means, the search for weights, and what is refused."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torchmetrics.functional.segmentation import dice_score

import alan
from alan.downstream.members import with_flips
from alan.errors import ConfigError, ParameterError
from alan.supervised.ensemble import EnsembleSegmenter, Member
from alan.supervised.member_predictions import collect, join
from alan.supervised.search_weights import search_weights
from alan.supervised.segmenter import load_segmenter, save_segmenter, to_labels
from alan.supervised.settings import NetworkSpec

from ..discs import untrained_segmenter

#: Axes of (B, H, W) along which frames are flipped.
FLIPS = ([], [1], [2], [1, 2])
SMALL = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(4, 8))


class Fixed:
    """A member with fixed output, whatever the frames show: row i for a frame whose pixels are i."""

    def __init__(self, values, structures=("lv", "myo"), name="fixed"):
        self.values = torch.as_tensor(values, dtype=torch.float32)
        self.structures, self.classes = tuple(structures), self.values.shape[1]
        self.fingerprint = name

    def probabilities(self, frames):
        return self.values[frames[:, 0, 0].long()]


def numbered(n, size):
    return torch.arange(n, dtype=torch.uint8)[:, None, None].expand(n, size, size).contiguous()


def soft(rng, n, classes, size, sharp=1.0):
    logits = torch.as_tensor(rng.normal(size=(n, classes, size, size)) * sharp)
    return (logits.sigmoid() if classes == 1 else logits.softmax(1)).float()


@pytest.fixture
def case():
    """Three members of unlike quality on six frames of 12 x 12 pixels, with labels; seeded."""
    rng = np.random.default_rng(0)
    labels = torch.as_tensor(rng.integers(0, 3, (6, 12, 12)), dtype=torch.uint8)
    truth = torch.nn.functional.one_hot(labels.long(), 3).permute(0, 3, 1, 2).float()
    members = {}
    for name, noise in (("a", 1.0), ("b", 1.6), ("c", 3.0)):
        logits = 2 * truth + noise * torch.as_tensor(rng.normal(size=truth.shape))
        members[name] = Fixed(logits.softmax(1), name=name)
    return members, numbered(6, 12), labels


def test_the_mean_matches_hand_computed_values():
    a, b = [[[[0.9]], [[0.1]], [[0.0]]]], [[[[0.2]], [[0.2]], [[0.6]]]]
    one = EnsembleSegmenter({"a": Fixed(a), "b": Fixed(b)}, {"a": 3, "b": 1})
    frames = numbered(1, 1)
    np.testing.assert_allclose(one.probabilities(frames).flatten(), [0.725, 0.125, 0.15], rtol=1e-6)
    assert one.shares() == (0.75, 0.25)
    assert not one.masks(frames)["lv"].any()
    swapped = EnsembleSegmenter(one.members, {"a": 1, "b": 9})
    np.testing.assert_allclose(swapped.probabilities(frames).flatten(), [0.27, 0.19, 0.54], rtol=1e-6)
    assert swapped.masks(frames)["myo"].all()
    assert swapped.fingerprint != one.fingerprint


@pytest.mark.parametrize("classes", [1, 3])
def test_the_mean_of_logits_equals_numpy(classes):
    """The mean of logits is the normalised geometric mean of the probabilities."""
    rng = np.random.default_rng(classes)
    a, b = (soft(rng, 2, classes, 3, 2) for _ in range(2))
    one = EnsembleSegmenter({"a": Fixed(a), "b": Fixed(b)}, {"a": 3, "b": 1}, average="logits")
    p, q = (x.double().numpy() for x in (a, b))
    if classes == 1:
        p, q = (np.concatenate([x, 1 - x], 1) for x in (p, q))
    product = p**0.75 * q**0.25
    expected = (product / product.sum(1, keepdims=True))[:, :classes]
    np.testing.assert_allclose(one.probabilities(numbered(2, 3)), expected, atol=1e-5)
    assert one.fingerprint != EnsembleSegmenter(one.members, one.weights).fingerprint


def test_equal_weights_give_the_plain_mean(case):
    members, frames, _ = case
    mean = torch.stack([m.probabilities(frames) for m in members.values()]).mean(0)
    for weights in (None, dict.fromkeys(members, 0.3)):
        torch.testing.assert_close(EnsembleSegmenter(members, weights).probabilities(frames), mean)
    # the same weights on another scale are the same ensemble
    assert (
        EnsembleSegmenter(members).fingerprint == EnsembleSegmenter(members, dict.fromkeys(members, 4)).fingerprint
    )


def test_weights_are_normalised(case):
    members, frames, _ = case
    one = EnsembleSegmenter(members, dict(zip(members, (0.97, 0.28, 0.64), strict=True)))
    assert sum(one.shares()) == pytest.approx(1)
    total = one.probabilities(frames)
    torch.testing.assert_close(total.sum(1), torch.ones_like(total[:, 0]))
    parts = [m.probabilities(frames) for m in members.values()]
    torch.testing.assert_close(total, (0.97 * parts[0] + 0.28 * parts[1] + 0.64 * parts[2]) / 1.89)


def test_members_of_weight_zero_are_not_run():
    members = {str(seed): untrained_segmenter(SMALL, ["lv", "la"], seed=seed) for seed in (0, 1)}
    assert all(isinstance(member, Member) for member in members.values())
    one = alan.EnsembleSegmenter(members, {"0": 1, "1": 0})
    assert isinstance(one, Member)
    frames = torch.randint(0, 255, (2, 16, 16), dtype=torch.uint8)
    torch.testing.assert_close(one.probabilities(frames), members["0"].probabilities(frames))
    assert sum(1 for _ in one.parameters()) == 2 * sum(1 for _ in members["0"].parameters())
    members["1"].probabilities = None
    one.probabilities(frames)
    assert not one.train().training


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1, "b": 1}, "no weight for c"),
        ({"a": 1, "b": 1, "c": 1, "aa": 1}, "'aa'.*did you mean 'a'"),
        ({"a": -1, "b": 1, "c": 1}, "0 or more"),
        ({"a": 0, "b": 0, "c": 0}, "one of them above 0"),
        ({"a": float("nan"), "b": 1, "c": 1}, "finite"),
    ],
)
def test_invalid_weights_are_refused(case, weights, message):
    with pytest.raises(ParameterError, match=message):
        EnsembleSegmenter(case[0], weights)


def test_incompatible_members_are_refused():
    values = soft(np.random.default_rng(0), 1, 3, 2)
    a = Fixed(values)
    with pytest.raises(ParameterError, match=r"'b' has 3 \(myo, lv\)"):
        EnsembleSegmenter({"a": a, "b": Fixed(values, ("myo", "lv"))})
    with pytest.raises(ParameterError, match=r"different classes.*'b' has 1 \(lv\)"):
        EnsembleSegmenter({"a": a, "b": Fixed(values[:, :1], ("lv",))})
    with pytest.raises(ParameterError, match="at least two"):
        EnsembleSegmenter({"a": a})


def slow_score(probabilities, labels, structures, objective):
    """Mean over frames, then over structures, one mask at a time."""
    named = to_labels(probabilities).numpy()
    means = []
    for value in range(1, structures + 1):
        found = []
        for p, t in zip(named == value, labels.numpy() == value, strict=True):
            bottom = (p | t).sum() if objective == "iou" else p.sum() + t.sum()
            if bottom:
                found.append((p & t).sum() * (1 if objective == "iou" else 2) / bottom)
        means.append(np.mean(found))
    return np.array(means)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("objective", ["iou", "dice"])
@pytest.mark.parametrize("classes", [1, 3])
def test_scores_reuse_the_predictions_of_members(classes, objective, average):
    rng = np.random.default_rng(classes)
    names = ("lv", "myo")[: max(1, classes - 1)]
    members = {n: Fixed(soft(rng, 5, classes, 9, 2), names) for n in "abc"}
    frames, labels = numbered(5, 9), torch.as_tensor(rng.integers(0, len(names) + 1, (5, 9, 9)), dtype=torch.uint8)
    labels[0] = 0
    agreement = collect(members, [(frames[:2], labels[:2]), (frames[2:], labels[2:])])
    parts = [collect(members, [(frames[cut], labels[cut])]) for cut in (slice(0, 3), slice(3, 5))]
    for field in fields(agreement):  # joined folds are one set of frames
        np.testing.assert_array_equal(getattr(join(parts), field.name), getattr(agreement, field.name))
    agreement = replace(agreement, average=average)
    assert 0 < agreement.probabilities.shape[2] < frames.numel()
    for weights in ([1, 1, 1], [0.97, 0.28, 0.64], [0, 1, 0], [5, 0, 1]):
        named = dict(zip("abc", weights, strict=True))
        mean = EnsembleSegmenter(members, named, average=average).probabilities(frames)
        expected = slow_score(mean, labels, len(names), objective)
        np.testing.assert_allclose(agreement.scores(np.array(weights), objective), expected, rtol=1e-12)
        assert agreement.score(np.array(weights), objective) == pytest.approx(expected.mean())
        if objective == "dice" and classes == 3:  # torchmetrics, frame by frame
            theirs = dice_score(
                to_labels(mean), labels.long(), num_classes=3, include_background=False, average="none",
                input_format="index",
            )  # fmt: skip
            np.testing.assert_allclose(agreement.scores(np.array(weights), "dice"), theirs.nanmean(0), rtol=1e-5)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_known_optimum_is_found(sampler):
    """Left half: the truth needs a share of a above 0.7; right half: of b above 0.2. The optimum is 0.7 to 0.8."""
    labels = torch.ones(1, 4, 8, dtype=torch.uint8)
    a, b = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 8)
    a[..., :4], b[..., :4] = 0.5 + 0.3, 0.5 - 0.7  # 0.3 x > 0.7 (1 - x): x > 0.7
    a[..., 4:], b[..., 4:] = 0.5 - 0.2, 0.5 + 0.8  # 0.8 (1 - x) > 0.2 x: x < 0.8
    members = {"a": Fixed(a, ("lv",)), "b": Fixed(b, ("lv",))}
    agreement = collect(members, [(numbered(1, 8)[:, :4], labels)])
    found = search_weights(agreement, ["a", "b"], sampler=sampler, trials=60, progress=False)
    share = found.weights["a"] / sum(found.weights.values())
    assert 0.7 < share < 0.8
    assert (found.score, found.equal, found.members["a"], found.members["b"]) == (1.0, 0.5, 0.5, 0.5)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_fitted_weights_score_at_least_as_the_best_member(case, sampler):
    members, frames, labels = case
    agreement = collect(members, [(frames, labels)])
    for objective in ("iou", "dice"):
        found = search_weights(
            agreement, list(members), sampler=sampler, objective=objective, trials=5, progress=False
        )
        assert found.score >= max(found.equal, *found.members.values())
        expected = EnsembleSegmenter(members, found.weights).probabilities(frames)
        assert found.score == pytest.approx(slow_score(expected, labels, 2, objective).mean())
        assert len(found.history) == 9
        assert found.history["score"].max() == found.score


def test_the_search_depends_on_seed_trials_and_objective(case):
    members, frames, labels = case
    agreement = collect(members, [(frames, labels)])

    def run(**options):
        return search_weights(agreement, list(members), progress=False, **{"trials": 20, **options}).history

    first = run()
    assert first.equals(run())
    assert not first.equals(run(seed=1))
    assert not first["score"].equals(run(objective="dice")["score"])
    assert not first.equals(run(sampler="tpe").replace("tpe", "random"))
    assert len(run(trials=3)) == 7


def test_invalid_searches_are_refused(case, monkeypatch):
    members, frames, labels = case
    agreement = collect(members, [(frames, labels)])
    names = list(members)
    for options, message in (
        ({"sampler": "tpee"}, "did you mean 'tpe'"),
        ({"objective": "io"}, "did you mean 'iou'"),
        ({"trials": 0}, "trials is 0: give a whole number of at least 1"),
    ):
        with pytest.raises(ParameterError, match=message):
            search_weights(agreement, names, **options)
    with pytest.raises(ParameterError, match="2 names for 3 members"):
        search_weights(agreement, names[:2])
    with pytest.raises(ParameterError, match="no frame of the split"):
        search_weights(collect(members, [(frames, labels * 0)]), names)
    with pytest.raises(ParameterError, match="no frame to compare"):
        collect(members, [])
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"alan-echo\[search\]"):
        search_weights(agreement, names, sampler="tpe", progress=False)


def test_flips_are_averaged(tmp_path):
    frames = torch.as_tensor(np.random.default_rng(0).integers(0, 256, (2, 20, 24)), dtype=torch.uint8)
    a, b = (untrained_segmenter(SMALL, ["lv", "myo"], seed=seed) for seed in (0, 1))
    means = [
        torch.stack(
            [one.probabilities(frames.flip(axes)).flip([axis + 1 for axis in axes]) for axes in FLIPS]
        ).mean(0)
        for one in (a, b)
    ]
    flipped = with_flips(a)
    torch.testing.assert_close(flipped.probabilities(frames), means[0])
    assert not torch.allclose(a.probabilities(frames), means[0])
    assert flipped.fingerprint != a.fingerprint
    save_segmenter(flipped, tmp_path / "a.safetensors")
    again = load_segmenter(tmp_path / "a.safetensors")
    assert again.fingerprint == flipped.fingerprint
    torch.testing.assert_close(again.probabilities(frames), means[0])
    one = with_flips(EnsembleSegmenter({"a": a, "b": b}, {"a": 3, "b": 1}))
    torch.testing.assert_close(one.probabilities(frames), 0.75 * means[0] + 0.25 * means[1])
