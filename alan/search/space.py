"""The search space: encoders, decoders, depths, learning rates and batch sizes, and which pairs can be built."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, Literal

from tqdm import tqdm

from alan.bounds import PositiveFloat, PositiveInt, bounded
from alan.errors import ParameterError
from alan.progress import quiet
from alan.supervised.settings import PLAIN, NetworkSpec

#: Decoder, encoder, depth.
Pair = tuple[str, str, int]
#: Returns why a pair cannot be built, in one line, or None.
Builds = Callable[[str, str, int], str | None]


@dataclass(frozen=True)
class Point:
    """One point of the space: a network, its learning rate and its batch size.

    Attributes:
        encoder: Name of the encoder.
        decoder: Name of the decoder.
        depth: Number of stages of the encoder.
        lr: Learning rate.
        batch_size: Frames per batch.
    """

    encoder: str
    decoder: str
    depth: int
    lr: float
    batch_size: int

    @property
    def pair(self) -> Pair:
        """Decoder, encoder and depth, which determine the network."""
        return self.decoder, self.encoder, self.depth

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.decoder} over {self.encoder}, depth {self.depth}, lr {self.lr:g}, batch size {self.batch_size}"
        )


@bounded
@dataclass(frozen=True)
class SearchSpace:
    """Values of each axis; the points are their product (EDNAS paper, section IV.B.2).

    Attributes:
        encoders: Encoders: names of segmentation_models_pytorch, or ``tu-`` followed by a name of timm.
        decoders: Decoders: names of segmentation_models_pytorch, except ``unet_acdc``, which has no encoder.
        lrs: Learning rates.
        batch_sizes: Frames per batch.
        depths: Numbers of stages of the encoder; the paper uses 3 to 5.
        weights: Initial weights of encoders: encoder name to a file or a name on the hub, as
            ``network.encoder_weights``. Encoders without an entry use that setting of the training.
        skip_impossible: Whether to skip and count pairs that cannot be built when they are drawn. If false, every
            pair is tried before the first trial (some tenths of a second each), and the first failure is an error.
    """

    encoders: tuple[str, ...]
    decoders: tuple[str, ...]
    lrs: tuple[PositiveFloat, ...]
    batch_sizes: tuple[PositiveInt, ...]
    depths: tuple[PositiveInt, ...] = (5,)
    weights: dict[str, str] = field(default_factory=dict)
    skip_impossible: bool = False

    def resolve_names(self) -> SearchSpace:
        """Return the same space with the names under which encoders and decoders are built.

        Raises:
            ParameterError: An axis is empty or holds a value twice, a name is unknown (the nearest is offered), or
                there are weights of an encoder that is not in the space.
        """
        from alan.supervised.networks import decoder_name, encoder_name

        decoders = tuple(decoder_name(name) for name in self.decoders)
        if PLAIN in decoders:
            raise ParameterError(f"decoder {PLAIN!r} has no encoder to choose: leave it out of the search")
        encoders, lrs = tuple(encoder_name(name) for name in self.encoders), tuple(map(float, self.lrs))
        weights = {encoder_name(name): value for name, value in self.weights.items()}
        other = sorted(set(weights) - set(encoders))
        if other:
            raise ParameterError(
                f"weights is given for {other[0]}, which is not among encoders: add it, or leave it out"
            )
        space = replace(self, encoders=encoders, decoders=decoders, lrs=lrs, weights=weights)
        for name in ("encoders", "decoders", "depths", "lrs", "batch_sizes"):
            values = getattr(space, name)
            if not values:
                raise ParameterError(f"{name} is empty: the search space has no point; give at least one value")
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                raise ParameterError(f"{name} holds {', '.join(twice)} twice: give each value once")
        return space

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Return the values of each attribute of :class:`Point`, in the order of drawing."""
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
        return math.prod(map(len, self.axes().values()))

    def pairs(self) -> list[Pair]:
        """Return every pair of decoder, encoder and depth."""
        return [(d, e, n) for e, d, n in product(self.encoders, self.decoders, self.depths)]

    def points(self) -> list[Point]:
        """Return all points, in a fixed order."""
        return [Point(*values) for values in product(*self.axes().values())]

    def check_pairs(self, builds: Builds, *, progress: bool = True) -> None:
        """Try every pair without its weights.

        Args:
            builds: Returns why a pair cannot be built, see :func:`why_not`.
            progress: Show a bar.

        Raises:
            ParameterError: A pair cannot be built.
        """
        pairs = tqdm(self.pairs(), "pairs", unit="pair", leave=False, disable=not progress or quiet())
        reasons = [reason for pair in pairs if (reason := builds(*pair)) is not None]
        if reasons:
            more = f" ({len(reasons) - 1} more pairs cannot be built either)" if len(reasons) > 1 else ""
            raise ParameterError(f"{reasons[0]}{more}; or set space.skip_impossible to true")


def why_not(
    decoder: str, encoder: str, depth: int, in_channels: Literal[1, 3] = 1, classes: int = 1
) -> str | None:
    """Try to build a pair on torch's ``meta`` device: shapes without memory, in some tenths of a second.

    Args:
        decoder: Name of the decoder.
        encoder: Name of the encoder.
        depth: Number of stages of the encoder.
        in_channels: 1 or 3.
        classes: Number of channels of the logits.

    Returns:
        None where the pair can be built; else the error, with a depth that would work. A pair that fails on the
        ``meta`` device is built in memory before it is refused.
    """
    import torch

    from alan.supervised.networks import build_network

    spec = NetworkSpec(decoder, encoder, in_channels, depth)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            build_network(spec, classes)
    except ParameterError:
        try:
            with torch.random.fork_rng(devices=[]):
                build_network(spec, classes)
        except ParameterError as error:
            return str(error)
    return None


def point_key(params: dict[str, Any]) -> str:
    """Return a point's parameters as text that is unique to the point, whatever their order."""
    return json.dumps(params, sort_keys=True)
