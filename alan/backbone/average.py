"""Averages of the weights of several trainings from the same network, known as model soups."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from alan.backbone.base import Backbone
from alan.backbone.checkpoint import (
    check_same_network,
    export_backbone,
    network_from_weights,
    read_weights,
)
from alan.errors import ParameterError
from alan.shipped import shipped_or_path


def average_backbones(sources: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]) -> Backbone:
    """Average the weights of several networks and write the result.

    Networks that were trained from the same weights, with other seeds or other data, lie close enough together for
    their mean to work; it is often better on unseen kinds of frames than each of them, at the cost of one
    (Wortsman et al., "Model soups", ICML 2022). The mean of networks from different random weights is of no use.

    Args:
        sources: At least two files that :func:`load_backbone` reads, or names of shipped weights.
        path: The file to write, ending in ``.safetensors``.

    Returns:
        The average, locked. Counters (integers) are those of the first network.

    Raises:
        ParameterError: Fewer than two sources.
        CheckpointError: A file cannot be read, or the networks differ in architecture.
    """
    if len(sources) < 2:
        raise ParameterError(f"sources holds {len(sources)}: give at least 2 networks to average")
    files = [shipped_or_path(source) for source in sources]
    loaded = [network_from_weights(read_weights(file), str(file)) for file in files]
    network, spec = loaded[0]
    for _, other in loaded[1:]:
        check_same_network(other.architecture(), spec.architecture())
    states = [other.state_dict() for other, _ in loaded]
    mean = {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }
    network.load_state_dict(mean)
    export_backbone(network, spec, path, {"average_of": [file.stem for file in files]})
    return spec.lock(network, None, None)
