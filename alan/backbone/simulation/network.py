"""A network with its heads for dense targets, and their initial weights."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor, nn

from alan.backbone.base import BackboneSpec
from alan.backbone.checkpoint import fill_network, load_plain
from alan.backbone.simulation.heads import DenseHeads, Outputs
from alan.errors import CheckpointError
from alan.seeding import seeded


class DenseNetwork(nn.Module):
    """Student or teacher: the network that will be locked, and its heads for dense targets.

    Args:
        spec: Specification of the network.
        n_structures: Number of structures C.
        seed: Seed of the initial weights.
    """

    def __init__(self, spec: BackboneSpec, n_structures: int, seed: int) -> None:
        super().__init__()
        self.network = spec.build_seeded(seed)
        with seeded(seed):
            self.heads = DenseHeads(spec, n_structures)

    def forward(self, images: Tensor) -> Outputs:
        """Predict the dense targets of normalised images (B, in_chans, S, S)."""
        outputs: Outputs = self.heads(self.network, images)
        return outputs

    def start_from(self, init: str | os.PathLike[str]) -> None:
        """Load the weights of a backbone, and those of the heads if the file has them.

        Args:
            init: Any file that :func:`alan.backbone.checkpoint.read_weights` knows, or the name of shipped
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
