import numpy as np
import pytest
import torch

from alan.errors import ParameterError
from alan.supervised.losses import WeightedLosses
from alan.supervised.scores import SegmentationScores


def batch(classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 5, 4, generator=generator)
    labels = torch.randint(0, max(2, classes), (3, 5, 4), generator=generator).to(torch.uint8)
    return logits, labels


def probabilities(logits):
    x = logits.double().numpy()
    if x.shape[1] == 1:
        return 1 / (1 + np.exp(-x))
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def by_hand(name, logits, labels):
    """Each loss pixel by pixel."""
    p, y = probabilities(logits), labels.numpy()
    binary = p.shape[1] == 1
    if name == "dice":
        scores = []
        for c in range(p.shape[1]):
            target = y == (1 if binary else c)
            both = sum(p[n, c, i, j] for n, i, j in np.ndindex(y.shape) if target[n, i, j])
            scores.append(1 - 2 * both / (p[:, c].sum() + target.sum()))
        return np.mean(scores)
    values = []
    for n, i, j in np.ndindex(y.shape):
        if name == "cross_entropy":
            values.append(-np.log(p[n, y[n, i, j], i, j]))
        elif name == "softmax_focal":
            q = p[n, y[n, i, j], i, j]
            values.append(-((1 - q) ** 2) * np.log(q))
        elif name == "bce":
            q = p[n, 0, i, j]
            values.append(-np.log(q if y[n, i, j] else 1 - q))
        else:  # focal, gamma 2: each class against the others, on the sigmoid of its logit
            for c in range(p.shape[1]):
                q = 1 / (1 + np.exp(-float(logits[n, c, i, j])))
                right = q if y[n, i, j] == (1 if binary else c) else 1 - q
                values.append(-((1 - right) ** 2) * np.log(right))
    return np.mean(values)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("dice", 1),
        ("dice", 4),
        ("focal", 1),
        ("focal", 4),
        ("bce", 1),
        ("cross_entropy", 4),
        ("cross_entropy", 3),
        ("softmax_focal", 4),
    ],
)
def test_each_loss_matches_hand_computed_values(name, classes, seed):
    logits, labels = batch(classes, seed)
    values = WeightedLosses({name: 2.5}, classes)(logits, labels)
    expected = by_hand(name, logits, labels)
    assert float(values[name]) == pytest.approx(expected, rel=1e-4)
    assert float(values["total"]) == pytest.approx(2.5 * expected, rel=1e-4)


def test_dice_loss_of_four_pixels_matches_hand_computed_values():
    """Probabilities 1, 1/2, 0, 0 against labels 1, 1, 0, 0: 2 x 1.5 / (1.5 + 2)."""
    logits = torch.tensor([50.0, 0.0, -50.0, -50.0]).view(1, 1, 2, 2)
    labels = torch.tensor([1, 1, 0, 0], dtype=torch.uint8).view(1, 2, 2)
    assert float(WeightedLosses({"dice": 1.0}, 1)(logits, labels)["total"]) == pytest.approx(1 - 3 / 3.5)


def test_dice_loss_leaves_out_a_class_that_no_pixel_has():
    logits, labels = batch(3)
    labels[labels == 2] = 0
    p, y = probabilities(logits), labels.numpy()
    terms = [1 - 2 * p[:, c][y == c].sum() / (p[:, c].sum() + (y == c).sum()) for c in (0, 1)]
    assert float(WeightedLosses({"dice": 1.0}, 3)(logits, labels)["total"]) == pytest.approx(sum(terms) / 3)


def test_losses_are_summed_with_their_weights():
    logits, labels = batch(3)
    logits.requires_grad_()
    values = WeightedLosses({"dice": 0.25, "focal": 2.0, "cross_entropy": 1.0}, 3)(logits, labels)
    expected = 0.25 * values["dice"] + 2 * values["focal"] + values["cross_entropy"]
    assert torch.allclose(values["total"], expected)
    values["total"].backward()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("weights", "classes", "message"),
    [
        ({}, 1, "losses is empty"),
        ({"dise": 1.0}, 1, "unknown loss 'dise': did you mean 'dice'"),
        ({"dice": 0.0}, 1, r"weights\[dice\] is 0.0: give a number above 0"),
        ({"dice": float("nan")}, 1, r"weights\[dice\] is nan"),
        ({"bce": 1.0}, 3, r"'bce' does not fit 3 class\(es\): take 'cross_entropy'"),
        ({"cross_entropy": 1.0}, 1, "take 'bce'"),
        ({"softmax_focal": 1.0}, 1, "take 'focal'"),
    ],
)
def test_invalid_losses_are_refused(weights, classes, message):
    with pytest.raises(ParameterError, match=message):
        WeightedLosses(weights, classes)


def test_scores_match_hand_computed_values():
    rng = np.random.default_rng(0)
    predicted, labels = rng.integers(0, 3, (2, 7, 6, 5))
    labels[1][labels[1] == 2] = 0
    predicted[1][predicted[1] == 2] = 1  # image 1: structure b in neither, does not count
    labels[2], predicted[2] = 0, 1  # image 2: structure a predicted where there is none, counts 0
    scores = SegmentationScores(["a", "b"])
    for part in (slice(0, 3), slice(3, 7)):
        scores.update(torch.from_numpy(predicted[part]), torch.from_numpy(labels[part]))
    found = scores.compute()
    means = {}
    for value, name in ((1, "a"), (2, "b")):
        dice, iou = [], []
        for p, y in zip(predicted == value, labels == value, strict=True):
            if p.sum() + y.sum():
                dice.append(2 * (p & y).sum() / (p.sum() + y.sum()))
                iou.append((p & y).sum() / (p | y).sum())
        means[f"dice_{name}"], means[f"iou_{name}"] = np.mean(dice), np.mean(iou)
    means["dice"] = (means["dice_a"] + means["dice_b"]) / 2
    means["iou"] = (means["iou_a"] + means["iou_b"]) / 2
    means["accuracy"] = (predicted == labels).mean()
    assert {name: float(value) for name, value in found.items()} == pytest.approx(means, abs=1e-6)
    scores.update(torch.ones(1, 2, 2), torch.ones(1, 2, 2))  # and it starts anew
    again = scores.compute()
    assert float(again["dice_a"]) == 1
    assert torch.isnan(again["dice_b"])
    assert torch.isnan(again["dice"])
