"""A small archive in memory, networks with dropout, and the settings of a run that takes a second."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alan.active.settings import ActiveLoop, PoolData
from alan.data.preprocessing import Preprocessing
from alan.data.readers.base import EchoDataset
from alan.data.sample import Record, Sample
from alan.data.store.writer import prepare
from alan.supervised.settings import NetworkSpec, TrainingSettings

SIZE = 32
SMALL = NetworkSpec("unet_acdc", None, decoder_channels=(4, 8), dropout=0.3, dropout_at="decoder")


class Discs(EchoDataset):
    """Two frames per patient: a dark disc (lv) on a grey field. The last frame of a sequence has no mask."""

    name = "Discs"
    structures = ("lv", "myo")

    def __init__(self, root, splits, patients=None):
        super().__init__(root, "nothing")
        patients = patients or [f"p{i}" for i in range(len(splits))]
        self.leaks = "on purpose" if len(set(patients)) < len(patients) else ""
        pairs = enumerate(zip(splits, patients, strict=True))
        records = [Record(f"s{i}", patient, split, "A4C") for i, (split, patient) in pairs]
        self._set_records(records, [[] for _ in records], {"splits": splits})

    def _load(self, index):
        rng = np.random.default_rng(index)
        y, x = np.indices((SIZE, SIZE))
        frames, lv, myo = [], [], []
        for _ in range(3):
            radius = np.hypot(y - rng.uniform(10, 20), x - rng.uniform(10, 20))
            lv.append(radius < 6)
            myo.append((radius >= 6) & (radius < 9))
            grey = 110 + 10 * rng.standard_normal((SIZE, SIZE)) - 80 * lv[-1] + 60 * myo[-1]
            frames.append(grey.clip(2, 255).astype(np.uint8))
        masks = {"lv": np.stack(lv[:2]), "myo": np.stack(myo[:2])}
        return Sample(self.records[index], np.stack(frames), None, masks, np.arange(2), ed=0, es=1)


@pytest.fixture(scope="session")
def discs(tmp_path_factory):
    """``discs.store``: 8 patients of the pool, 3 val, 2 test; ``make`` prepares another; settings by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("active")

    def make(name, splits, patients=None):
        root = folder / name
        root.mkdir()
        out = folder / f"{name}.h5"
        data = Discs(root, splits, patients)
        prepare(data, out, Preprocessing(SIZE), "all", workers=0, progress=False)
        return str(out)

    store = make("plain", ["train"] * 8 + ["val"] * 3 + ["test"] * 2)
    loop = {"functions": ("random", "mfe", "std"), "initial": 3, "per_phase": 3, "phases": 3, "passes": 3}
    training = {"network": SMALL, "losses": {"bce": 1.0}, "lr": 1e-2, "steps": 2, "batch_size": 2}

    yield SimpleNamespace(
        make=make,
        store=store,
        data=lambda **options: PoolData(**{"store": store, **options}),
        loop=lambda **options: ActiveLoop(**{**loop, **options}),
        training=lambda **options: TrainingSettings(**{**training, "accelerator": "cpu", **options}),
        plain=asdict,
    )
    torch.set_num_threads(threads)
