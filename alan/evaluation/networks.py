"""Networks taught by labels, beside the white boxes: their masks, where they come from, what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from alan.data.store.reader import FrameStore
from alan.data.structures import parts
from alan.downstream.members import Network, load_network
from alan.errors import ParameterError, SplitLeakError
from alan.evaluation.costs import Cost, measure_cost
from alan.evaluation.maps import kept_maps
from alan.evaluation.splits import check_disjoint
from alan.supervised.ensemble import EnsembleSegmenter, Member
from alan.supervised.segmenter import to_labels


class Supervised(NamedTuple):
    """A network with its label maps of the test frames.

    Attributes:
        name: as shown.
        kind: ``network`` or ``ensemble``.
        network: the locked network.
        origin: what is known of the frames it learnt from, in words.
        labels: (m, S, S) uint8, 0 background, i + 1 for ``network.structures[i]``.
        cost: of its inference.
    """

    name: str
    kind: str
    network: Network
    origin: str
    labels: NDArray[np.uint8]
    cost: Cost


def load_networks(
    networks: Mapping[str, str], structures: Sequence[str], store: FrameStore, test: pd.DataFrame, test_split: str
) -> dict[str, tuple[Network, str]]:
    """Load networks and refuse, before the long work, what cannot be measured.

    Args:
        networks: name to file.
        structures: structures of the protocol.
        store: the frame store.
        test: rows of the test side.
        test_split: its name.

    Returns:
        Name to the network and what is known of the frames it learnt from.

    Raises:
        CheckpointError: a file that cannot be read.
        ParameterError: a network that segments none of the structures.
        SplitLeakError: a network, a member of one, or the weights of an ensemble learnt from test patients.
    """
    found = {}
    for name, path in networks.items():
        network = load_network(path)
        if not any(values_of(network.structures, structure) for structure in structures):
            raise ParameterError(
                f"network {name!r} segments {', '.join(network.structures)}, the protocol asks for "
                f"{', '.join(structures)}: give a network that segments one of them"
            )
        found[name] = (network, _origin(name, network, store, test, test_split))
    return found


def run_networks(
    networks: Mapping[str, tuple[Network, str]],
    store: FrameStore,
    frames: NDArray[np.int64],
    folder: Path,
    *,
    batch_size: int,
) -> list[Supervised]:
    """Predict the test frames with every network, or read what an earlier run kept, and measure the cost.

    Args:
        networks: as :func:`load_networks` gives them.
        store: the frame store.
        frames: (m,) global indices of the test frames.
        folder: where label maps are kept.
        batch_size: frames at a time.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for number, (name, (network, origin)) in enumerate(networks.items()):
        network.to(device)

        def predict(batch: torch.Tensor, network: Network = network) -> NDArray[np.uint8]:
            return to_labels(network.probabilities(batch.to(device))).cpu().numpy().astype(np.uint8)

        labels = kept_maps(
            predict,
            network.fingerprint,
            store,
            frames,
            folder / f"network{number}.npz",
            batch_size=batch_size,
            title=f"network: {name}",
        )
        cost = measure_cost(network, store.frames(frames[:batch_size]), batch_size=batch_size)
        kind = "ensemble" if isinstance(network, EnsembleSegmenter) else "network"
        found.append(Supervised(name, kind, network, origin, labels, cost))
    return found


def values_of(structures: Sequence[str], wanted: str) -> list[int]:
    """Labels of a network whose union is a structure.

    Args:
        structures: what the network tells apart; its labels are 1, 2, ...
        wanted: a name or a union of names.

    Returns:
        The labels; empty where the network does not segment exactly this structure.
    """
    names = set(parts(wanted))
    inside = [value for value, structure in enumerate(structures, 1) if set(parts(structure)) <= names]
    covered = {name for value in inside for name in parts(structures[value - 1])}
    return inside if covered == names else []


def describe_networks(networks: Sequence[Supervised], structures: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each network: ``method``, ``kind``, ``fingerprint``, ``origin``, ``missing`` and ``cost``."""
    return [
        {
            "method": one.name,
            "kind": one.kind,
            "fingerprint": one.network.fingerprint,
            "origin": one.origin,
            "missing": [s for s in structures if not values_of(one.network.structures, s)],
            "cost": one.cost.to_dict(),
        }
        for one in networks
    ]


def _origin(name: str, network: Member, store: FrameStore, test: pd.DataFrame, test_split: str) -> str:
    """Check where a network comes from; in words."""
    known: dict[str, Any] = getattr(network, "provenance", {})
    if isinstance(network, EnsembleSegmenter):
        origins = {
            _origin(f"{name}: {member_name}", member, store, test, test_split)
            for member_name, member in network.members.items()
        }
        if "validation" not in known:
            return "its members: " + "; ".join(sorted(origins))
    stores, sides = known.get("stores"), [known.get("train_split"), known.get("val_split")]
    if not stores:
        return "not recorded: whether it saw test patients cannot be checked"
    if store.fingerprint not in stores:
        return "another store: whether it holds test patients cannot be checked"
    pairs = list(zip(test["patient"], test["study"], strict=True))
    named = [side for side in sides if side]
    if test_split in named:
        raise SplitLeakError(
            f"network {name!r} learnt from split {test_split!r} of this store, which is measured here: "
            "train it on other patients, or measure another split"
        )
    for side in named:
        seen = sorted({(s.patient, s.study) for s in store.select(split=side)})
        check_disjoint({f"{side} (network {name!r})": seen, f"{test_split} (test)": pairs})
    what = "weights searched on this store, " if isinstance(network, EnsembleSegmenter) else "this store, "
    return what + (" and ".join(named) or "side not recorded")
