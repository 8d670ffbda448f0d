"""Reading speed of the frame store: ``python tests/benchmarks/bench_store.py [--frames 8000]``.

The reference is a memory map of the same array in a ``.npy`` file (``numpy.load(mmap_mode="r")``), which has no
format to walk through. Both are read in shuffled batches of 32 frames of 112 px, by hand and through the training
loader with 0 and 2 workers, by turns; the figures are medians. The files are in the page cache.

The last lines compare the processor time of an epoch in which all checksums are verified with one without them:
by reading alone, and with the features of a small transformer. A second epoch of a process verifies nothing.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from alan.backbone.load import random_backbone
from alan.backbone.vit import VitSpec
from alan.data.loaders.modules import FrameDataModule
from alan.data.loaders.sampling import resumable_loader
from alan.data.preprocessing import Preprocessing
from alan.data.readers.base import EchoDataset
from alan.data.sample import Record, Sample
from alan.data.store.reader import FrameStore
from alan.data.store.writer import prepare

LENGTH, SIZE, BATCH = 160, 112, 32


class Noise(EchoDataset):
    """Sequences of noise, 160 frames each."""

    name = "Noise"
    structures = ()

    def __init__(self, root: Path, n: int) -> None:
        super().__init__(root, "nothing")
        self._set_records([Record(f"s{i}", f"p{i}", "train") for i in range(n)], [[]] * n, {})

    def _load(self, index: int) -> Sample:
        frames = np.random.default_rng(index).integers(0, 256, (LENGTH, SIZE, SIZE), np.uint8)
        return Sample(self.records[index], frames)


class Map(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """The reference: the same frames out of a memory map, the same batches."""

    def __init__(self, path: Path) -> None:
        self.array = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.array)

    def __getitems__(self, items: list[int]) -> dict[str, torch.Tensor]:
        index = np.asarray(items) % len(self)
        return {"frames": torch.from_numpy(self.array[index]), "index": torch.from_numpy(index)}


def rate(work: Callable[[], int]) -> float:
    """Frames per second of one call."""
    start = time.perf_counter()
    return work() / (time.perf_counter() - start)


def processor() -> float:
    """Seconds of processor of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _nothing(*_: object, **__: object) -> None:
    """Stand in for the verification."""


def by_hand(read: Callable[[np.ndarray], np.ndarray], order: np.ndarray) -> int:
    """Read all batches of an order; the number of frames."""
    return sum(len(read(order[k : k + BATCH])) for k in range(0, len(order), BATCH))


def through(loader: torch.utils.data.DataLoader) -> int:
    """Read an epoch; the number of frames."""
    return sum(len(batch["frames"]) for batch in loader)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path, plain = Path(folder, "frames.h5"), Path(folder, "frames.npy")
        archive = Noise(Path(folder), args.frames // LENGTH)
        written = rate(lambda: len(prepare(archive, path, Preprocessing(SIZE), workers=0, progress=False)))
        store = FrameStore(path)
        np.save(plain, store.frames(range(len(store))))
        mapped = np.load(plain, mmap_mode="r")
        order = np.random.default_rng(0).permutation(len(store))
        works = {"by hand": (lambda: by_hand(store.frames, order), lambda: by_hand(mapped.__getitem__, order))}
        for workers in (0, 2):
            ours = FrameDataModule([str(path)], batch_size=BATCH, num_workers=workers).train_dataloader()
            reference = resumable_loader(Map(plain), BATCH, seed=0, drop_last=True, num_workers=workers)
            works[f"loader, {workers} workers"] = (
                lambda loader=ours: through(loader),
                lambda loader=reference: through(loader),
            )
        print(f"prepare writes {written:,.0f} frames/s (noise made on the fly, one process)")
        for name, pair in works.items():
            rates = np.array([[rate(work) for work in pair] for _ in range(args.repeats + 1)])[1:]
            ours, reference = np.median(rates, axis=0)
            ratio = np.median(rates[:, 0] / rates[:, 1])
            print(f"{name:18} store {ours:9,.0f} frames/s, memory map {reference:9,.0f}, ratio {ratio:.2f}")
        backbone = random_backbone(
            VitSpec(image_size=SIZE, patch_size=8, in_chans=1, dim=64, depth=2, heads=2), seed=0
        )

        def epoch(kind: str, *, verify: bool) -> float:
            """Seconds of processor, workers included, of an epoch of a store that is opened anew."""
            start = processor()
            with nullcontext() if verify else patch("alan.rows.check_rows", _nothing):
                if kind == "by hand":
                    by_hand(FrameStore(path).frames, order)
                else:
                    workers = 2 if "2 workers" in kind else 0
                    module = FrameDataModule([str(path)], batch_size=BATCH, num_workers=workers)
                    for batch in module.train_dataloader():
                        if "features" in kind:
                            backbone(batch["frames"])
            return processor() - start

        for kind in ("by hand", "loader, 0 workers", "loader, 2 workers", "loader, 0 workers, features"):
            times = np.array([[epoch(kind, verify=v) for v in (True, False)] for _ in range(args.repeats + 1)])[1:]
            print(f"checksums, {kind:28} times {np.median(times[:, 0] / times[:, 1]):.2f}")


if __name__ == "__main__":
    main()
