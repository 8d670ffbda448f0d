"""Cost of the inference of a network: parameters, time and memory."""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alan.supervised.ensemble import Member
from alan.supervised.timing import time_call


@dataclass(frozen=True)
class Cost:
    """Cost of inference.

    Attributes:
        parameters: Number of weights, of an ensemble in all of its members.
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
