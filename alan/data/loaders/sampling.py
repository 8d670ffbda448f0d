"""A sampler whose order depends on (seed, epoch) alone, and a loader that resumes within an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from alan.bounds import NonNegativeInt, PositiveInt, Seed, bounded
from alan.errors import ParameterError


class EpochSampler(DistributedSampler[Any]):
    """Random order that depends on (seed, epoch) alone, shared among the ranks.

    The index of an item is ``epoch * len(dataset) + item``: a worker process thus receives the epoch with every
    item and can draw random numbers from (seed, epoch, item) however long it lives.

    Ranks take whole batches in turn: what N ranks see in a step, one process sees in N accumulated batches.
    Rank and world size come from ``torch.distributed``. Every rank gets the same number of items and no
    item twice: the ``len(dataset) % world`` items at the end of an epoch's order are skipped in this epoch.
    Lightning keeps a subclass of ``DistributedSampler``, so DDP needs no setting of the trainer.

    Args:
        dataset: A dataset with a length.
        seed: Seed of the order, 0 or more.
        batch_size: Samples per batch and rank.

    Attributes:
        skip: Number of items at the start of this rank's part that the next iteration skips.
    """

    def __init__(self, dataset: Dataset[Any], seed: int, batch_size: int = 1) -> None:
        ready = distributed.is_available() and distributed.is_initialized()
        super().__init__(
            dataset,
            num_replicas=distributed.get_world_size() if ready else 1,
            rank=distributed.get_rank() if ready else 0,
            seed=seed,
            drop_last=True,
        )
        self.skip = 0
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of this rank in this epoch, without the skipped ones."""
        n = len(self.dataset)  # type: ignore[arg-type]
        order = np.random.default_rng([self.seed, self.epoch]).permutation(n)[: self.total_size]
        size = self.batch_size * self.num_replicas
        whole = len(order) // size * size
        own = order[:whole].reshape(-1, self.num_replicas, self.batch_size)[:, self.rank].ravel()
        rest = order[whole:].reshape(self.num_replicas, -1)[self.rank]  # for the last, smaller batches
        return iter((self.epoch * n + np.concatenate([own, rest])[self.skip :]).tolist())


class ResumableLoader(DataLoader[Any]):
    """A loader over an :class:`EpochSampler` that resumes within an epoch, after the last batch it yielded.

    Lightning calls ``state_dict`` and ``load_state_dict`` and keeps the state in its checkpoints. The order is
    drawn at the first batch, not when the iterator is created, because Lightning creates the iterator before it
    sets the epoch. Batches that workers have prefetched do not count as yielded. The global random generators are
    not used.

    Build it with :func:`resumable_loader`.
    """

    _place: tuple[int, int] = (0, 0)
    _resume = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of the epoch, or the remaining ones after a state of that epoch was loaded."""
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
        """Return the position (epoch, batches of all processes) and the settings of the order."""
        return {"epoch": self._place[0], "batches": self._place[1] * self._processes, **self._order()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a position; the next iteration continues from it.

        Raises:
            ParameterError: Seed, data or batch size have changed, so the order differs, or the processes cannot
                share the batches evenly.
        """
        changed = [
            f"{name} {state_dict.get(name)!r}, now {value!r}"
            for name, value in self._order().items()
            if state_dict.get(name) != value
        ]
        if changed:
            raise ParameterError(
                f"cannot resume within an epoch: the checkpoint was made with {'; '.join(changed)}; "
                "use the same values, or start a new run from its weights"
            )
        batches, rest = divmod(int(state_dict["batches"]), self._processes)
        if rest:
            raise ParameterError(
                f"cannot resume within an epoch: {self._processes} processes cannot share the "
                f"{state_dict['batches']} batches that were seen; use fewer processes"
            )
        self._place = (int(state_dict["epoch"]), batches)
        self._resume = True
        if isinstance(self.sampler, EpochSampler):
            self.sampler.set_epoch(self._place[0])

    @property
    def _processes(self) -> int:
        return getattr(self.sampler, "num_replicas", 1)

    def _order(self) -> dict[str, Any]:
        return {
            "seed": getattr(self.sampler, "seed", None),
            "batch_size": self.batch_size,
            "samples": len(self.dataset),  # type: ignore[arg-type]
            "data": getattr(self.dataset, "fingerprint", ""),
        }


@bounded
def resumable_loader(
    dataset: Dataset[Any], batch_size: PositiveInt, *, seed: Seed, drop_last: bool, num_workers: NonNegativeInt
) -> ResumableLoader:
    """Build a loader whose order depends on (seed, epoch) alone and that resumes exactly.

    Args:
        dataset: A dataset that reads a batch at once: ``__getitems__(indices)`` returns the batch, where an index
            is ``epoch * len(dataset) + item``.
        batch_size: Samples per batch and process.
        seed: Seed of the order.
        drop_last: Drop the last batch of an epoch if it is not full.
        num_workers: Worker processes; 0 reads in the main process.

    Raises:
        ParameterError: A value is out of range, or there are too few samples for one batch.
    """
    sampler = EpochSampler(dataset, seed, batch_size)
    if sampler.num_samples < (batch_size if drop_last else 1):
        raise ParameterError(
            f"batch_size is {batch_size} on {sampler.num_replicas} process(es), but there are only "
            f"{len(dataset)} samples: lower batch_size"  # type: ignore[arg-type]
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
    """Return a batch as it is: the dataset has read it as a whole."""
    return batch
