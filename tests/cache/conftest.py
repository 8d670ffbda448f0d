"""A small frame store, a small backbone and parcels on disk, and the expected content of their cache."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alan.backbone.checkpoint import export_backbone
from alan.backbone.load import load_backbone, random_backbone
from alan.backbone.vit import VitSpec
from alan.cache.layout import CacheManifest
from alan.data.preprocessing import Preprocessing
from alan.data.readers.base import EchoDataset
from alan.data.sample import Record, Sample
from alan.data.store.reader import FrameStore
from alan.data.store.writer import prepare
from alan.parcels.heads import RaptorHead
from alan.parcels.model import ParcelModel, load_parcels, save_parcels

torch.set_num_threads(1)


class Noise(EchoDataset):
    """Six sequences of noise with dark borders; ED is frame 0, ES is annotated too, but for the last sequence."""

    name = "Noise"
    structures = ("lv",)
    lengths = (5, 4, 7, 6, 3, 5)

    def __init__(self, root, seed=0):
        super().__init__(root, "nothing")
        self.seed = seed
        views, splits = ("A4C", "A2C"), ("train", "train", "train", "train", "val", "test")
        records = [Record(f"s{i}", f"p{i}", splits[i], views[i % 2]) for i in range(len(self.lengths))]
        self._set_records(records, [[] for _ in records], {"seed": seed})

    def _load(self, index):
        rng = np.random.default_rng([self.seed, index])
        frames = np.zeros((self.lengths[index], 16, 16), np.uint8)
        frames[:, 2:14, 4:14] = rng.integers(1, 256, (self.lengths[index], 12, 10))
        if index == 5:
            return Sample(self.records[index], frames)
        where = np.array([0, 2])
        masks = {"lv": np.ones((2, 16, 16), bool)}
        return Sample(self.records[index], frames, None, masks, where, ed=0, es=2)


def write_store(folder, name="frames.h5", seed=0):
    (folder / "archive").mkdir(exist_ok=True)
    prepare(Noise(folder / "archive", seed), folder / name, Preprocessing(16), workers=0, progress=False)
    return folder / name


def write_backbone(path, seed=0):
    spec = VitSpec(image_size=16, patch_size=4, dim=12, depth=1, heads=2, normalisation="sector")
    export_backbone(random_backbone(spec, seed).network, spec, path)
    return path


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """Paths ``store``, ``backbone``, ``parcels``; the features of every frame in ``expected``."""
    folder = tmp_path_factory.mktemp("inputs")
    store, weights = write_store(folder), write_backbone(folder / "vit.safetensors")
    backbone = load_backbone(weights)
    head = RaptorHead(12, 5, generator=torch.Generator().manual_seed(0))
    model = ParcelModel(backbone, head, sector_only=True, source=str(weights))
    save_parcels(model, folder / "parcels.safetensors")
    frames = torch.from_numpy(FrameStore(store).frames(np.arange(30)))
    cls, tokens = backbone(frames)
    expected = {
        "cls": cls.numpy(),
        "tokens": tokens.half().numpy(),
        "sector": backbone.sector(frames).numpy(),
        "logits": model.logits(frames).half().numpy(),
        "maps": model.maps(frames).numpy(),
    }
    return SimpleNamespace(
        store=str(store),
        backbone=str(weights),
        parcels=str(folder / "parcels.safetensors"),
        expected=expected,
        models=(backbone, load_parcels(folder / "parcels.safetensors", backbone), FrameStore(store)),
        other_store=str(write_store(folder, "other.h5", seed=1)),
        other_backbone=str(write_backbone(folder / "other.safetensors", seed=1)),
    )


@pytest.fixture
def manifest():
    return CacheManifest("b" * 64, "", "c" * 64, "d" * 64, ("cls", "tokens"), {"frames": "all", "split": None})


@pytest.fixture(scope="session")
def options():
    """What the trainer needs to run quietly on a CPU."""
    return {"accelerator": "cpu", "devices": 1}
