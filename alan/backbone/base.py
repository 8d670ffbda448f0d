"""The protocol of a backbone type: a specification that builds, loads and locks networks of one kind.

A backbone type is a subclass of :class:`BackboneSpec`, a frozen dataclass whose fields determine the network and
the preparation of its input; it is saved with the weights. :meth:`BackboneSpec.lock` returns the frozen network, a
subclass of :class:`Backbone`, which maps grey frames to features. A new type needs a module with both classes and
one line in :mod:`alan.backbone.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from alan.backbone.frozen import FrozenModule
from alan.backbone.kinds import Normalisation
from alan.backbone.normalise import normalise
from alan.data.sector import sector_mask
from alan.errors import CheckpointError, ParameterError, nearest
from alan.files import fingerprint, fingerprint_tensors
from alan.seeding import seeded

if TYPE_CHECKING:
    from typing import Self

#: A token is inside the sector if more than this share of its window is.
SECTOR_SHARE = 0.3


class Tokens(NamedTuple):
    """Features that a network computes during training, with gradients.

    Attributes:
        frame: (B, P) one vector per image: the CLS token of a vision transformer.
        grid: (B, h, w, D) one vector per place of the grid.
    """

    frame: Tensor
    grid: Tensor


class BackboneSpec(ABC):
    """Base of the backbone types.

    Attributes:
        kind: Name of the type in files.
        apart: Fields that do not change what the weights mean; networks that differ only in them are the same.
        image_size: Side of the training images in pixels.
        in_chans: Channels of the input, 1 or 3 (grey values repeated).
        normalisation: Normalisation of grey values, see :func:`alan.backbone.normalise.normalise`.
        own_outputs: Whether the network itself predicts dense targets, by a layer ``outputs`` on the grid of
            :meth:`tokens`; otherwise separate heads are trained for them.
        structures: Structures that a network with ``own_outputs`` predicts.
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
        """Number of pixels of which height and width of an image must be multiples."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width D of a token of the locked network."""

    @property
    @abstractmethod
    def token_size(self) -> int:
        """Distance in pixels between two neighbouring tokens of the grid of :meth:`tokens`."""

    @property
    @abstractmethod
    def widths_of_tokens(self) -> tuple[int, int]:
        """Widths of ``frame`` and ``grid`` of :meth:`tokens`."""

    @abstractmethod
    def build(self, drop_path: float = 0.0) -> nn.Module:
        """Build the network with weights drawn from torch's global generator.

        Args:
            drop_path: Probability of stochastic depth, for types that have it.
        """

    @abstractmethod
    def lock(self, network: nn.Module, input_size: int | None = None, stride: int | None = None) -> Backbone:
        """Freeze a network of this specification.

        Args:
            network: Network from :meth:`build`, possibly trained; it is frozen in place.
            input_size: Side in pixels to which frames are resized; None uses ``image_size``.
            stride: Distance between two tokens in pixels; None uses the default of the type.

        Raises:
            ParameterError: The input size or the stride does not fit, or the network is of another type.
        """

    @abstractmethod
    def tokens(self, network: nn.Module, images: Tensor) -> Tokens:
        """Compute the features that heads are trained on, with gradients.

        Args:
            network: Network from :meth:`build`.
            images: (B, in_chans, H, W) normalised.
        """

    @classmethod
    @abstractmethod
    def from_weights(cls, tensors: Mapping[str, Tensor], origin: str, known: Mapping[str, Any]) -> Self | None:
        """Derive the specification from the names and shapes of a network's tensors.

        Args:
            tensors: Mapping from names to tensors.
            origin: Name of the source, for messages.
            known: Fields given by the user, which are not derived.

        Returns:
            None if the tensors belong to another type.

        Raises:
            CheckpointError: The tensors look like this type, but a key is missing or a shape is impossible.
        """

    @classmethod
    @abstractmethod
    def parse_name(cls, name: str) -> dict[str, Any] | None:
        """Return the fields of the specification with this name; None if the type has no such name."""

    @classmethod
    @abstractmethod
    def names(cls) -> list[str]:
        """List some names that :meth:`parse_name` accepts, for messages."""

    def pretrained(self, name: str) -> nn.Module:
        """Download the network with published weights from a hub.

        Args:
            name: A name that :meth:`parse_name` accepts.

        Raises:
            CheckpointError: The hub cannot be reached, or there are no such weights.
        """
        raise CheckpointError(f"{name}: has no published weights: give a file as weights, or load random:{name}")

    def convert(self, tensors: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
        """Rename and resize the tensors of a file for a network; by default they are used unchanged."""
        return tensors

    def with_structures(self, structures: tuple[str, ...]) -> Self:
        """Return the specification for other structures, for types with ``own_outputs``."""
        return self

    def normalise(self, images: Tensor, sector: Tensor | None = None) -> Tensor:
        """Normalise grey images and repeat them to the channels of the network.

        Args:
            images: (B, 1, H, W) grey values in 0..1.
            sector: (B, 1, H, W) bool, the ultrasound sector; None finds it in the images.

        Returns:
            (B, in_chans, H, W).
        """
        return normalise(images, self.normalisation, self.in_chans, sector)

    def build_seeded(self, seed: int) -> nn.Module:
        """Build the network from a seed; torch's global generator is left unchanged."""
        with seeded(seed):
            return self.build()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-able dictionary."""
        fields = asdict(self)  # type: ignore[call-overload]
        return {name: list(x) if isinstance(x, tuple) else x for name, x in fields.items()}

    def entry(self) -> dict[str, Any]:
        """Return ``kind`` and ``spec``, JSON-able, as stored in a file."""
        return {"kind": self.kind, "spec": self.to_dict()}

    def architecture(self) -> dict[str, Any]:
        """Return the kind and the fields that the weights depend on, for comparing two networks."""
        fields = {name: x for name, x in self.to_dict().items() if name not in self.apart}
        return {"kind": self.kind, **fields}


class Features(NamedTuple):
    """Features of a batch.

    Attributes:
        cls: (B, D) float32, one vector per frame.
        tokens: (B, h, w, D) float32, one vector per place of the grid.
    """

    cls: Tensor
    tokens: Tensor


class Backbone(FrozenModule, ABC):
    """A frozen network: always in eval mode, without gradients, with one fingerprint.

    Args:
        network: The network; it is frozen in place.
        spec: Specification of the network.
        input_size: Side in pixels to which frames are resized; None uses the training image size.
        stride: Distance between two tokens in pixels of the resized frame.
        settings: Settings that the fingerprint covers besides the weights, the input size and the stride.

    Attributes:
        network: The network.
        spec: The network's specification.
        dim: Width D of a token.
        input_size: Side in pixels to which frames are resized.
        stride: Distance between two tokens in pixels of the resized frame.
        grid: Tokens along one side.
        fingerprint: SHA-256 over weights and feature settings.
    """

    spec: BackboneSpec
    grid: int

    def __init__(
        self,
        network: nn.Module,
        spec: BackboneSpec,
        input_size: int | None,
        stride: int,
        settings: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.network: Any = network.requires_grad_(False)
        self.spec = spec
        self.dim = spec.dim
        self.input_size = spec.image_size if input_size is None else input_size
        self.stride = stride
        identity = {**settings, "input_size": self.input_size, "stride": stride}
        self.fingerprint = fingerprint([fingerprint_tensors(network.state_dict()), identity])
        self.train(False)

    def __repr__(self) -> str:
        """Describe the backbone in one line; ``backbone.network`` shows its layers."""
        weights = sum(part.numel() for part in self.parameters())
        return (
            f"{type(self).__name__}({weights / 1e6:.1f} million weights, {self.input_size} px, "
            f"{self.grid} x {self.grid} tokens of width {self.dim}, fingerprint {self.fingerprint[:12]})"
        )

    if TYPE_CHECKING:  # modules of PyTorch return anything

        def __call__(self, frames: Tensor | NDArray[np.uint8]) -> Features:
            """Compute the features of a batch, see :meth:`forward`."""

    @property
    def device(self) -> torch.device:
        """Device of the weights, and of the features."""
        return next(self.parameters()).device

    @torch.no_grad()
    def forward(self, frames: Tensor | NDArray[np.uint8]) -> Features:
        """Compute the features of a batch; the caller cuts long batches into pieces.

        Args:
            frames: (B, H, W) uint8 on any device; resized bilinearly (antialiased) to ``input_size``.

        Raises:
            ParameterError: The shape or the dtype is wrong.
        """
        images = self._resize(frames)
        return self._features(self.spec.normalise(images), images)

    @torch.no_grad()
    def pooled(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Compute one vector per frame, that of :meth:`BackboneSpec.tokens`.

        This is the CLS token of a vision transformer, and the mean of the deepest map of a convolutional network;
        one that predicts the left ventricle and the left atrium has means of that map by region, by which views
        are recognised: left and right of the heart, within the ventricle and within the atrium
        (:func:`alan.backbone.region_means.region_means`).

        Args:
            frames: (B, H, W) uint8.

        Returns:
            (B, P) float32.

        Raises:
            ParameterError: The shape or the dtype is wrong.
        """
        return self._pooled(self.spec.normalise(self._resize(frames)))

    def _pooled(self, normalised: Tensor) -> Tensor:
        return self.spec.tokens(self.network, normalised).frame.float()

    def certainty(self, frames: NDArray[np.uint8]) -> float:
        """Compute the mean probability of the structures that the network finds in frames, 0 without any."""
        raise ParameterError(f"{type(self).__name__} predicts no structures")

    @torch.no_grad()
    def sector(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Find the tokens (B, h, w) bool inside the ultrasound sector of frames (B, H, W) uint8.

        A token is inside if more than 30% of its window is.
        """
        return self._sector(self._resize(frames))

    def _sector(self, images: Tensor) -> Tensor:
        """Find the tokens (B, h, w) bool inside the sector of resized grey images (B, 1, S, S)."""
        inside = sector_mask(images).float()
        return F.avg_pool2d(inside, self._window, self.stride)[:, 0] > SECTOR_SHARE

    @property
    @abstractmethod
    def _window(self) -> int:
        """Side in pixels of the window of a token."""

    @abstractmethod
    def _features(self, normalised: Tensor, images: Tensor) -> Features:
        """Compute features of normalised images (B, C, S, S); ``images`` (B, 1, S, S) are grey values in 0..1."""

    def _resize(self, frames: Tensor | NDArray[np.uint8]) -> Tensor:
        """Resize (B, H, W) uint8 to (B, 1, S, S) float32 in 0..1 on the backbone's device."""
        images = frame_batch(frames).to(self.device)[:, None].float() / 255
        size = (self.input_size, self.input_size)
        if images.shape[-2:] == size:
            return images
        return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def frame_batch(frames: Tensor | NDArray[np.uint8]) -> Tensor:
    """Return frames as a tensor (B, H, W) uint8.

    Raises:
        ParameterError: The shape or the dtype is wrong; the message states how to convert the frames.
    """
    batch = torch.as_tensor(frames)
    if batch.ndim == 3 and batch.dtype == torch.uint8:
        return batch
    remedies = []
    if batch.ndim == 2:
        remedies.append("frames[None] for one frame")
    elif batch.ndim == 4:
        remedies.append(
            "frames[:, 0] for (B, 1, H, W)" if batch.shape[1] == 1 else "frames[..., 0] for grey as RGB"
        )
    cast = ".to(torch.uint8)" if isinstance(frames, Tensor) else ".astype(np.uint8)"
    if batch.dtype.is_floating_point:
        remedies.append(f"(255 * frames){cast} for values from 0 to 1")
    elif batch.dtype != torch.uint8:
        remedies.append(f"frames{cast} for grey values from 0 to 255")
    hint = f", such as {' and '.join(remedies)}" if remedies else ""
    kind = str(batch.dtype).removeprefix("torch.")
    raise ParameterError(f"frames are {kind} {tuple(batch.shape)}: give uint8 (B, H, W){hint}")


def check_multiple(size: int, multiple: int, name: str = "image size", of: str = "the patch size") -> None:
    """Refuse an image size that is not a multiple of the patch size or stride.

    Args:
        size: Side in pixels.
        multiple: Number of which it must be a multiple.
        name: Name of the size in the message.
        of: Name of ``multiple`` in the message.

    Raises:
        ParameterError: The size does not fit; the message gives the two nearest sizes that do.
    """
    if size % multiple or size < multiple:
        below = size // multiple * multiple
        works = f"{below} or {below + multiple}" if below else str(multiple)
        raise ParameterError(f"{name} {size} is not a multiple of {of} {multiple}: use {works}")


def check_fields(cls: type[BackboneSpec], names: Iterable[str], origin: str, *others: str) -> None:
    """Refuse names that are no fields of a specification.

    Args:
        cls: Backbone type.
        names: Names to check.
        origin: Name of the source, for the message.
        *others: Further names that are accepted.

    Raises:
        ParameterError: A name is unknown; the nearest field is offered.
    """
    allowed = [*(entry.name for entry in fields(cls)), *others]  # type: ignore[arg-type]
    for name in names:
        if name not in allowed:
            raise ParameterError(f"{origin}: a {cls.__name__} has no {name}: {nearest(name, allowed)}")
