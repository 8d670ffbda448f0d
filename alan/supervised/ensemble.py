"""Several networks as one: the weighted mean of their probabilities."""

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
from alan.supervised.segmenter import to_labels


@runtime_checkable
class Member(Protocol):
    """What can be averaged: a :class:`alan.supervised.Segmenter` is one, soft parcels are another.

    Attributes:
        structures: names, in the order of the classes.
        classes: 1 for one structure, else one more than there are structures, the background first.
        fingerprint: SHA-256 of all that decides the probabilities.
    """

    structures: tuple[str, ...]
    classes: int
    fingerprint: str

    def probabilities(self, frames: Tensor) -> Tensor:
        """Probabilities (B, C, H, W) float32 of frames (B, H, W) uint8."""


class EnsembleSegmenter(nn.Module):
    """The weighted mean of the probabilities of fitted members; itself used as a segmenter is.

    Args:
        members: name to member, two or more of the same structures and classes.
        weights: name to weight, 0 or more, one above 0; None: all equal. Only their ratios count: the ensemble
            study's (0.97, 0.28, 0.64) are divided by their sum here. A member of weight 0 is not run.
        provenance: JSON-able words about the origin, such as how the weights were found.

    Attributes:
        members: name to member, in the given order.
        weights: name to weight as given.
        structures, classes, fingerprint: as of a :class:`Member`.

    Raises:
        ParameterError: fewer than two members, members of different structures or classes, or weights that are
            not one finite number of 0 or more a member.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        weights: Mapping[str, float] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.members = dict(members)
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
        self.fingerprint = fingerprint(["ensemble", parts])
        self.train(False)

    def train(self, mode: bool = True) -> EnsembleSegmenter:
        """Stay in eval mode, whatever the surrounding module does."""
        return super().train(False)

    def shares(self) -> tuple[float, ...]:
        """Weights in the order of the members, divided by their sum."""
        total = sum(self.weights.values())
        return tuple(weight / total for weight in self.weights.values())

    @torch.no_grad()
    def probabilities(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Weighted mean of the members' probabilities.

        Args:
            frames: (B, H, W) uint8, a tensor on any device or an array.

        Returns:
            (B, C, H, W) float32 on the device of the first member that is used. C is 1 for one structure, else
            1 + structures with the background first.
        """
        frames = torch.as_tensor(frames)
        used = [(m, share) for m, share in zip(self.members.values(), self.shares(), strict=True) if share > 0]
        total = used[0][1] * used[0][0].probabilities(frames).float()
        for member, share in used[1:]:
            total.add_(member.probabilities(frames).to(total), alpha=share)
        return total

    def masks(self, frames: Tensor | NDArray[np.uint8]) -> dict[str, Tensor]:
        """Masks (B, H, W) bool of each structure for frames (B, H, W) uint8; they do not overlap."""
        labels = to_labels(self.probabilities(frames))
        return {name: labels == value for value, name in enumerate(self.structures, 1)}


def check_members(members: Mapping[str, Member]) -> None:
    """Refuse members whose probabilities cannot be averaged.

    Raises:
        ParameterError: fewer than two, or other structures or classes than the first has.
    """
    if len(members) < 2:
        raise ParameterError(f"an ensemble of {len(members)} member(s): give at least two")
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
    """Weights in the order of the members.

    Args:
        names: the members' names.
        weights: name to weight; None gives each member 1.

    Raises:
        ParameterError: a name that no member has, a member without a weight, a weight that is negative or not
            finite, or none above 0.
    """
    if weights is None:
        return dict.fromkeys(names, 1.0)
    for name in weights:
        if name not in names:
            raise ParameterError(f"a weight for {name!r}, which is no member: {nearest(name, names)}")
    missing = [name for name in names if name not in weights]
    if missing:
        raise ParameterError(f"no weight for {', '.join(missing)}: give every member one (0 leaves it out)")
    found = {name: float(weights[name]) for name in names}
    if not all(math.isfinite(weight) and weight >= 0 for weight in found.values()) or not any(found.values()):
        given = ", ".join(f"{name} {weight:g}" for name, weight in found.items())
        raise ParameterError(f"weights are {given}: give finite numbers of 0 or more, one of them above 0")
    return found
