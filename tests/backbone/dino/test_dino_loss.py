"""Losses, head, schedules and monitor, compared with plain loops, published formulae and hand-computed values."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alan.backbone.dino.collapse import collapse_statistics, describe_collapse
from alan.backbone.dino.loss import DINOLoss, PatchLoss, other_positions
from alan.backbone.dino.network import DINOHead
from alan.backbone.schedules import Schedule
from alan.errors import ParameterError


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class PublishedDINOLoss:
    """DINOLoss of the published training script, retyped for one process (without its NumPy schedule)."""

    def __init__(self, out_dim, ncrops, student_temp=0.1, center_momentum=0.9):
        self.student_temp, self.center_momentum, self.ncrops = student_temp, center_momentum, ncrops
        self.center = torch.zeros(1, out_dim)

    def __call__(self, student_output, teacher_output, temp):
        student_out = (student_output / self.student_temp).chunk(self.ncrops)
        teacher_out = F.softmax((teacher_output - self.center) / temp, dim=-1).detach().chunk(2)
        total_loss, n_loss_terms = 0, 0
        for iq, q in enumerate(teacher_out):
            for v in range(len(student_out)):
                if v == iq:
                    continue
                total_loss += torch.sum(-q * F.log_softmax(student_out[v], dim=-1), dim=-1).mean()
                n_loss_terms += 1
        batch_center = torch.sum(teacher_output, dim=0, keepdim=True) / len(teacher_output)
        self.center = self.center * self.center_momentum + batch_center * (1 - self.center_momentum)
        return total_loss / n_loss_terms


def test_dino_loss_equals_the_published_code():
    ours, published = DINOLoss(7), PublishedDINOLoss(7, ncrops=5)
    for step in range(4):
        student, teacher = randn(5 * 3, 7, seed=step).requires_grad_(), randn(2 * 3, 7, seed=10 + step)
        loss = ours(student, teacher, 3, 0.04)
        ours.update_centre(teacher.mean(0))
        expected = published(student, teacher, 0.04)
        torch.testing.assert_close(loss, expected)
        gradient, wanted = (torch.autograd.grad(value, student)[0] for value in (loss, expected))
        torch.testing.assert_close(gradient, wanted)
    torch.testing.assert_close(ours.centre[None], published.center)


def test_dino_loss_equals_a_plain_loop():
    student, teacher = randn(4 * 2, 3).double(), randn(2 * 2, 3, seed=1).double()
    total = 0.0
    for frame in range(2):
        for g in range(2):
            for v in range(4):
                if g != v:
                    t = np.exp(teacher[g * 2 + frame].numpy() / 0.07)
                    s = np.exp(student[v * 2 + frame].numpy() / 0.2)
                    total -= float((t / t.sum() * np.log(s / s.sum())).sum()) / 2 / 6
    loss = DINOLoss(3, student_temperature=0.2)(student, teacher, 2, 0.07)
    assert loss.item() == pytest.approx(total, rel=1e-5)


def test_an_uninformed_student_has_loss_ln_k():
    assert DINOLoss(8)(torch.zeros(6, 8), randn(4, 8), 2, 0.04).item() == pytest.approx(math.log(8))


def test_each_parameter_changes_the_dino_loss():
    student, teacher = randn(6, 5), randn(4, 5, seed=1)
    base = DINOLoss(5)(student, teacher, 2, 0.04).item()
    assert abs(DINOLoss(5, 0.2)(student, teacher, 2, 0.04).item() - base) > 1e-3
    assert abs(DINOLoss(5)(student, teacher, 2, 0.5).item() - base) > 1e-3
    centres = [DINOLoss(5, centre_momentum=m) for m in (0.5, 0.9)]
    for loss in centres:
        loss.update_centre(torch.ones(5))
    assert [loss.centre[0].item() for loss in centres] == pytest.approx([0.5, 0.1])


def boxes_by_hand():
    """First crop: the left half of the frame; second crop: the middle half, mirrored."""
    return torch.tensor([[0.5, 1.0, -0.5, 0.0], [-0.5, 1.0, 0.0, 0.0]])


def test_positions_of_other_crops_match_hand_computed_values():
    positions = other_positions(boxes_by_hand(), 2)  # patch centres at -0.5, 0.5 of a crop
    # first crop's columns lie at x = -0.75 and -0.25 of the frame: 1.5 and 0.5 of the mirrored middle
    assert torch.allclose(positions[0, 0, :, 0], torch.tensor([1.5, 0.5]))
    # second crop's columns lie at x = 0.25 and -0.25: 1.5 and 0.5 of the left half
    assert torch.allclose(positions[1, 1, :, 0], torch.tensor([1.5, 0.5]))
    assert torch.allclose(positions[..., 0, 1], torch.tensor([[-0.5, 0.5], [-0.5, 0.5]]))


def test_patch_loss_matches_hand_computed_values():
    """Each crop has four columns; every shared patch coincides with a patch centre of the other crop."""
    n, k = 4, 5
    student, teacher = randn(2, n, n, k), randn(2, n, n, k, seed=1)
    inside = torch.ones(2, n, n, dtype=torch.bool)
    inside[0, 0, 3] = False
    loss = PatchLoss(k)
    loss.update_centre(randn(k, seed=2))
    # first crop's columns 2, 3 are the second one's 3, 2 (mirrored), and the other way round
    terms = []
    for crop in range(2):
        for row in range(n):
            for column, other in ((2, 3), (3, 2)):
                if inside[crop, row, column]:
                    q = ((teacher[1 - crop, row, other] - loss.centre) / 0.05).softmax(-1)
                    terms.append(-(q * (student[crop, row, column] / 0.1).log_softmax(-1)).sum())
    assert len(terms) == 15
    result = loss(student, teacher, boxes_by_hand(), inside)
    torch.testing.assert_close(result, torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)


def test_patch_loss_without_overlap_is_zero():
    student, teacher = randn(4, 4, 4, 6), randn(4, 4, 4, 6, seed=1)
    everywhere = torch.ones(4, 4, 4, dtype=torch.bool)
    apart = torch.tensor([[0.2, 0.2, -0.8, 0.0], [0.2, 0.2, 0.8, 0.0]]).repeat_interleave(2, 0)
    assert PatchLoss(6)(student, teacher, apart, everywhere) == 0
    same = torch.tensor([[0.7, 0.6, 0.1, 0.0]]).repeat(4, 1)
    assert PatchLoss(6)(student, teacher, same, ~everywhere) == 0
    values = [
        PatchLoss(6, student_temperature=s, teacher_temperature=t)(student, teacher, same, everywhere).item()
        for s, t in ((0.1, 0.05), (0.2, 0.05), (0.1, 0.5))
    ]
    assert min(abs(values[0] - values[1]), abs(values[0] - values[2])) > 1e-3


def test_equal_patches_have_the_entropy_as_loss():
    logits = randn(2, 3, 3, 6)
    same = torch.tensor([[0.7, 0.6, 0.1, 0.0]]).repeat(2, 1)
    both = logits[:1].repeat(2, 1, 1, 1)
    loss = PatchLoss(6, student_temperature=0.3, teacher_temperature=0.3)
    p = (both / 0.3).softmax(-1)
    expected = -(p * p.log()).sum(-1).mean()
    torch.testing.assert_close(loss(both, both, same, torch.ones(2, 3, 3, dtype=torch.bool)), expected)


def published_cosine_scheduler(
    base_value, final_value, epochs, niter_per_ep, *, warmup_epochs=0, start_warmup_value=0
):
    warmup_schedule = np.array([])
    warmup_iters = warmup_epochs * niter_per_ep
    if warmup_epochs > 0:
        warmup_schedule = np.linspace(start_warmup_value, base_value, warmup_iters)
    iters = np.arange(epochs * niter_per_ep - warmup_iters)
    schedule = final_value + 0.5 * (base_value - final_value) * (1 + np.cos(np.pi * iters / len(iters)))
    return np.concatenate((warmup_schedule, schedule))


@pytest.mark.parametrize(
    ("base", "final", "warmup"), [(5e-4, 1e-6, 10), (0.04, 0.4, 0), (0.996, 1, 0), (0.07, 0.07, 30)]
)
def test_schedules_equal_the_published_code(base, final, warmup):
    expected = published_cosine_scheduler(base, final, 40, 7, warmup_epochs=warmup)
    schedule = Schedule(base, final, 280, warmup * 7)
    np.testing.assert_allclose([schedule(step) for step in range(280)], expected, rtol=1e-12, atol=1e-15)
    assert schedule(1000) == schedule(279)


def test_teacher_temperature_rises_linearly_then_stays_constant():
    schedule = Schedule(0.07, 0.07, 10, 4, 0.04)
    assert [schedule(step) for step in range(6)] == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07, 0.07])
    with pytest.raises(ParameterError, match="warmup is 6: give at most the 5 steps"):
        Schedule(1, 0, 5, 6)


def test_head_equals_the_published_code():
    """The published head: MLP, L2 norm, weight_norm with its gain fixed at 1."""
    head = DINOHead(6, 9, hidden=8, bottleneck=4)
    last = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 9, bias=False))
    last.parametrizations.weight.original0.data.fill_(1)
    last.parametrizations.weight.original1.data.copy_(head.last_layer.weight.data)
    x = randn(5, 6)
    expected = last(F.normalize(head.mlp(x), dim=-1, p=2))
    torch.testing.assert_close(head(x), expected)
    assert head(x).abs().max() <= 1
    assert [type(layer).__name__ for layer in head.mlp] == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    wide = DINOHead(100, 9, hidden=100, bottleneck=4)
    assert wide.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_each_head_option_changes_the_head():
    names = [type(layer).__name__ for layer in DINOHead(6, 9, hidden=8, bottleneck=4, batch_norm=True).mlp]
    assert names == ["Linear", "BatchNorm1d", "GELU"] * 2 + ["Linear"]
    assert DINOHead(6, 9, hidden=8, bottleneck=4, initialisation="xavier").mlp[0].weight.abs().max() > 0.3
    with pytest.raises(ParameterError, match="outputs"):
        DINOHead(6, 1)


def test_collapse_monitor_matches_hand_computed_values():
    uniform, single = torch.full((4, 4), 0.25), torch.eye(4)
    cls = torch.tensor([[1.0, 0], [0, 2], [-3, 0], [0, -1]])
    found = collapse_statistics(uniform, cls)
    assert found == pytest.approx({"teacher_entropy": math.log(4), "mean_entropy": math.log(4), "spread": 1.0})
    assert "uniform" in describe_collapse(found, 4)
    healthy = collapse_statistics(single, cls)
    assert healthy == pytest.approx({"teacher_entropy": 0, "mean_entropy": math.log(4), "spread": 1.0})
    assert describe_collapse(healthy, 4) is None
    assert "one prototype" in describe_collapse(collapse_statistics(single[[1, 1, 1, 1]], cls), 4)
    assert "same features" in describe_collapse(collapse_statistics(single, torch.ones(4, 2)), 4)
