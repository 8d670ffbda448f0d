"""Alignment of the class shares of a teacher with those of the simulator."""

import pytest
import torch

from alan.backbone.simulation.alignment import ShareAlignment


def answers(*shares):
    """One pixel per row of probabilities: (1, C, 1, n)."""
    return torch.tensor(shares).T[None, :, None]


def test_aligned_probabilities_match_hand_computed_values():
    """Simulator 3/4 and 1/4, teacher 9/10 and 1/10 on the mean: odds times (1/4 / 1/10) / (3/4 / 9/10) = 3."""
    align = ShareAlignment(2)
    align.observe(torch.tensor([[[0, 0], [0, 1]]], dtype=torch.uint8))
    found = align(answers([0.95, 0.05], [0.85, 0.15]))
    odds = [3 * 0.05 / 0.95, 3 * 0.15 / 0.85]
    torch.testing.assert_close(found[0, 1, 0], torch.tensor([x / (1 + x) for x in odds]))
    torch.testing.assert_close(found.sum(1), torch.ones(1, 1, 2))


def test_equal_shares_change_nothing():
    align = ShareAlignment(2)
    align.observe(torch.tensor([[[0, 1]]]))
    given = answers([0.9, 0.1], [0.1, 0.9])
    torch.testing.assert_close(align(given), given)


@pytest.mark.parametrize(("strength", "factor"), [(0.0, 1.0), (0.5, 3**0.5), (1.0, 3.0)])
def test_strength_is_the_exponent_of_the_ratio(strength, factor):
    align = ShareAlignment(2, strength)
    align.observe(torch.tensor([[[0, 0, 0, 1]]]))
    found = align(answers([0.9, 0.1]))[0, :, 0, 0]
    torch.testing.assert_close(found[1] / found[0], torch.tensor(factor / 9))


def test_shares_are_running_means():
    align = ShareAlignment(2)
    align.observe(torch.tensor([[[0, 0]]]))
    align.observe(torch.tensor([[[1, 1]]]))
    torch.testing.assert_close(align.simulated, torch.tensor([0.98, 0.02]))
    align(answers([1.0, 0.0]))
    align(answers([0.0, 1.0]))
    torch.testing.assert_close(align.unlabelled, torch.tensor([0.98, 0.02]))
    assert set(align.state_dict()) == {"simulated", "unlabelled"}  # a resumed run continues with them


def test_a_class_that_never_occurs_stays_finite():
    align = ShareAlignment(2)
    align.observe(torch.tensor([[[0, 1]]]))
    assert torch.isfinite(align(answers([1.0, 0.0]))).all()


def test_alignment_restores_a_fading_class():
    """A student that loses a third of the odds at each copy loses the class, unless its shares are aligned."""
    shares = {}
    for strength in (0.0, 1.0):
        align, p = ShareAlignment(2, strength), torch.full((1, 2, 8, 8), 0.5)
        for _ in range(30):
            align.observe(torch.tensor([[[0, 1]]]))
            odds = align(p)[:, 1:] / align(p)[:, :1] * 2 / 3
            p = torch.cat([1 / (1 + odds), odds / (1 + odds)], 1)
        shares[strength] = float(p[:, 1].mean())
    assert shares[0.0] < 0.01
    assert shares[1.0] > 0.2
