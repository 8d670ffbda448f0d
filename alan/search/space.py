"""The search space: which encoders, decoders, depths, learning rates and batch sizes, and what can be built."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from tqdm import tqdm

from alan.errors import ParameterError
from alan.supervised.networks import PLAIN, build_network, decoder_name, encoder_name

#: Whether a pair can be built: (decoder, encoder, depth) to None, or to what is wrong in one line.
Builds = Callable[[str, str, int], str | None]


@dataclass(frozen=True)
class Point:
    """One point of the space: a network and how it is trained.

    Attributes:
        encoder: name of the encoder.
        decoder: name of the decoder.
        depth: stages of the encoder.
        lr: learning rate.
        batch_size: frames a batch.
    """

    encoder: str
    decoder: str
    depth: int
    lr: float
    batch_size: int

    @property
    def pair(self) -> tuple[str, str, int]:
        """Decoder, encoder, depth: what is built."""
        return self.decoder, self.encoder, self.depth

    def to_dict(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.decoder} over {self.encoder}, depth {self.depth}, lr {self.lr:g}, batch size {self.batch_size}"
        )


@dataclass(frozen=True)
class SearchSpace:
    """The values of each axis; the points are their product (EDNAS paper, section IV.B.2).

    Attributes:
        encoders: names of segmentation_models_pytorch, or ``tu-`` and a name of timm.
        decoders: names of segmentation_models_pytorch; not ``unet_acdc``, which has no encoder.
        depths: stages of the encoder (the paper's are 3 to 5).
        lrs: learning rates, above 0.
        batch_sizes: frames a batch, 1 or more.
        skip_impossible: leave out the pairs that cannot be built, and count them; else they are an error.
    """

    encoders: tuple[str, ...]
    decoders: tuple[str, ...]
    lrs: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    depths: tuple[int, ...] = (5,)
    skip_impossible: bool = False

    def checked(self) -> SearchSpace:
        """The same space with the names under which encoders and decoders are built.

        Raises:
            ParameterError: an axis is empty or says a value twice, a name is unknown (the nearest is offered), or
                a number is out of range.
        """
        decoders = tuple(decoder_name(name) for name in self.decoders)
        if PLAIN in decoders:
            raise ParameterError(f"decoder {PLAIN!r} has no encoder to choose: leave it out of the search")
        encoders = tuple(encoder_name(name) for name in self.encoders)
        axes: dict[str, Sequence[Any]] = {"encoders": encoders, "decoders": decoders}
        axes |= {"depths": self.depths, "lrs": self.lrs, "batch_sizes": self.batch_sizes}
        for name, values in axes.items():
            _check_axis(name, values)
        for name in ("depths", "batch_sizes"):
            if min(axes[name]) < 1:
                raise ParameterError(f"{name} holds {min(axes[name])}: give at least 1")
        if min(self.lrs) <= 0:
            raise ParameterError(f"lrs holds {min(self.lrs)}: a learning rate must be above 0")
        lrs = tuple(float(lr) for lr in self.lrs)
        return SearchSpace(encoders, decoders, lrs, self.batch_sizes, self.depths, self.skip_impossible)

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Name of an attribute of :class:`Point` to its values, in the order of drawing."""
        return {
            "encoder": self.encoders,
            "decoder": self.decoders,
            "depth": self.depths,
            "lr": self.lrs,
            "batch_size": self.batch_sizes,
        }

    @property
    def size(self) -> int:
        """Number of points, those that cannot be built included."""
        pairs = len(self.encoders) * len(self.decoders) * len(self.depths)
        return pairs * len(self.lrs) * len(self.batch_sizes)

    def pairs(self) -> list[tuple[str, str, int]]:
        """Every (decoder, encoder, depth)."""
        return [(d, e, n) for e, d, n in product(self.encoders, self.decoders, self.depths)]

    def points(self, impossible: Iterable[tuple[str, str, int]] = ()) -> list[Point]:
        """All points in a fixed order, without those of impossible pairs."""
        left_out = set(impossible)
        every = (Point(*values) for values in product(*self.axes().values()))
        return [point for point in every if point.pair not in left_out]

    def impossible_pairs(
        self, builds: Builds | None = None, *, progress: bool = True
    ) -> dict[tuple[str, str, int], str]:
        """Try every pair without its weights, see :func:`why_not`.

        Args:
            builds: what is asked of each pair; default :func:`why_not`, binary on grey images.
            progress: show a bar.

        Returns:
            (decoder, encoder, depth) to what is wrong in one line.

        Raises:
            ParameterError: a pair cannot be built and ``skip_impossible`` is False, or none can.
        """
        ask = builds or why_not
        pairs = tqdm(self.pairs(), "pairs", unit="pair", leave=False, disable=not progress)
        found: dict[tuple[str, str, int], str] = {}
        for pair in pairs:
            reason = ask(*pair)
            if reason is not None:
                found[pair] = reason
        if found and (not self.skip_impossible or len(found) == len(self.pairs())):
            first = next(iter(found.values()))
            more = f" ({len(found) - 1} more pairs cannot be built either)" if len(found) > 1 else ""
            remedy = "" if self.skip_impossible else "; or set space.skip_impossible to true"
            raise ParameterError(f"{first}{more}{remedy}")
        return found


def why_not(decoder: str, encoder: str, depth: int, in_channels: int = 1, classes: int = 1) -> str | None:
    """Try to build a pair on torch's ``meta`` device: shapes without memory, some tenths of a second.

    Args:
        decoder: name of the decoder.
        encoder: name of the encoder.
        depth: stages of the encoder.
        in_channels: 1 or 3.
        classes: channels of the logits.

    Returns:
        None where it can be built, else what is wrong and which depth would work. A pair that fails without memory
        is built in earnest before it is refused.
    """
    options: dict[str, Any] = {"depth": depth, "in_channels": in_channels, "classes": classes}
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            build_network(decoder, encoder, **options)
    except ParameterError:
        try:
            with torch.random.fork_rng(devices=[]):
                build_network(decoder, encoder, **options)
        except ParameterError as error:
            return str(error)
    return None


def point_key(params: dict[str, Any]) -> str:
    """A point's parameters as text that tells points apart, whatever their order."""
    return json.dumps(params, sort_keys=True)


def _check_axis(name: str, values: Sequence[Any]) -> None:
    if not values:
        raise ParameterError(f"{name} is empty: the search space has no point; give at least one value")
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ParameterError(f"{name} holds {', '.join(twice)} twice: give each value once")
