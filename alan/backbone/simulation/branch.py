"""A network together with the heads that it is taught through, and where its first weights come from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alan.backbone.checkpoint import check_same_network, load_plain, network, read_weights, spec_entry
from alan.backbone.conv import ConvSpec, seeded_conv
from alan.backbone.simulation.heads import DenseHeads, Outputs
from alan.backbone.vit import VitSpec, seeded_vit
from alan.errors import CheckpointError
from alan.shipped import shipped_or_path


class TaughtBranch(nn.Module):
    """Student or teacher: the network that will be locked, and the heads that it is taught through."""

    def __init__(self, spec: VitSpec | ConvSpec, n_structures: int, seed: int) -> None:
        super().__init__()
        self.network: nn.Module = seeded_conv(spec, seed) if isinstance(spec, ConvSpec) else seeded_vit(spec, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = DenseHeads(spec, n_structures)

    def forward(self, images: Tensor) -> Outputs:
        """What the heads say of normalised images (B, in_chans, S, S)."""
        outputs: Outputs = self.heads(self.network, images)
        return outputs


def fill_network(init: str | os.PathLike[str], own: nn.Module, spec: VitSpec | ConvSpec) -> None:
    """Fill a network with the weights of a file.

    Args:
        init: any file that :func:`alan.backbone.checkpoint.read_weights` knows, or the name of shipped weights.
        own: what is filled.
        spec: its specification.

    Raises:
        CheckpointError: the file cannot be read, or is of another network.
    """
    built, found = network(read_weights(shipped_or_path(init)), os.fspath(init))
    check_same_network(described(found), described(spec))
    own.load_state_dict(built.state_dict())


def start_from(init: str | os.PathLike[str], branch: TaughtBranch, spec: VitSpec | ConvSpec) -> None:
    """Fill a branch with a backbone's weights, and its heads too where the file has them.

    Args:
        init: as in :func:`fill_network`.
        branch: what is filled.
        spec: of its network.

    Raises:
        CheckpointError: the file cannot be read, is of another network, or has heads for other targets.
    """
    fill_network(init, branch.network, spec)
    file = Path(init)
    if file.suffix != ".ckpt":
        return
    prefix = "teacher.heads."
    state = load_plain(file).get("state_dict", {})
    heads = {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
    if not heads:
        return
    try:
        branch.heads.load_state_dict(heads)
    except RuntimeError as error:
        raise CheckpointError(f"{file}: its heads are for other targets: {str(error).splitlines()[-1]}") from error


def described(spec: VitSpec | ConvSpec) -> dict[str, Any]:
    """Kind and settings of a network, but for those that are no part of it."""
    entry = spec_entry(spec)
    apart = ("initialisation", "feature_levels", "token_stride")
    return {"kind": entry["kind"], **{name: x for name, x in entry["spec"].items() if name not in apart}}
