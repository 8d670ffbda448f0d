"""An order of samples that is a function of (seed, epoch), and a loader that knows its place in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from alan.errors import ParameterError


class EpochSampler(DistributedSampler[Any]):
    """A random order out of (seed, epoch) alone, dealt out to the ranks.

    The index of an item is ``epoch * len(dataset) + item``: a worker process thus learns the epoch with every
    item, and can draw what is random in it from (seed, epoch, item) however long it lives.

    Rank and world size come from ``torch.distributed``. Every rank gets the same number of items, none of them
    twice: the ``len(dataset) % world`` items at the end of an epoch's order are left for other epochs. Lightning
    leaves a subclass of ``DistributedSampler`` in place, so that DDP needs no setting of the trainer.

    Args:
        dataset: anything with a length.
        seed: 0 or more.

    Attributes:
        skip: items at the start of this rank's part that the next iteration leaves out.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        ready = distributed.is_available() and distributed.is_initialized()
        super().__init__(
            dataset,
            num_replicas=distributed.get_world_size() if ready else 1,
            rank=distributed.get_rank() if ready else 0,
            seed=seed,
            drop_last=True,
        )
        self.skip = 0

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank in this epoch, without the skipped ones."""
        n = len(self.dataset)  # type: ignore[arg-type]
        order = np.random.default_rng([self.seed, self.epoch]).permutation(n)[: self.total_size]
        return iter((self.epoch * n + order[self.rank :: self.num_replicas][self.skip :]).tolist())


class ResumableLoader(DataLoader[Any]):
    """A loader over an :class:`EpochSampler` that goes on in mid-epoch, after the last batch it has handed out.

    Lightning finds ``state_dict`` and ``load_state_dict``, and keeps the state in its checkpoints. The order is
    made on the first batch, not when the iterator is asked for: Lightning asks before it says which epoch it is.
    Batches that workers have read ahead do not count as handed out. The global random generators are left alone.

    Build it with :func:`resumable_loader`.
    """

    _place: tuple[int, int] = (0, 0)
    _resume = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches of the sampler's epoch: the remaining ones if a state of that epoch was just loaded."""
        sampler = self.sampler
        if not isinstance(sampler, EpochSampler):  # Lightning's overfit_batches takes the samples in order
            yield from super().__iter__()
            return
        epoch, batches = self._place
        done = batches if self._resume and epoch == sampler.epoch else 0
        self._resume = False
        self._place = (sampler.epoch, done)
        sampler.skip = done * (self.batch_size or 1)
        for batch in super().__iter__():
            done += 1
            self._place = (self._place[0], done)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The place: epoch, batches handed out in it, and what the order depends on."""
        return {"epoch": self._place[0], "batches": self._place[1], **self._order()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take a place; the next iteration goes on from there.

        Raises:
            ParameterError: the order depended on other values (seed, data, batch size, processes) than now.
        """
        changed = [
            f"{name} {state_dict.get(name)!r}, now {value!r}"
            for name, value in self._order().items()
            if state_dict.get(name) != value
        ]
        if changed:
            raise ParameterError(
                f"cannot resume in mid-epoch: the checkpoint was made with {'; '.join(changed)}; "
                "use the same values, or start a new run from its weights"
            )
        self._place = (int(state_dict["epoch"]), int(state_dict["batches"]))
        self._resume = True
        if isinstance(self.sampler, EpochSampler):
            self.sampler.set_epoch(self._place[0])

    def _order(self) -> dict[str, Any]:
        sampler = self.sampler
        return {
            "seed": getattr(sampler, "seed", None),
            "processes": getattr(sampler, "num_replicas", None),
            "batch_size": self.batch_size,
            "samples": len(self.dataset),  # type: ignore[arg-type]
            "data": getattr(self.dataset, "fingerprint", ""),
        }


def resumable_loader(
    dataset: Dataset[Any], batch_size: int, *, seed: int, drop_last: bool, num_workers: int
) -> ResumableLoader:
    """A loader whose order depends on (seed, epoch) alone and that resumes exactly.

    Args:
        dataset: reads a batch at once: ``__getitems__(indices)`` gives the batch, where an index is
            ``epoch * len(dataset) + item``.
        batch_size: samples a batch and process, 1 or more.
        seed: of the order, 0 or more.
        drop_last: leave out the last batch of an epoch if it is not full.
        num_workers: processes that read; 0 reads in this one.

    Raises:
        ParameterError: a value out of range, or not one batch can be made.
    """
    for name, value, bound in (("batch_size", batch_size, 1), ("seed", seed, 0), ("num_workers", num_workers, 0)):
        if value < bound:
            raise ParameterError(f"{name}={value}: must be {bound} or more")
    sampler = EpochSampler(dataset, seed)
    if sampler.num_samples < (batch_size if drop_last else 1):
        raise ParameterError(
            f"batch_size={batch_size} on {sampler.num_replicas} process(es), but there are only "
            f"{len(dataset)} samples: not one full batch; lower batch_size"  # type: ignore[arg-type]
        )
    return ResumableLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        collate_fn=whole,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        generator=torch.Generator(),  # the workers' seeds come from here, not from the global generator
    )


def whole(batch: Any) -> Any:
    """Collation of a batch that was read as a whole: none."""
    return batch
