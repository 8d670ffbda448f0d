"""SmooSeg: energy, compared with plain loops, teacher, exact resuming and settings."""

import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn import functional as F

from alan.errors import CheckpointError, ParameterError
from alan.parcels.heads import SmooSegHead, build_head
from alan.parcels.losses import LossWeights
from alan.parcels.model import load_parcels
from alan.parcels.raptor import RaptorModule
from alan.parcels.smooseg import SmooSegModule, data_loss, smoothness_loss
from alan.parcels.training import TokenBatch

RUNS = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("training_runs.py"))))
fit, weights, equal = RUNS.fit, RUNS.weights, RUNS.equal


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_pair(a, b, shift):
    """Mean over pairs of tokens of (F - b)(1 - cos of assignments), token by token."""
    (f_a, s_a, w_a), (f_b, s_b, w_b) = a, b
    total = mass = 0.0
    for i in range(len(f_a)):
        row = [float(F.cosine_similarity(f_a[i], f_b[j], 0)) for j in range(len(f_b))]
        centre = sum(r * float(w) for r, w in zip(row, w_b, strict=True)) / float(w_b.sum())
        for j in range(len(f_b)):
            delta = 1 - float(F.cosine_similarity(s_a[i], s_b[j], 0))
            weight = float(w_a[i] * w_b[j])
            total += weight * (row[j] - centre - shift) * delta
            mass += weight
    return total / mass


@pytest.mark.parametrize("weighted", [False, True])
def test_the_smoothness_term_equals_the_double_sum(weighted):
    g = generator()
    f = torch.randn(2, 2, 5, 4, generator=g, dtype=torch.float64)
    s = torch.randn(2, 2, 5, 3, generator=g, dtype=torch.float64).softmax(-1)
    w = torch.randint(0, 2, (2, 2, 5), generator=g).double() if weighted else torch.ones(2, 2, 5).double()
    w[..., 0] = 1
    shifts, shares = LossWeights(-0.02, 0.1, 0.5), LossWeights(1.0, 0.3, 0.7)
    terms = smoothness_loss(
        f, s, shifts=shifts, weights=shares, generator=generator(3), token_weights=w if weighted else None
    )
    draw = generator(3)
    chosen = torch.randint(2, (2, 1), generator=draw)[:, 0]  # contrasts each of two sequences with the other
    pairs = {
        "self": [((b, t), (b, t)) for b in range(2) for t in range(2)],
        "similar": [((b, int(chosen[b])), (b, t)) for b in range(2) for t in range(2)],
        "contrast": [((b, t), (1 - b, t)) for b in range(2) for t in range(2)],
    }

    def at(place):
        return f[place], s[place], w[place]

    total = 0.0
    for (name, among), shift, share in zip(pairs.items(), shifts, shares, strict=True):
        expected = sum(slow_pair(at(a), at(b), shift) for a, b in among) / len(among)
        assert float(terms[name]) == pytest.approx(expected, abs=1e-9)
        total += share * expected
    assert float(terms["total"]) == pytest.approx(total, abs=1e-9)


def test_equal_assignments_have_no_smoothness_loss():
    f, s = torch.randn(2, 2, 6, 4, generator=generator()), torch.ones(2, 2, 6, 3) / 3
    terms = smoothness_loss(
        f, s, shifts=LossWeights(0.1, 0.2, 0.5), weights=LossWeights(1, 1, 1), generator=generator()
    )
    assert all(abs(float(term)) < 1e-5 for term in terms.values())


def test_the_data_term_equals_the_cross_entropy():
    cosines = torch.tensor([[0.5, -0.5], [1.0, 0.0], [0.0, 0.2]])
    target, w = torch.tensor([0, 1, 1]), torch.tensor([1.0, 2.0, 0.0])

    def one(right, wrong, t):
        return math.log(1 + math.exp((wrong - right) / t))

    for t in (1.0, 0.2):
        each = [one(0.5, -0.5, t), one(0.0, 1.0, t), one(0.2, 0.0, t)]
        assert float(data_loss(cosines, target, t)) == pytest.approx(sum(each) / 3, rel=1e-5)
        assert float(data_loss(cosines, target, t, w)) == pytest.approx((each[0] + 2 * each[1]) / 3, rel=1e-5)
    assert float(data_loss(cosines, target, 1.0, torch.zeros(3))) == 0


def head(**options):
    return SmooSegHead(6, 4, **{"n_codes": 5, "generator": generator()} | options)


def test_the_head_equals_its_formula():
    net = head().eval()
    net.set_statistics(torch.randn(6, generator=generator(1)), torch.rand(6, generator=generator(2)) + 0.5)
    net.teacher.normal_(generator=generator(3))
    tokens = torch.randn(2, 3, 6, generator=generator(4))
    x = (tokens - net.mean) / net.std
    h = x @ net.hidden.weight.T + net.hidden.bias
    code = x @ net.direct.weight.T + net.direct.bias + (h * h.sigmoid()) @ net.out.weight.T + net.out.bias
    logits = torch.stack([F.cosine_similarity(code, row, -1) for row in net.teacher], -1) / 0.1
    torch.testing.assert_close(net(tokens), logits, rtol=1e-4, atol=1e-4)
    again = build_head(net.settings(), net.state_dict()).eval()
    torch.testing.assert_close(again(tokens), net(tokens), rtol=0, atol=0)
    assert not torch.equal(head(dropout=0.5).train()(tokens), head(dropout=0.5).eval()(tokens))


def test_the_teacher_follows_the_student_slowly():
    net = head()
    before = net.teacher.clone()
    with torch.no_grad():
        net.student.add_(1.0)
    net.update_teacher(0.9)
    torch.testing.assert_close(net.teacher, before + 0.1)


def test_projector_and_prototypes_learn_from_their_own_terms(backbone):
    """Smoothness moves the projector alone, the data term the student's prototypes alone."""
    module = SmooSegModule(backbone, n_parcels=4)
    batch = TokenBatch(torch.randn(2, 2, 9, 16, generator=generator()), None)
    terms = module.terms(batch)
    parts = {"data": terms["data"], "smooth": terms["self"] + terms["contrast"]}
    for name, part in parts.items():
        module.zero_grad()
        part.backward(retain_graph=True)
        moved = {key for key, p in module.head.named_parameters() if p.grad is not None and p.grad.any()}
        expected = {"student"} if name == "data" else {
            f"{layer}.{kind}" for layer in ("direct", "hidden", "out") for kind in ("weight", "bias")
        }  # fmt: skip
        assert moved == expected


def test_training_lowers_the_energy_and_logs_its_parts(backbone):
    module = SmooSegModule(backbone, n_parcels=6, weight_data=0.5)
    rows, _ = fit(module, steps=40)
    for row in rows:
        total = row["loss_self"] + row["loss_contrast"] + 0.5 * row["loss_data"]
        assert row["loss"] == pytest.approx(total, rel=1e-4, abs=1e-6)
    assert sum(row["loss"] for row in rows[-5:]) < sum(row["loss"] for row in rows[:5])
    assert not torch.equal(module.head.teacher, module.head.student)


def test_a_resumed_run_equals_the_uninterrupted_one(backbone, tmp_path):
    whole, first, second = (SmooSegModule(backbone, n_parcels=4, sector_only=True) for _ in range(3))
    fit(whole, steps=6)
    fit(first, steps=4, callbacks=[ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=1)])
    fit(second, steps=6, ckpt_path=tmp_path / "last.ckpt")
    assert equal(weights(whole), weights(second))
    assert load_parcels(tmp_path / "last.ckpt").fingerprint == first.parcels().fingerprint
    first.export(tmp_path / first.export_name)
    assert load_parcels(tmp_path / first.export_name).fingerprint == first.parcels().fingerprint
    with pytest.raises(CheckpointError, match="not one of a RAPTOR training"):
        fit(RaptorModule(backbone, n_parcels=4), ckpt_path=tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="not one of a SmooSeg training"):
        second.on_load_checkpoint({})


def test_arguments_out_of_range_are_refused(backbone):
    for options, message in (
        ({"n_parcels": 300}, "n_parcels is 300"),
        ({"n_codes": 0}, "n_codes is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"student_temperature": 0.0}, "student_temperature is 0.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"lr_prototypes": 0.0}, "lr_prototypes is 0.0"),
        ({"weight_data": 0.0}, "weight_data is 0.0"),
        ({"weight_self": 0.0, "weight_contrast": 0.0}, "every weight of pairs is 0"),
    ):
        with pytest.raises(ParameterError, match=message):
            SmooSegModule(backbone, **options)
