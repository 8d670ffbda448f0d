"""Correspondence loss of RAPTOR (paper, section 3; STEGO), without token-by-token matrices.

Let ``f`` be the frozen features and ``s`` the codes of two frames a and b, row vectors of unit length:

    F_ij = sum_d f_a[i,d] f_b[j,d]        cosine of features, centred: F_ij - mean_j F_ij
    S_ij = sum_k s_a[i,k] s_b[j,k]        cosine of codes
    L    = - mean_ij (F_ij - b) max(S_ij, 0)

Codes from a softmax are non-negative, hence so is S, and the clamp has no effect. Then L is bilinear in the
*moments* of the frames, and no (tokens x tokens) matrix is needed:

    sum_ij F_ij S_ij = sum_dk M_a[d,k] (M_b[d,k] - m_b[d] n_b[k])       sum_ij S_ij = sum_k n_a[k] n_b[k]
    M[d,k] = sum_i f[i,d] s[i,k]     m[d] = mean_i f[i,d]     n[k] = sum_i s[i,k]

This is exact, including the gradients. Codes with negative entries are refused.

Indices of the einsums: p pairs of frames, i and j tokens, d feature channels, k parcels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alan.errors import ParameterError

_TINY = 1e-12


class LossWeights(NamedTuple):
    """One number per term: pairs of a frame with itself, with its sequence, with another sequence."""

    self_: float
    similar: float
    contrast: float


def check_loss_weights(weights: LossWeights) -> LossWeights:
    """Return the weights of pairs, of which one must be above 0.

    Raises:
        ParameterError: All are 0.
    """
    if not any(weights):
        raise ParameterError("every weight of pairs is 0: give one above 0")
    return weights


#: The published values.
WEIGHTS = LossWeights(1.0, 0.5, 1.0)
SHIFTS = LossWeights(0.3, 0.3, 0.3)


class _Frames(NamedTuple):
    """P frames of T tokens: features (P, T, D), codes (P, T, K), weights (P, T)."""

    f: Tensor
    s: Tensor
    w: Tensor


def _frames(f: Tensor, s: Tensor, w: Tensor | None) -> _Frames:
    """Check shapes and signs; weights default to 1."""
    if f.ndim != 3 or s.ndim != 3 or f.shape[:2] != s.shape[:2] or (w is not None and w.shape != f.shape[:2]):
        raise ParameterError(
            f"features are {tuple(f.shape)}, codes {tuple(s.shape)}, weights "
            f"{None if w is None else tuple(w.shape)}: give (P, T, D), (P, T, K) and (P, T)"
        )
    if (s.detach() < 0).any():
        raise ParameterError("codes have negative entries: give non-negative ones, such as softmax outputs")
    return _Frames(f, s, f.new_ones(f.shape[:2]) if w is None else w.to(f.dtype))


class _Moments(NamedTuple):
    """Weighted means over the tokens of P frames; zeros for a frame without tokens."""

    joint: Tensor  # (P, D, K), mean_i f[i,d] s[i,k]
    features: Tensor  # (P, D), mean_i f[i,d]
    codes: Tensor  # (P, K), mean_i s[i,k]
    filled: Tensor  # (P,) bool, the frame has a token

    def at(self, index: Tensor) -> _Moments:
        # the gradient of value[index] adds repeated rows in the order of the threads, so that its bits vary
        return _Moments(*(value.index_select(0, index) for value in self))


def _moments(frames: _Frames) -> _Moments:
    f, s, w = frames
    w = w / w.sum(1, keepdim=True).clamp(min=_TINY)
    f_scale = 1 / torch.linalg.vector_norm(f, dim=-1).clamp(min=_TINY)  # avoids the copy f / |f|
    s = F.normalize(s, dim=-1, eps=_TINY)
    joint = torch.einsum("pid,pik->pdk", f, s * (w * f_scale)[..., None])
    features = torch.einsum("pid,pi->pd", f, w * f_scale)
    return _Moments(joint, features, torch.einsum("pik,pi->pk", s, w), frames.w.sum(1) > 0)


def _from_moments(a: _Moments, b: _Moments, shift: float) -> Tensor:
    """Average L over the P pairs in which both frames have tokens."""
    product = torch.einsum("pdk,pdk->p", a.joint, b.joint)
    centre = torch.einsum("pdk,pd,pk->p", a.joint, b.features, b.codes)
    codes = torch.einsum("pk,pk->p", a.codes, b.codes)
    return _mean(-(product - centre - shift * codes), a.filled & b.filled)


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)


def correspondence_loss(
    f_a: Tensor,
    f_b: Tensor,
    s_a: Tensor,
    s_b: Tensor,
    shift: float,
    *,
    w_a: Tensor | None = None,
    w_b: Tensor | None = None,
) -> Tensor:
    """Compute the correspondence loss between P pairs of frames, which rewards like codes for like features.

    Args:
        f_a: (P, T, D) features of the first frames, normalised here; a zero vector has cosine 0.
        f_b: (P, T', D) features of the second frames; F is centred over these.
        s_a: (P, T, K) codes >= 0 of the first frames, e.g. softmax outputs.
        s_b: (P, T', K) codes of the second frames.
        shift: Shift b, the (centred) cosine of features below which codes are pushed apart.
        w_a: (P, T) weights >= 0 of the tokens, e.g. 1 inside the sector and 0 outside, which weight the mean of
            the loss; None weights all tokens equally.
        w_b: (P, T') weights of the second frames, which weight the mean of the loss and the centring.

    Returns:
        Scalar: the mean over pairs of ``- mean_ij (F_ij - b) S_ij``. Pairs in which a frame has no token
        (all weights 0) are excluded; 0 if none remains.

    Raises:
        ParameterError: The shapes do not fit together, or a code has a negative entry.
    """
    a, b = _frames(f_a, s_a, w_a), _frames(f_b, s_b, w_b)
    if len(f_a) != len(f_b) or f_a.shape[-1] != f_b.shape[-1] or s_a.shape[-1] != s_b.shape[-1]:
        raise ParameterError(
            f"pairs do not match: features {tuple(f_a.shape)} and {tuple(f_b.shape)}, "
            f"codes {tuple(s_a.shape)} and {tuple(s_b.shape)}: give the same number of pairs and channels"
        )
    return _from_moments(_moments(a), _moments(b), shift)


def raptor_loss(
    features: Tensor,
    codes: Tensor,
    *,
    shifts: LossWeights = SHIFTS,
    weights: LossWeights = WEIGHTS,
    generator: torch.Generator,
    token_weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the loss of RAPTOR: attract within a frame and a sequence, contrast with another sequence.

    ``self`` pairs every frame with itself. ``similar`` pairs one random frame of each sequence with every frame of
    that sequence. ``contrast`` pairs every frame with the frame of the same position in one other sequence, drawn
    at random for each sequence.

    Args:
        features: (B, F, T, D) frozen features of B sequences of F frames of T tokens.
        codes: (B, F, T, K) codes >= 0, e.g. softmax outputs.
        shifts: Shift b of each term.
        weights: Weight of each term.
        generator: Generator of the random frame and the other sequence; on the CPU.
        token_weights: (B, F, T) weights >= 0 of the tokens, see :func:`correspondence_loss`; None weights all
            tokens equally.

    Returns:
        Scalars ``self``, ``similar`` and ``contrast`` (each before its weight) and ``total``, their weighted sum.

    Raises:
        ParameterError: There are fewer than two sequences, the shapes do not fit together, or a code has a
            negative entry.
    """
    if features.ndim != 4 or codes.ndim != 4:
        raise ParameterError(
            f"features are {tuple(features.shape)}, codes {tuple(codes.shape)}: give (B, F, T, .)"
        )
    n_sequences, n_frames = features.shape[:2]
    if n_sequences < 2:
        raise ParameterError(f"{n_sequences} sequence in the batch: set the batch size to 2 or more")
    everything = torch.arange(n_sequences * n_frames).view(n_sequences, n_frames)
    chosen = torch.randint(n_frames, (n_sequences, 1), generator=generator)
    step = torch.randint(1, n_sequences, (n_sequences,), generator=generator)
    other = (torch.arange(n_sequences) + step) % n_sequences
    pairs = {
        "self": (everything, everything),
        "similar": (everything.gather(1, chosen).expand_as(everything), everything),
        "contrast": (everything, everything[other]),
    }
    frames = _frames(
        features.flatten(0, 1), codes.flatten(0, 1), None if token_weights is None else token_weights.flatten(0, 1)
    )
    moments = _moments(frames)  # computed once per frame, for all three terms
    terms = {}
    for (name, (first, second)), shift in zip(pairs.items(), shifts, strict=True):
        a, b = first.flatten().to(features.device), second.flatten().to(features.device)
        terms[name] = _from_moments(moments.at(a), moments.at(b), shift)
    total = features.new_zeros(())
    for name, weight in zip(pairs, weights, strict=True):
        total = total + weight * terms[name]
    return {**terms, "total": total}
