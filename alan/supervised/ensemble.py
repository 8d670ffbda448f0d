"""Ensembles: the weighted mean of the probabilities of several networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alan.errors import ParameterError, nearest
from alan.files import fingerprint
from alan.supervised.segmenter import FrozenSegmenter
from alan.supervised.settings import Average

#: Lower bound of a probability before its logarithm is taken.
_SMALLEST = 1e-6


@runtime_checkable
class Member(Protocol):
    """Interface of a member of an ensemble, such as :class:`alan.supervised.Segmenter` or soft parcels.

    Attributes:
        structures: Names, in the order of the classes.
        classes: 1 for one structure, else one per structure and the background first.
        fingerprint: SHA-256 of everything that decides the probabilities.
    """

    structures: tuple[str, ...]
    classes: int
    fingerprint: str

    def probabilities(self, frames: Tensor) -> Tensor:
        """Compute probabilities (B, C, H, W) float32 of frames (B, H, W) uint8."""


class EnsembleSegmenter(FrozenSegmenter):
    """Weighted mean of the probabilities or logits of fitted members, with the interface of a segmenter.

    Args:
        members: Mapping from name to member, two or more of the same structures and classes.
        weights: Mapping from name to weight, 0 or more, at least one above 0; None sets all equal. Only their
            ratios count: the ensemble study's (0.97, 0.28, 0.64) are divided by their sum. A member of weight 0 is
            not run.
        provenance: JSON-able entries about the origin, such as how the weights were found.
        average: ``probabilities``, or ``logits``: their weighted mean is turned into probabilities, which is the
            normalised geometric mean of the members' probabilities.

    Attributes:
        members: Mapping from name to member, in the given order.
        weights: Mapping from name to weight, as given.
        structures, classes, fingerprint: As in :class:`Member`.

    Raises:
        ParameterError: There are fewer than two members, their structures or classes differ, or the weights are
            not one finite number of at least 0 per member.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        weights: Mapping[str, float] | None = None,
        provenance: Mapping[str, Any] | None = None,
        *,
        average: Average = "probabilities",
    ) -> None:
        super().__init__()
        self.members, self.average = dict(members), average
        check_members(self.members)
        first = next(iter(self.members.values()))
        self.structures, self.classes = tuple(first.structures), first.classes
        self.weights = check_weights(self.members, weights)
        self.provenance = dict(provenance or {})
        for number, member in enumerate(self.members.values()):
            if isinstance(member, nn.Module):  # so that .to(device) and parameters() reach it
                self.add_module(f"member{number}", member)
        parts = [
            (member.fingerprint, weight)
            for member, weight in zip(self.members.values(), self.shares(), strict=True)
        ]
        self.fingerprint = fingerprint(["ensemble", parts, *([] if average == "probabilities" else [average])])
        self.train(False)

    def shares(self) -> tuple[float, ...]:
        """Return the weights in the order of the members, divided by their sum."""
        total = sum(self.weights.values())
        return tuple(weight / total for weight in self.weights.values())

    @torch.no_grad()
    def probabilities(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Compute the weighted mean of the members.

        Args:
            frames: (B, H, W) uint8, a tensor on any device or an array.

        Returns:
            (B, C, H, W) float32 on the device of the first member that is used. C is 1 for one structure, else
            1 + structures with the background first.
        """
        frames = torch.as_tensor(frames)
        used = [(m, share) for m, share in zip(self.members.values(), self.shares(), strict=True) if share > 0]
        total = used[0][1] * to_average(used[0][0].probabilities(frames).float(), self.average)
        for member, share in used[1:]:
            total.add_(to_average(member.probabilities(frames).to(total), self.average), alpha=share)
        if self.average == "probabilities":
            return total
        return total.sigmoid() if self.classes == 1 else total.softmax(1)


def to_average(probabilities: Tensor, average: Average) -> Tensor:
    """Turn probabilities (B, C, ...) into what is averaged: themselves, or logits (up to a constant per pixel)."""
    if average == "probabilities":
        return probabilities
    p = probabilities.clamp(_SMALLEST, 1 - _SMALLEST)
    return p.logit() if p.shape[1] == 1 else p.log()


def check_members(members: Mapping[str, Member]) -> None:
    """Refuse members whose probabilities cannot be averaged.

    Raises:
        ParameterError: There are fewer than two, or the structures or classes differ.
    """
    if len(members) < 2:
        raise ParameterError(f"members holds {len(members)}: give at least two")
    (name, first), *others = members.items()
    for other, member in others:
        if (tuple(member.structures), member.classes) != (tuple(first.structures), first.classes):
            raise ParameterError(
                f"members have different classes: {name!r} has {first.classes} ({', '.join(first.structures)}), "
                f"{other!r} has {member.classes} ({', '.join(member.structures)}): give members of the same"
            )


def check_weights(
    names: Mapping[str, Any] | Sequence[str], weights: Mapping[str, float] | None
) -> dict[str, float]:
    """Check weights, and return them in the order of the members.

    Args:
        names: Names of the members.
        weights: Mapping from name to weight; None gives each member 1.

    Raises:
        ParameterError: A name is not that of a member, a member has no weight, a weight is negative or not finite,
            or none is above 0.
    """
    if weights is None:
        return dict.fromkeys(names, 1.0)
    for name in weights:
        if name not in names:
            raise ParameterError(f"weights holds {name!r}, which is not a member: {nearest(name, names)}")
    missing = [name for name in names if name not in weights]
    if missing:
        raise ParameterError(f"no weight for {', '.join(missing)}: give every member one (0 leaves it out)")
    found = {name: float(weights[name]) for name in names}
    if not all(math.isfinite(weight) and weight >= 0 for weight in found.values()) or not any(found.values()):
        given = ", ".join(f"{name} {weight:g}" for name, weight in found.items())
        raise ParameterError(f"weights are {given}: give finite numbers of 0 or more, one of them above 0")
    return found
