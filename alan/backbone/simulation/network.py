"""A network with its heads for dense targets, and their initial weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alan.backbone.base import BackboneSpec
from alan.backbone.checkpoint import fill_network, load_plain, read_weights
from alan.backbone.simulation.adapters import add_adapters
from alan.backbone.simulation.heads import DenseHeads, Outputs
from alan.errors import CheckpointError, ParameterError
from alan.seeding import seeded
from alan.shipped import shipped_or_path

#: Bytes of predictions that a teacher remembers.
_REMEMBERED = 1 << 30


class DenseNetwork(nn.Module):
    """Student or teacher: the network that will be locked, and its heads for dense targets.

    Args:
        spec: Specification of the network.
        n_structures: Number of structures C.
        seed: Seed of the initial weights.
    """

    def __init__(self, spec: BackboneSpec, n_structures: int, seed: int) -> None:
        super().__init__()
        self.spec, self.seed = spec, seed
        self.network = spec.build_seeded(seed)
        with seeded(seed):
            self.heads = DenseHeads(spec, n_structures)

    def forward(self, images: Tensor) -> Outputs:
        """Predict the dense targets of normalised images (B, in_chans, S, S).

        Images smaller than ``spec.image_size`` are enlarged to it, as the locked network does.
        """
        size = self.spec.image_size
        if images.shape[-1] < size:
            images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
        outputs: Outputs = self.heads(self.network, images)
        return outputs

    def start_from(self, init: str | os.PathLike[str]) -> None:
        """Load the weights of a backbone, and those of the heads if the file has them.

        Args:
            init: Any file that :func:`alan.backbone.checkpoint.read_weights` accepts, or the name of shipped
                weights.

        Raises:
            CheckpointError: The file cannot be read, is of another network, or has heads for other targets.
        """
        fill_network(init, self.network, self.heads.spec)
        file = Path(init)
        if file.suffix != ".ckpt":
            return
        prefix = "teacher.heads."
        state = load_plain(file).get("state_dict", {})
        heads = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        if not heads:
            return
        try:
            self.heads.load_state_dict(heads)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1]
            raise CheckpointError(f"{file}: its heads are for other targets: {reason}") from error

    def train_last(self, blocks: int | None, adapter_rank: int = 0) -> None:
        """Freeze the network of a vision transformer except for its last blocks and its final norm.

        Args:
            blocks: Number of blocks that are trained; None takes all.
            adapter_rank: Above 0, adapters of this rank are trained in these blocks instead of the blocks.

        Raises:
            ParameterError: The network has no blocks, or fewer.
        """
        network = cast(Any, self.network)
        found = getattr(network, "blocks", ())
        if len(found) < (blocks or 0):
            raise ParameterError(
                f"trained_blocks is {blocks}: the network has {len(found)} blocks; give at most that, or null to "
                "train all of it"
            )
        if adapter_rank and not len(found):
            raise ParameterError(
                f"adapter_rank is {adapter_rank}, but the network has no transformer blocks: take a vision "
                "transformer, or 0"
            )
        last = found if blocks is None else found[len(found) - blocks :]
        network.requires_grad_(False)
        for module in [*last, *([network.norm] if len(last) else [])]:
            module.requires_grad_(True)
        if adapter_rank:
            with seeded(self.seed):
                add_adapters(last, adapter_rank)


class TeacherEnsemble(nn.Module):
    """Frozen dense networks of any backbone types; their mean prediction is a teacher.

    Predictions are remembered in half precision, since the same frames come back in every epoch. Each frame is
    predicted on its own, so that they do not depend on the batch in which it first came.

    Args:
        files: Checkpoints of :class:`alan.backbone.SimulationModule`, or backbones with predictions of their own,
            or names of shipped ones.
        n_structures: Number of structures C.
        weights: Weight of each file in the mean; None weighs all alike.

    Raises:
        ParameterError: There are more or fewer weights than files, or all are 0.
        CheckpointError: A file cannot be read, is of other structures, or has no heads.
    """

    def __init__(
        self, files: Sequence[str | os.PathLike[str]], n_structures: int, weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.weights = [1.0] * len(files) if weights is None else list(weights)
        if len(self.weights) != len(files) or min(self.weights) < 0 or not sum(self.weights):
            raise ParameterError(
                f"teacher_weights is {self.weights} for {len(files)} teachers: give one number of at least 0 for "
                "each, and one above 0"
            )
        self.networks = nn.ModuleList(_dense_network(file, n_structures) for file in files)
        self.requires_grad_(False).eval()
        self.n_structures = n_structures
        self._known: dict[tuple[bytes, int], Tensor] = {}
        self._room = _REMEMBERED

    @torch.no_grad()
    def forward(self, frames: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Predict plain frames.

        Args:
            frames: (B, S, S) uint8.
            side: Side of the predicted maps in pixels.

        Returns:
            Mean probabilities of the tissues (B, C + 1, side, side) and mean signed distances (B, C, side, side).
        """
        maps = torch.stack([self._predict(frame, side).to(frames.device, torch.float32) for frame in frames])
        return maps[:, : -self.n_structures], maps[:, -self.n_structures :]

    def _predict(self, frame: Tensor, side: int) -> Tensor:
        """Predict tissue and distance of one frame (S, S), in half precision on the CPU."""
        key = hashlib.blake2b(frame.cpu().numpy().tobytes(), digest_size=16).digest(), side
        if key in self._known:
            return self._known[key]
        grey = frame[None, None].float() / 255
        mean, total = torch.zeros(()), sum(self.weights)
        for weight, network in zip(self.weights, self.networks, strict=True):
            outputs: Outputs = network(cast(DenseNetwork, network).spec.normalise(grey))
            planes = torch.cat([outputs.tissue.float().softmax(1), outputs.distance.float()], 1)
            resized = F.interpolate(planes, (side, side), mode="bilinear", antialias=True)
            mean = mean.to(resized) + weight / total * resized[0]
        mean = mean.half().cpu()
        if mean.nbytes <= self._room:
            self._known[key] = mean
            self._room -= mean.nbytes
        return mean


def _dense_network(file: str | os.PathLike[str], n_structures: int) -> DenseNetwork:
    path = shipped_or_path(file)
    spec = read_weights(path).spec
    if spec is None or not (spec.own_outputs or path.suffix == ".ckpt"):
        raise CheckpointError(f"{file}: a teacher needs heads; give the last.ckpt of a training on simulation")
    try:
        network = DenseNetwork(spec, n_structures, seed=0)
    except ParameterError as error:
        raise CheckpointError(f"{file}: {error}") from error
    network.start_from(path)
    return network
