"""The correspondence loss against its definition, token by token, with gradients."""

import math

import pytest
import torch

from alan.errors import ParameterError
from alan.parcels.losses import LossWeights, correspondence_loss, raptor_loss


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cosine(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def slow_pair(frames, shift, w_a=None, w_b=None):
    """The definition with loops over the tokens (lists of numbers)."""
    f_a, f_b, s_a, s_b = frames
    w_a = [1.0] * len(f_a) if w_a is None else w_a
    w_b = [1.0] * len(f_b) if w_b is None else w_b
    total = weight = 0.0
    for i in range(len(f_a)):
        row = [cosine(f_a[i], f) for f in f_b]
        mean = sum(c * w for c, w in zip(row, w_b, strict=True)) / sum(w_b)
        for j in range(len(f_b)):
            total += w_a[i] * w_b[j] * (row[j] - mean - shift) * max(cosine(s_a[i], s_b[j]), 0.0)
            weight += w_a[i] * w_b[j]
    return -total / weight


def naive(frames, shift, w_a=None, w_b=None):
    """The definition with whole matrices in torch, for gradients."""
    f_a, f_b, s_a, s_b = frames
    unit = torch.nn.functional.normalize
    w_a = torch.ones(f_a.shape[:2], dtype=f_a.dtype) if w_a is None else w_a
    w_b = torch.ones(f_b.shape[:2], dtype=f_a.dtype) if w_b is None else w_b
    features = unit(f_a, dim=-1) @ unit(f_b, dim=-1).mT
    features = features - (features * w_b[:, None]).sum(-1, keepdim=True) / w_b.sum(-1)[:, None, None]
    codes = (unit(s_a, dim=-1) @ unit(s_b, dim=-1).mT).clamp(min=0)
    weights = w_a[:, :, None] * w_b[:, None]
    return -(((features - shift) * codes * weights).sum((1, 2)) / weights.sum((1, 2))).mean()


def inputs(pairs=3, tokens=(7, 5), dim=6, parcels=4):
    g = generator()
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    f_a, f_b = (draw(pairs, t, dim) + 0.5 for t in tokens)
    s_a, s_b = (draw(pairs, t, parcels).softmax(-1) for t in tokens)
    return [x.requires_grad_() for x in (f_a, f_b, s_a, s_b)]


def sector(seed=0, pairs=3, tokens=(7, 5)):
    weights = [(torch.rand(pairs, t, generator=generator(seed)) > 0.4).double() for t in tokens]
    for w in weights:
        w[:, 0] = 1
    return weights


@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_equal_the_definition(masked):
    x = inputs()
    w_a, w_b = sector() if masked else (None, None)
    loss = correspondence_loss(*x, 0.3, w_a=w_a, w_b=w_b)
    slow = [
        slow_pair([t[p].tolist() for t in x], 0.3, *(w[p].tolist() for w in (w_a, w_b) if w is not None))
        for p in range(3)
    ]
    assert loss.item() == pytest.approx(sum(slow) / 3, abs=1e-12)
    gradients = torch.autograd.grad(loss, x)
    expected = torch.autograd.grad(naive(x, 0.3, w_a, w_b), x)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_float32_is_accurate_enough():
    x = [t.detach().float() for t in inputs(tokens=(200, 180), dim=32, parcels=16)]
    loss = correspondence_loss(*x, 0.3)
    torch.testing.assert_close(loss.double(), naive([t.double() for t in x], 0.3), rtol=1e-4, atol=1e-6)


def test_the_loss_matches_hand_computed_values():
    f = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # F = identity, centred: +-1/2
    same, other = f, torch.ones(1, 2, 2)
    assert correspondence_loss(f, f, same, same, 0.3).item() == pytest.approx(-(2 * (0.5 - 0.3)) / 4)
    assert correspondence_loss(f, f, other, other, 0.3).item() == pytest.approx(0.3)  # F sums to 0, S is 1


def test_negative_codes_are_refused():
    f, codes = torch.ones(2, 1, 2, 3), torch.tensor([[[[1.0], [-1.0]]]]).expand(2, 1, 2, 1)
    with pytest.raises(ParameterError, match="codes have negative entries"):
        raptor_loss(f, codes, generator=generator())


def test_a_frame_without_tokens_is_excluded():
    x = inputs()
    w_a, w_b = sector()
    rest = correspondence_loss(*(t[1:] for t in x), 0.3, w_a=w_a[1:], w_b=w_b[1:])
    w_a[0] = 0
    loss = correspondence_loss(*x, 0.3, w_a=w_a, w_b=w_b)
    torch.testing.assert_close(loss, rest)
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, x))
    assert correspondence_loss(*x, 0.3, w_a=torch.zeros_like(w_a), w_b=w_b).item() == 0


def slow_raptor(features, codes, shifts, weights, *, g, token_weights=None):
    """Loops over sequences and frames, with the same draws."""
    b, n = features.shape[:2]
    chosen = torch.randint(n, (b, 1), generator=g)[:, 0]
    step = torch.randint(1, b, (b,), generator=g)
    w = torch.ones(features.shape[:3], dtype=features.dtype) if token_weights is None else token_weights
    terms = {"self": 0.0, "similar": 0.0, "contrast": 0.0}
    for q in range(b):
        o = int(q + step[q]) % b
        assert o != q
        for i in range(n):
            for (name, first, second), shift in zip(
                (("self", (q, i), (q, i)), ("similar", (q, int(chosen[q])), (q, i)), ("contrast", (q, i), (o, i))),
                shifts,
                strict=True,
            ):
                pair = [t[None] for t in (features[first], features[second], codes[first], codes[second])]
                terms[name] = terms[name] + naive(pair, shift, w[first][None], w[second][None]) / (b * n)
    terms["total"] = sum(weight * terms[name] for name, weight in zip(terms, weights, strict=False))
    return terms


@pytest.mark.parametrize("masked", [False, True])
def test_raptor_loss_is_the_sum_over_its_pairs(masked):
    g = generator(1)
    features = torch.randn(4, 3, 6, 5, generator=g, dtype=torch.float64)
    codes = torch.randn(4, 3, 6, 7, generator=g, dtype=torch.float64).softmax(-1).requires_grad_()
    w = (torch.rand(4, 3, 6, generator=g) > 0.3).double() if masked else None
    if masked:
        w[..., 0] = 1
    shifts, weights = LossWeights(0.3, 0.2, 0.1), LossWeights(1.0, 0.5, 0.7)
    terms = raptor_loss(features, codes, shifts=shifts, weights=weights, generator=generator(), token_weights=w)
    expected = slow_raptor(features, codes, shifts, weights, g=generator(), token_weights=w)
    assert list(terms) == ["self", "similar", "contrast", "total"]
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
    (one,), (other,) = (torch.autograd.grad(t["total"], codes) for t in (terms, expected))
    torch.testing.assert_close(one, other)


def test_each_shift_and_weight_changes_its_own_term():
    g = generator(1)
    features, codes = torch.randn(3, 2, 9, 5, generator=g), torch.rand(3, 2, 9, 4, generator=g).softmax(-1)

    def terms(shifts=(0.3, 0.3, 0.3), weights=(1.0, 0.5, 1.0)):
        out = raptor_loss(
            features, codes, shifts=LossWeights(*shifts), weights=LossWeights(*weights), generator=generator()
        )
        return {name: value.item() for name, value in out.items()}

    base = terms()
    for i, name in enumerate(("self", "similar", "contrast")):
        shifted = terms(shifts=tuple(0.4 if j == i else 0.3 for j in range(3)))
        assert {key for key in base if shifted[key] != base[key]} == {name, "total"}
        weighted = terms(weights=tuple(2.0 if j == i else w for j, w in enumerate((1.0, 0.5, 1.0))))
        assert {key for key in base if weighted[key] != base[key]} == {"total"}


def test_draws_depend_only_on_the_generator():
    g = generator(1)
    features, codes = torch.randn(5, 4, 9, 5, generator=g), torch.rand(5, 4, 9, 4, generator=g)
    first, again, other = (
        raptor_loss(features, codes, generator=generator(seed))["total"].item() for seed in (0, 0, 1)
    )
    assert first == again != other


def test_gradients_are_deterministic_with_two_threads():
    g = generator()
    features, codes = (torch.randn(5, 8, 64, width, generator=g) for width in (128, 64))
    codes = codes.softmax(-1)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(4):
            parameter = codes.clone().requires_grad_()
            raptor_loss(features, parameter, generator=generator())["total"].backward()
            gradients.append(parameter.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_a_single_sequence_is_refused():
    with pytest.raises(ParameterError, match=r"1 sequence in the batch.*batch size to 2"):
        raptor_loss(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 2), generator=generator())


def test_shapes_that_do_not_match_are_refused():
    f, s = torch.ones(2, 3, 4), torch.ones(2, 3, 5)
    with pytest.raises(ParameterError, match=r"give \(P, T, D\)"):
        correspondence_loss(f, f, s[:, :2], s, 0.3)
    with pytest.raises(ParameterError, match="same number of pairs and channels"):
        correspondence_loss(f, f[..., :3], s, s, 0.3)
    with pytest.raises(ParameterError, match=r"give \(B, F, T"):
        raptor_loss(f, s, generator=generator())
