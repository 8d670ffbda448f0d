"""Losses of the dense targets, compared with plain loops and hand-made cases, and shapes of the heads."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from alan.backbone.conv import ConvSpec
from alan.backbone.simulation.heads import (
    DenseHeads,
    DenseLabels,
    Outputs,
    TargetWeights,
    agreement_losses,
    dense_losses,
    features_loss,
    frame_dice_loss,
    masked_smooth_l1,
    tissue_loss,
)
from alan.backbone.vit import VitSpec
from alan.errors import ParameterError

NAMES = ("lv", "myo", "la")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outputs(n=2, side=12, seed=0):
    shapes = ((n, 4, side, side), (n, 3, side, side), (n, 2, side, side), (n, 4), (n,), (n, 5))
    return Outputs(*(random(*shape, seed=seed + i) for i, shape in enumerate(shapes)))


def truth(n=2, side=12):
    labels = torch.zeros(n, side, side, dtype=torch.uint8)
    labels[:, 1:7, 3:8], labels[:, 7:11, 3:8] = 1, 3
    labels[:, 1:7, 8] = 2
    sector = torch.ones(n, side, side, dtype=torch.bool)
    sector[..., 11] = False
    return DenseLabels(labels, sector, torch.tensor([1, -1][:n]), torch.tensor([0.25, math.nan][:n]))


def test_tissue_loss_equals_a_loop_over_pixels():
    logits, labels = random(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(1))
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    entropy, both, total = 0.0, np.zeros(3), np.zeros(3)
    for b, y, x in np.ndindex(2, 4, 5):
        true = int(labels[b, y, x])
        entropy -= math.log(p[b, true, y, x]) / 40
        for k in range(3):
            both[k] += p[b, k, y, x] * (k == true)
            total[k] += p[b, k, y, x] + (k == true)
    dice = (2 * both + 1) / (total + 1)
    assert tissue_loss(logits, labels).item() == pytest.approx(entropy + 1 - dice[1:].mean(), rel=1e-5)


def test_small_structures_count_as_much_as_large_ones():
    """Of two frames one shows 2 and one 20 pixels of the only structure, each found by half; one shows none."""
    labels = torch.zeros(3, 4, 10, dtype=torch.uint8)
    labels[0, 0, :2], labels[1, :2] = 1, 1
    found = torch.zeros(3, 4, 10, dtype=torch.long)
    found[0, 0, 0], found[1, 0], found[2, 3] = 1, 1, 1
    logits = 30.0 * torch.nn.functional.one_hot(found, 2).permute(0, 3, 1, 2)
    assert frame_dice_loss(logits, labels).item() == pytest.approx(1 - 2 / 3, rel=1e-5)
    assert frame_dice_loss(logits[:1], labels[:1]) == pytest.approx(frame_dice_loss(logits[1:2], labels[1:2]))
    assert frame_dice_loss(logits[2:], labels[2:]) == 0


def test_the_error_of_vectors_is_relative_to_their_spread():
    target = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    assert features_loss(target, target) == 0
    assert features_loss(target.mean(0).expand(2, 2), target) == 1
    assert features_loss(10 * target + 5, 10 * target) == pytest.approx(100 / 200)


def test_smooth_l1_matches_hand_computed_values():
    values, target = torch.tensor([0.0, 0.05, 1.0, 9.0]), torch.zeros(4)
    known = torch.tensor([True, True, True, False])
    expected = (0 + 0.05**2 / 0.2 + (1 - 0.05)) / 3
    assert masked_smooth_l1(values, target, known).item() == pytest.approx(expected)
    assert masked_smooth_l1(values, target, torch.zeros(4, dtype=torch.bool)) == 0


def test_agreement_matches_hand_computed_values():
    """Two pixels with a confidence of 0.9, one of them outside; two pixels below the threshold."""
    tissue = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]).T.reshape(1, 2, 2, 2)
    teacher = tissue, torch.full((1, 3, 2, 2), 1.0)
    student = outputs(1, 2)._replace(tissue=torch.zeros(1, 2, 2, 2), distance=torch.zeros(1, 3, 2, 2))
    inside = torch.tensor([[[True, False], [True, True]]])
    found = agreement_losses(student, *teacher, inside, 0.6)
    assert found["tissue"].item() == pytest.approx(math.log(2) * (0.9 - 0.6) / 0.4 / 3)
    assert found["distance"].item() == pytest.approx(0.95)
    assert agreement_losses(student, *teacher, inside, 0.0)["tissue"] > found["tissue"]
    assert all(x == 0 for x in agreement_losses(student, *teacher, inside & False, 0.6).values())


def losses(weights, answer=None, known=None, size=24):
    return dense_losses(answer or outputs(), known or truth(), structures=NAMES, weights=weights, size=size)


def test_every_target_has_a_loss_that_can_be_switched_off():
    everything = TargetWeights(small=0.5)
    full = losses(everything)
    names = ["tissue", "distance", "coordinates", "view", "phase", "small"]
    assert list(full) == names
    assert all(x.isfinite() and x > 0 for x in full.values())
    for name in names:
        less = losses(replace(everything, **{name: 0.0}))
        assert list(less) == [other for other in names if other != name]
        assert all(torch.equal(less[other], full[other]) for other in less)
    assert losses(TargetWeights(clip=3.0))["distance"] != full["distance"]
    assert losses(TargetWeights(), size=48)["distance"] != full["distance"]  # a step of the grid is four pixels


def test_view_and_phase_losses_match_hand_computed_values():
    answer, known = outputs(), truth()
    found = losses(TargetWeights(), answer, known)
    assert found["view"].item() == pytest.approx(-answer.view[0].log_softmax(0)[1].item(), rel=1e-5)
    error = abs(answer.phase[0].item() - 0.25)
    assert found["phase"].item() == pytest.approx(error - 0.05 if error > 0.1 else error**2 / 0.2, rel=1e-5)
    nothing = known._replace(view=torch.tensor([-1, -1]), phase=torch.full((2,), math.nan))
    found = losses(TargetWeights(), answer, nothing)
    assert found["view"] == found["phase"] == 0


def test_perfect_predictions_have_no_loss():
    known = truth()
    from alan.backbone.simulation.targets import signed_distances, ventricle_coordinates, wall_masks

    lv, la = known.labels == 1, known.labels == 3
    answer = outputs()._replace(
        tissue=20.0 * torch.nn.functional.one_hot(known.labels.long(), 4).permute(0, 3, 1, 2),
        distance=signed_distances(wall_masks(known.labels, NAMES), 5.0),
        coordinates=ventricle_coordinates(lv, la, known.sector).values,
    )
    found = losses(TargetWeights(clip=10.0), answer, known)  # a step is two of 24 pixels
    assert found["tissue"] < 1e-4
    assert found["distance"] == found["coordinates"] == 0
    for name in ("distance", "coordinates"):
        worse = answer._replace(**{name: getattr(answer, name) + 0.3})
        assert losses(TargetWeights(clip=10.0), worse, known)[name] > 0.2


@pytest.mark.parametrize(
    ("spec", "side"),
    [
        (ConvSpec(image_size=32, widths=(4, 6, 8), structures=NAMES), 32),
        (ConvSpec(image_size=32, widths=(4, 6, 8), stem_stride=2, structures=NAMES), 16),
        (VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2), 16),
        (VitSpec(image_size=32, patch_size=4, in_chans=1, dim=16, depth=1, heads=2), 16),
    ],
    ids=["conv", "stem", "vit8", "vit4"],
)
def test_heads_have_the_documented_shapes(spec, side):
    network = spec.build_seeded(0)
    found = DenseHeads(spec, 3)(network, random(2, 1, 32, 32))
    vector = spec.widths_of_tokens[0]
    shapes = [(2, 4, side, side), (2, 3, side, side), (2, 2, side, side), (2, 4), (2,), (2, vector)]
    assert [tuple(x.shape) for x in found] == shapes
    assert [tuple(x.shape) for x in found.part(1)] == [(1, *shape[1:]) for shape in shapes]
    loss = torch.stack([x.square().mean() for x in found]).sum()
    loss.backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if "fc_norm" not in name)


def test_invalid_arguments_are_refused():
    for entry in fields(TargetWeights):
        with pytest.raises(ParameterError, match=f"{entry.name} is -1"):
            TargetWeights(**{entry.name: -1})
    with pytest.raises(ParameterError, match="clip is 0"):
        TargetWeights(clip=0)
    with pytest.raises(ParameterError, match="nothing would be learned"):
        TargetWeights(0, 0, 0, 0, 0, 0)
    with pytest.raises(ParameterError, match="name the same ones"):
        DenseHeads(ConvSpec(image_size=32), 3)
