"""The protocol of a backbone type: a specification that builds, loads and locks networks of one kind.

A backbone type is a subclass of :class:`BackboneSpec`, a frozen dataclass whose fields say all that is needed to
build the network and to feed it. It is saved beside the weights. A new type needs its own module, with the
specification and the locked form, and one line in :mod:`alan.backbone.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Tensor, nn

from alan.backbone.kinds import Normalisation
from alan.backbone.normalise import normalise
from alan.errors import CheckpointError, ParameterError, nearest
from alan.seeding import seeded

if TYPE_CHECKING:
    from typing import Self

    from alan.backbone.locked import Backbone


class Tokens(NamedTuple):
    """What a network computes during training, with gradients.

    Attributes:
        frame: (B, P) one vector per image: the CLS token of a vision transformer.
        grid: (B, h, w, D) one vector per place, row by row.
    """

    frame: Tensor
    grid: Tensor


class BackboneSpec(ABC):
    """Base of the backbone types.

    Attributes:
        kind: Word for the type in files.
        apart: Fields that do not change what the weights mean; networks that differ only in them are the same.
        image_size: Side of the training images in pixels.
        in_chans: Channels of the input, 1 or 3 (grey values repeated).
        normalisation: Normalisation of grey values, see :func:`alan.backbone.normalise.normalise`.
        own_outputs: Whether the network itself predicts dense targets, by a layer ``outputs`` on the grid of
            :meth:`tokens`; else heads of their own are trained for them.
        structures: Structures that such a network predicts.
    """

    kind: ClassVar[str]
    apart: ClassVar[frozenset[str]] = frozenset()
    own_outputs: ClassVar[bool] = False
    image_size: int
    in_chans: int
    normalisation: Normalisation
    structures: tuple[str, ...] = ()

    @property
    @abstractmethod
    def multiple(self) -> int:
        """Number that the sides of an image must be multiples of."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width D of a token of the locked network."""

    @property
    @abstractmethod
    def token_size(self) -> int:
        """Distance in pixels of two places of the grid of :meth:`tokens`."""

    @property
    @abstractmethod
    def widths_of_tokens(self) -> tuple[int, int]:
        """Widths of ``frame`` and ``grid`` of :meth:`tokens`."""

    @abstractmethod
    def build(self, drop_path: float = 0.0) -> nn.Module:
        """Build the network, its weights drawn from torch's global generator.

        Args:
            drop_path: Probability of stochastic depth, for types that have it.
        """

    @abstractmethod
    def lock(self, network: nn.Module, input_size: int | None = None, stride: int | None = None) -> Backbone:
        """Freeze a network of this specification.

        Args:
            network: What :meth:`build` gave, perhaps trained; taken over.
            input_size: Side in pixels to which frames are resized; None: ``image_size``.
            stride: Distance of two tokens in pixels; None: the default of the type.

        Raises:
            ParameterError: An input size or a stride that does not fit, or a network of another type.
        """

    @abstractmethod
    def tokens(self, network: nn.Module, images: Tensor) -> Tokens:
        """Compute the features that heads are trained on, with gradients.

        Args:
            network: What :meth:`build` gave.
            images: (B, in_chans, H, W) normalised.
        """

    @classmethod
    @abstractmethod
    def from_weights(cls, tensors: Mapping[str, Tensor], origin: str, known: Mapping[str, Any]) -> Self | None:
        """Read the specification off the names and shapes of a network's tensors.

        Args:
            tensors: Names to tensors.
            origin: Name of the source, for messages.
            known: Fields that the user gives and that need not be guessed.

        Returns:
            None where the tensors are of another type.

        Raises:
            CheckpointError: They look like this type, but a key is missing or a shape is impossible.
        """

    @classmethod
    @abstractmethod
    def named(cls, name: str) -> dict[str, Any] | None:
        """Give the fields of the specification that a name stands for; None where the type has no such name."""

    @classmethod
    @abstractmethod
    def names(cls) -> list[str]:
        """List some names that :meth:`named` knows, for messages."""

    def pretrained(self, name: str) -> nn.Module:
        """Fetch the network with published weights from a hub.

        Args:
            name: A name that :meth:`named` knows.

        Raises:
            CheckpointError: The hub cannot be reached, or there are no such weights.
        """
        raise CheckpointError(f"{name}: has no published weights: give a file as weights, or load random:{name}")

    def convert(self, tensors: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
        """Rename and resize the tensors of a file for a network; by default they are taken as they are."""
        return tensors

    def with_structures(self, structures: tuple[str, ...]) -> Self:
        """Give the specification for other structures, for types whose network itself predicts dense targets."""
        return self

    def normalise(self, images: Tensor, sector: Tensor | None = None) -> Tensor:
        """Normalise grey images and repeat them to the channels of the network.

        Args:
            images: (B, 1, H, W) grey values in 0..1.
            sector: (B, 1, H, W) bool, the ultrasound sector; None: found in the images.

        Returns:
            (B, in_chans, H, W).
        """
        return normalise(images, self.normalisation, self.in_chans, sector)

    def build_seeded(self, seed: int, drop_path: float = 0.0) -> nn.Module:
        """Build the network from a seed; torch's global generator is left as it was."""
        with seeded(seed):
            return self.build(drop_path)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for JSON."""
        fields = asdict(self)  # type: ignore[call-overload]
        return {name: list(x) if isinstance(x, tuple) else x for name, x in fields.items()}

    def entry(self) -> dict[str, Any]:
        """Give ``kind`` and ``spec``, JSON-able, as they stand in a file."""
        return {"kind": self.kind, "spec": self.to_dict()}

    def architecture(self) -> dict[str, Any]:
        """Give the kind and the fields that the weights depend on, for comparing two networks."""
        fields = {name: x for name, x in self.to_dict().items() if name not in self.apart}
        return {"kind": self.kind, **fields}


def check_size(size: int, multiple: int, name: str = "image size", of: str = "the patch size") -> None:
    """Refuse an image size that is not a multiple of what the network asks for.

    Args:
        size: Side in pixels.
        multiple: What it must be a multiple of.
        name: What the message calls the size.
        of: What the message calls ``multiple``.

    Raises:
        ParameterError: With the two nearest sizes that would work.
    """
    if size % multiple or size < multiple:
        below = size // multiple * multiple
        works = f"{below} or {below + multiple}" if below else str(multiple)
        raise ParameterError(f"{name} {size} is not a multiple of {of} {multiple}: use {works}")


def check_fields(cls: type[BackboneSpec], names: Iterable[str], origin: str, *others: str) -> None:
    """Refuse names that are no fields of a specification.

    Args:
        cls: The type.
        names: The names.
        origin: Name of the source, for the message.
        *others: Names that are taken beside the fields.

    Raises:
        ParameterError: With the nearest field.
    """
    allowed = [*(entry.name for entry in fields(cls)), *others]  # type: ignore[arg-type]
    for name in names:
        if name not in allowed:
            raise ParameterError(f"{origin}: a {cls.__name__} has no {name}: {nearest(name, allowed)}")
