"""A small archive whose anatomy a tiny untrained network can segment, and locked models for it."""

import numpy as np
import pytest
import torch

from alan.backbone.checkpoint import export_backbone
from alan.backbone.load import load_backbone, random_backbone
from alan.backbone.vit import VitSpec
from alan.data.preprocessing import Preprocessing
from alan.data.readers.base import EchoDataset
from alan.data.sample import Record, Sample
from alan.data.store.writer import prepare
from alan.parcels.kmeans import fit_kmeans
from alan.parcels.model import save_parcels

HEIGHT, WIDTH = 52, 44


class Ellipses(EchoDataset):
    """A bright field with a dark ventricle (smaller at ES) above a grey atrium; two frames per patient."""

    name = "Ellipses"
    structures = ("lv", "la")

    def __init__(self, root, splits, leaks=""):
        super().__init__(root, "nothing")
        self.leaks = leaks
        records = [
            Record(f"p{number}_{split}{view}", f"p{number}", split, view, f"s{number}")
            for number, (split, view) in enumerate(splits)
        ]
        if leaks:
            records = [Record(r.id, "everyone", r.split, r.view, "s0") for r in records]
        self._set_records(records, [[] for _ in records], {})

    def _load(self, index):
        record, rng = self.records[index], np.random.default_rng(index)
        rows, columns = np.mgrid[:HEIGHT, :WIDTH]
        x = columns - WIDTH / 2 - rng.uniform(-2, 2) - (6 if record.view == "A2C" else 0)
        frames = np.full((2, HEIGHT, WIDTH), 190.0)
        lv, la = np.zeros((2, *x.shape), bool), np.zeros((2, *x.shape), bool)
        for frame, size in enumerate((1.0, 0.8)):
            lv[frame] = (x / (9 * size)) ** 2 + ((rows - 18) / (13 * size)) ** 2 <= 1
            la[frame] = ((x / 8) ** 2 + ((rows - 41) / 7) ** 2 <= 1) & ~lv[frame]
            frames[frame][lv[frame]] = 20
            frames[frame][la[frame]] = 100
        frames += rng.normal(0, 6, frames.shape)
        spacing = None if index % 5 == 4 else (0.5, 0.4)
        masks = {"lv": lv, "la": la}
        return Sample(record, frames.clip(0, 255).astype(np.uint8), spacing, masks, np.arange(2), 0, 1)


SPLITS = (
    [("train", "A4C")] * 3 + [("train", "A2C")] * 3 + [("val", "A4C")] * 3 + [("test", "A4C"), ("test", "A2C")] * 3
)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Paths of a store, a leaking store, a backbone and a parcels file."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("lab")
    (folder / "archive").mkdir()
    prepare(
        Ellipses(folder / "archive", SPLITS), folder / "store.h5", Preprocessing(32), workers=1, progress=False
    )
    leaking = Ellipses(folder / "archive", SPLITS, leaks="Made by image: patients are in both splits.")
    prepare(leaking, folder / "leaking.h5", Preprocessing(32), workers=1, progress=False)
    spec = VitSpec(image_size=32, patch_size=4, in_chans=1, dim=24, depth=1, heads=2, initialisation="xavier")
    raw = random_backbone(spec, seed=1)
    export_backbone(raw.network, spec, folder / "backbone.safetensors")
    backbone = load_backbone(folder / "backbone.safetensors")
    frames = np.stack([Ellipses(folder / "archive", SPLITS)[i].frames[0, :32, :32] for i in range(6)])
    model = fit_kmeans(backbone, frames, 12, source=str(folder / "backbone.safetensors"))
    save_parcels(model, folder / "parcels.safetensors")
    return folder
