"""A small archive in memory: a bright disc (lv) in a ring (myo) above a square (la), two frames per patient."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.data.preprocessing import Preprocessing
from alan.data.readers.base import EchoDataset
from alan.data.sample import Record, Sample
from alan.data.store.writer import prepare
from alan.data.structures import n_classes
from alan.seeding import seeded
from alan.supervised.module import SegmentationModule
from alan.supervised.networks import PaddedNetwork
from alan.supervised.segmenter import Segmenter
from alan.supervised.settings import NetworkSpec

SIZE = 32
#: A plain U-Net of three levels: hundredths of a second a step.
SMALL = NetworkSpec(decoder="unet_acdc", encoder=None, decoder_channels=(8, 16, 32))


def untrained_segmenter(spec, structures, normalisation="unit", size=None, seed=0):
    """A segmenter with random weights."""
    with seeded(seed):
        model = PaddedNetwork(spec, n_classes(structures), normalisation)
    return Segmenter(model, spec, structures, size)


def picture(seed, size=SIZE):
    """A frame (size, size) uint8 and its masks."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size))
    cy, cx = rng.uniform(10, 14), rng.uniform(12, 20)
    radius = np.hypot(y - cy, x - cx)
    masks = {"lv": radius < 5, "myo": (radius >= 5) & (radius < 8)}
    masks["la"] = (y > cy + 8) & (y < cy + 14) & (abs(x - cx) < 5)
    grey = 60 + 20 * rng.standard_normal((size, size)) + 120 * masks["myo"] - 40 * masks["lv"] + 60 * masks["la"]
    return grey.clip(2, 255).astype(np.uint8), masks


class Discs(EchoDataset):
    """Patients 0 to 5 on the train split, 6 and 7 val, 8 and 9 test; ED and ES of each."""

    name = "Discs"
    structures = ("lv", "myo", "la")

    def __init__(self, root, splits=None, leaks=""):
        super().__init__(root, "nothing")
        self.leaks = leaks
        splits = splits or ["train"] * 6 + ["val"] * 2 + ["test"] * 2
        records = [Record(f"s{i}", f"p{i % 10}", split, "A4C") for i, split in enumerate(splits)]
        self._set_records(records, [[] for _ in records], {"splits": splits})

    def _load(self, index):
        frames, masks = zip(*(picture([index, t]) for t in range(2)), strict=True)
        stacked = {name: np.stack([m[name] for m in masks]) for name in self.structures}
        return Sample(self.records[index], np.stack(frames), None, stacked, np.arange(2), ed=0, es=1)


@pytest.fixture(scope="session")
def discs(tmp_path_factory):
    """``discs.store`` is the path; ``discs.make(...)`` prepares another one; data, module and trainer by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("discs")

    def make(name, **options):
        root = folder / name
        root.mkdir()
        out = folder / f"{name}.h5"
        prepare(Discs(root, **options), out, Preprocessing(SIZE), "all", workers=0, progress=False)
        return str(out)

    store = make("plain")

    def data(structures=("lv", "myo", "la"), **options):
        return LabelledFrameDataModule([store], list(structures), **{"batch_size": 4, **options})

    def module(structures=("lv", "myo", "la"), **options):
        losses = {"bce": 1.0} if len(structures) == 1 else {"cross_entropy": 1.0}
        options = {"losses": losses, "network": SMALL, "lr": 1e-2, **options}
        return SegmentationModule(structures=list(structures), **options)

    def trainer(**options):
        saves = any(isinstance(callback, ModelCheckpoint) for callback in options.get("callbacks", ()))
        options = {"enable_checkpointing": saves, "logger": False, **options}
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
        return Trainer(**quiet, **options)

    yield SimpleNamespace(store=store, make=make, data=data, module=module, trainer=trainer)
    torch.set_num_threads(threads)
