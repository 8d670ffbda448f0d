"""Networks trained on labels: their masks, training data and cost, and what ensembles gain."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alan.data.store.reader import FrameStore
from alan.data.structures import check_structures, parts
from alan.devices import choose_device
from alan.downstream.members import Network, load_network, with_flips
from alan.errors import ParameterError
from alan.evaluation.intervals import bootstrap_interval
from alan.evaluation.maps import kept_maps
from alan.evaluation.protocols import SegmentationProtocol
from alan.evaluation.results import ALL_STRUCTURES
from alan.evaluation.splits import check_disjoint, check_unseen
from alan.evaluation.summary import compare_methods
from alan.supervised.ensemble import EnsembleSegmenter, Member
from alan.supervised.segmenter import to_labels
from alan.supervised.timing import time_call


@dataclass(frozen=True)
class Cost:
    """Cost of inference.

    Attributes:
        parameters: Number of weights; for an ensemble, those of all members together.
        ms: Milliseconds per frame, the median over the repeats.
        peak_mib: Peak memory (MiB) of the tensors made during inference, without the weights.
        batch_size: Frames per forward pass.
        size: Height and width of the frames in pixels.
        device: ``cpu`` or the name of the accelerator.
        threads: Threads of torch on the CPU.
    """

    parameters: int
    ms: float
    peak_mib: float
    batch_size: int
    size: int
    device: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dictionary."""
        return asdict(self)


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tracks the storage of tensors that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: int = 0
        self.peak: int = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                storage = leaf.untyped_storage()
                if id(storage) not in self._seen:
                    self._seen.add(id(storage))
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._free, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.live)
        return out

    def _free(self, key: int, nbytes: int) -> None:
        self._seen.discard(key)
        self.live -= nbytes


def measure_cost(network: Member, frames: NDArray[np.uint8], *, batch_size: int, repeats: int = 5) -> Cost:
    """Measure the cost of a network on one batch.

    The first run is a warm-up without timing. Memory is measured in a separate run: on the CPU from the tensors
    that operations return (without scratch memory inside an operation), on CUDA from the allocator.

    Args:
        network: A segmenter, soft parcels or an ensemble, on its device.
        frames: (n, S, S) uint8, repeated or cut to one batch.
        batch_size: Frames per forward pass.
        repeats: Number of timed runs.
    """
    batch = torch.from_numpy(np.resize(frames, (batch_size, *frames.shape[1:])))
    parameters = list(network.parameters()) if isinstance(network, nn.Module) else []
    device = parameters[0].device if parameters else torch.device("cpu")
    batch = batch.to(device)
    seconds = time_call(lambda: network.probabilities(batch), device, repeats=repeats, warmup=1).median
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters),
        ms=1000 * seconds / batch_size,
        peak_mib=_peak(network, batch, device) / 2**20,
        batch_size=batch_size,
        size=int(batch.shape[-1]),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


def _peak(network: Member, batch: Tensor, device: torch.device) -> int:
    """Return the peak memory of one run in bytes, above the memory in use before it."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        network.probabilities(batch)
        return int(torch.cuda.max_memory_allocated(device) - before)
    live = _LiveTensors()
    with live:
        network.probabilities(batch)
    return live.peak


class NetworkMaps(NamedTuple):
    """A network with its label maps of the test frames.

    Attributes:
        name: Name in the report.
        kind: ``network`` or ``ensemble``.
        network: The frozen network.
        origin: Description of its training data, as far as it is known.
        labels: (m, S, S) uint8, 0 for background and i + 1 for ``network.structures[i]``.
        cost: Cost of its inference.
    """

    name: str
    kind: str
    network: Network
    origin: str
    labels: NDArray[np.uint8]
    cost: Cost


def load_networks(
    protocol: SegmentationProtocol, store: FrameStore, test: pd.DataFrame
) -> dict[str, tuple[Network, str]]:
    """Load networks, and refuse those that cannot be measured before anything is computed.

    Args:
        protocol: The protocol.
        store: Its frame store.
        test: Rows of the test split.

    Returns:
        Mapping from name to the network and the description of its training data.

    Raises:
        CheckpointError: A file cannot be read.
        ParameterError: A network segments none of the structures.
        SplitLeakError: A network, a member of an ensemble or its weights learned from test patients.
    """
    found = {}
    for name, path in protocol.networks.items():
        network = with_flips(load_network(path)) if protocol.flips else load_network(path)
        if not any(values_of(network.structures, structure) for structure in protocol.structures):
            raise ParameterError(
                f"network {name!r} segments {', '.join(network.structures)}, the protocol needs "
                f"{', '.join(protocol.structures)}: give a network that segments one of them"
            )
        found[name] = (network, _origin(name, network, store, test, protocol.test_split))
    return found


def run_networks(
    networks: Mapping[str, tuple[Network, str]], store: FrameStore, test: pd.DataFrame, folder: Path, size: int
) -> list[NetworkMaps]:
    """Predict the test frames with every network, or read the predictions of an earlier run, and measure the cost.

    Args:
        networks: Result of :func:`load_networks`.
        store: Frame store.
        test: Rows of the test split.
        folder: Folder of the label maps.
        size: Frames per forward pass.
    """
    device, frames = choose_device(), test["frame"].to_numpy()
    found = []
    for number, (name, (network, origin)) in enumerate(networks.items()):
        network.to(device)

        def predict(batch: torch.Tensor, network: Network = network) -> NDArray[np.uint8]:
            return to_labels(network.probabilities(batch.to(device))).cpu().numpy().astype(np.uint8)

        path, title = folder / f"network{number}.npz", f"network: {name}"
        labels = kept_maps(predict, network.fingerprint, store, frames, path, batch_size=size, title=title)
        cost = measure_cost(network, store.frames(frames[:size]), batch_size=size)
        kind = "ensemble" if isinstance(network, EnsembleSegmenter) else "network"
        found.append(NetworkMaps(name, kind, network, origin, labels, cost))
    return found


def values_of(structures: Sequence[str], wanted: str) -> list[int]:
    """Find the labels of a network whose union is a structure.

    Args:
        structures: Structures of the network; their labels are 1, 2, ...
        wanted: Name of a structure, or a union of names.

    Returns:
        The labels; empty if the network does not segment exactly this structure.
    """
    names = set(parts(wanted))
    inside = [value for value, structure in enumerate(structures, 1) if set(parts(structure)) <= names]
    covered = {name for value in inside for name in parts(structures[value - 1])}
    return inside if covered == names else []


def describe_networks(networks: Sequence[NetworkMaps], structures: Sequence[str]) -> list[dict[str, Any]]:
    """Describe each network: ``method``, ``kind``, ``fingerprint``, ``origin``, ``missing`` and ``cost``."""
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
    """Check that a network did not learn from test patients, and describe its training data."""
    known: dict[str, Any] = getattr(network, "provenance", {})
    if isinstance(network, EnsembleSegmenter):
        origins = {
            _origin(f"{name}: {member_name}", member, store, test, test_split)
            for member_name, member in network.members.items()
        }
        if "validation" not in known:
            return "its members: " + "; ".join(sorted(origins))
    stores, splits = known.get("stores"), [known.get("train_split"), known.get("val_split")]
    if not stores:
        return "not recorded, so it may have seen test patients"
    if store.fingerprint not in stores:
        return "another store, which may hold test patients"
    pairs = list(zip(test["patient"], test["study"], strict=True))
    named = [split for split in splits if split]
    check_unseen(known, f"network {name!r}", store, test_split)
    for split in named:
        seen = sorted({(s.patient, s.study) for s in store.select(split=split)})
        check_disjoint({f"{split} (network {name!r})": seen, f"{test_split} (test)": pairs})
    what = "weights searched on this store, " if isinstance(network, EnsembleSegmenter) else "this store, "
    return what + (" and ".join(named) or "split not recorded")


def ensemble_gains(networks: Sequence[NetworkMaps], cases: pd.DataFrame) -> list[dict[str, Any]]:
    """Compute the paired difference of each ensemble to each of its members that is measured too.

    The best member is the one with the best score on the cases on which the weights were searched, so the test
    cases do not decide it; without a search there is none.

    Args:
        networks: Networks of the protocol.
        cases: One row per measured case.

    Returns:
        One dictionary per ensemble: ``method``, ``validation`` (how the weights were found, or None), ``members``
        (``name``, ``method``: its name in the report, or None if it is not measured, ``weight`` as a share,
        ``best``, ``validation`` score or None), and ``gains``: ``member`` (name in the report), ``best``,
        ``structure``, ``phase``, and the intervals ``dice`` and ``iou`` of ensemble minus member.
    """
    reported = {one.network.fingerprint: one.name for one in networks}
    found = []
    for one in networks:
        if not isinstance(one.network, EnsembleSegmenter):
            continue
        validation = one.network.provenance.get("validation") or None
        scores = (validation or {}).get("members", {})
        best = max(scores, key=lambda name: scores[name]) if scores else None
        members = [
            {
                "name": name,
                "method": reported.get(member.fingerprint),
                "weight": share,
                "best": name == best,
                "validation": scores.get(name),
            }
            for (name, member), share in zip(one.network.members.items(), one.network.shares(), strict=True)
        ]
        gains = [
            {"member": member["method"], "best": member["best"], **row}
            for member in members
            if member["method"] is not None
            for row in _differences(cases, one.name, str(member["method"]))
        ]
        found.append({"method": one.name, "validation": validation, "members": members, "gains": gains})
    return found


def _differences(cases: pd.DataFrame, first: str, second: str) -> list[dict[str, Any]]:
    """Compare two methods in Dice and IoU, by structure and phase and over all of them."""
    mine, other = cases[cases["method"] == first], cases[cases["method"] == second]
    parts = list(mine.groupby(["structure", "phase"], sort=False))
    if mine["structure"].nunique() > 1:  # the mean over structures, as the ensemble study reports it
        parts.append(((ALL_STRUCTURES, "ED and ES"), mine))
    return [
        {"structure": structure, "phase": phase, **compare_methods(part, other, ("dice", "iou"))}
        for (structure, phase), part in parts
    ]


def pixel_accuracy(
    networks: Sequence[NetworkMaps], structures: Sequence[str], store: FrameStore, test: pd.DataFrame
) -> list[dict[str, Any]]:
    """Compute the share of pixels with the right class, background included (U-Net study on ACDC, section 6.3).

    Most pixels are background, so the accuracy is high even for a poor segmentation: read it with the Dice scores.

    Args:
        networks: Networks of the protocol.
        structures: Structures of the protocol.
        store: Frame store.
        test: The m rows of the test split.

    Returns:
        ``method``, ``kind`` and the interval ``accuracy`` over patients, for each network that segments all of the
        structures; empty with fewer than two structures. If they overlap, unions such as ``lv+myo`` are left out.
    """
    try:
        check_structures(structures)
    except ParameterError:  # lv and lv+myo overlap: a pixel has no single class
        structures = [name for name in structures if len(parts(name)) == 1]
    if len(structures) < 2:
        return []
    truth = store.label_maps(test["label"].to_numpy(), structures)
    rows = []
    for one in networks:
        values = [values_of(one.network.structures, structure) for structure in structures]
        if all(values):
            share = (_renumber(one.labels, values) == truth).mean((1, 2))
            accuracy = bootstrap_interval(share, test["patient"].to_numpy()).to_dict()
            rows.append({"method": one.name, "kind": one.kind, "accuracy": accuracy})
    return rows


def _renumber(labels: NDArray[np.uint8], values: Sequence[Sequence[int]]) -> NDArray[np.uint8]:
    """Map the labels of a network to those of the protocol; structures that it lacks become background."""
    table = np.zeros(256, np.uint8)
    for label, old in enumerate(values, 1):
        table[list(old)] = label
    return np.asarray(table[labels])
