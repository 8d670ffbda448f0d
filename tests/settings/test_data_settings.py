"""Settings of readers, stores, loaders, augmentation and the simulator."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from alan.cache.run import write_cache
from alan.cache.sequences import TokenSequenceDataModule
from alan.data.augmentation.dense import DenseAugmentation
from alan.data.augmentation.multicrop import MultiCrop
from alan.data.loaders.labelled import LabelledFrameDataModule
from alan.data.loaders.modules import FrameDataModule, SequenceDataModule
from alan.data.loaders.simulated import SimulatedDataModule
from alan.data.preprocessing import Preprocessing
from alan.data.sample import Record, Sample
from alan.data.simulator.acquisition import Physics
from alan.data.simulator.archive import simulate_archive
from alan.data.simulator.screen import simulate_screen
from alan.data.simulator.sequence import simulate_sequence
from alan.data.store.reader import FrameStore

from ..varying import cases, name_of, other, study


def batches(loader, n=3):
    """The first batches of two epochs."""
    found = []
    for epoch in range(2):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        found += [batch for _, batch in zip(range(n), loader, strict=False)]
    return found


@study(
    FrameDataModule,
    split="test",
    views=["A4C"],
    batch_size=3,
    seed=1,
    drop_last=False,
    same={"num_workers": 1},
    base={"batch_size": 5},
)
def single_frames(env, **settings):
    module = FrameDataModule([env.store("camus")], **settings)
    loader = module.train_dataloader()
    return len(loader), batches(loader)


@study(
    SequenceDataModule,
    split="test",
    views=["A4C"],
    n_frames=3,
    period=1,
    batch_size=3,
    seed=1,
    same={"num_workers": 1},
    base={"n_frames": 2, "batch_size": 2},
)
def runs_of_frames(env, **settings):
    return batches(SequenceDataModule([env.store("camus")], **settings).train_dataloader())


@study(
    LabelledFrameDataModule,
    train_split="test",
    val_split="test",
    views=["A4C"],
    phases=("ED",),
    label_patients=2,
    fold=(1, 3),
    batch_size=3,
    seed=1,
    same={"num_workers": 1},
)
def labelled_frames(env, **settings):
    module = LabelledFrameDataModule([env.store("camus")], ["lv", "la"], **settings)
    return batches(module.train_dataloader()), batches(module.val_dataloader())


UNLABELLED = {"unlabelled": "echonet", "unlabelled_batch_size": 2}


@study(
    SimulatedDataModule,
    train_split="test",
    val_split=None,
    views=["A4C"],
    label_patients=2,
    unlabelled="echonet",
    unlabelled_split=other("test", **UNLABELLED),
    unlabelled_views=other(["A2C"], unlabelled="camus"),
    unlabelled_batch_size=other(3, **UNLABELLED),
    unlabelled_changes=other(DenseAugmentation(), **UNLABELLED),
    unlabelled_strengths=other((0.0, 0.5), unlabelled_changes=DenseAugmentation(), **UNLABELLED),
    unlabelled_frames=other(2, **UNLABELLED),
    val_frames=2,
    batch_size=3,
    seed=1,
    same={"num_workers": 1},
    base={"batch_size": 4},
)
def simulated_frames(env, unlabelled=None, **settings):
    stores = unlabelled and [env.store(unlabelled)]
    module = SimulatedDataModule([env.store("camus")], ["lv", "la"], unlabelled=stores, **settings)
    validation = module.val_dataloader()
    return batches(module.train_dataloader()), batches(validation) if validation else []


@pytest.fixture(scope="session")
def cache_file(tiny, tmp_path_factory):
    tiny.settings_data = tmp_path_factory.mktemp("data")
    write_cache(
        tiny.store("camus"),
        tiny.backbone(),
        str(tiny.settings_data / "tokens.h5"),
        features=["tokens"],
        accelerator="cpu",
    )
    return tiny


@study(TokenSequenceDataModule, split="test")
def runs_of_tokens(env, **settings):
    cache = env.settings_data / "tokens.h5"
    module = TokenSequenceDataModule(cache, env.store("camus"), n_frames=2, batch_size=2, **settings)
    return batches(module.train_dataloader())


@study(FrameStore.choose_frames, split="test", views=("A4C",), frames=1)
def chosen(env, **settings):
    return FrameStore(env.store("camus")).choose_frames(**settings)


@study(
    MultiCrop,
    global_size=16,
    local_size=8,
    n_local=1,
    global_scale=(0.2, 0.3),
    local_scale=(0.01, 0.02),
    ratio=(0.1, 0.2),
    flip=0.0,
    jitter=0.0,
    brightness=0.9,
    contrast=0.9,
    blur=(0.0, 0.0, 0.0),
    blur_sigma=(3.0, 4.0),
    solarise=(1.0, 1.0, 1.0),
    gamma=0.5,
    field=0.5,
    noise=0.5,
    base={"global_size": 24, "local_size": 12, "n_local": 2},
)
def crops(env, **settings):
    frames = torch.randint(1, 256, (3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    views = MultiCrop(**settings)(frames, torch.Generator().manual_seed(0), frames > 20)
    return [part for part in (*views.globals, *views.locals) if part is not None]


@study(Preprocessing, size=40, keep_aspect=True, pixel_mm=0.5)
def preprocessing(env, **settings):
    rng = np.random.default_rng(0)
    frames, masks = rng.integers(1, 255, (2, 52, 44)).astype(np.uint8), {"lv": rng.random((2, 52, 44)) > 0.5}
    sample = Sample(Record("a", "p", "train", "A4C"), frames, (0.5, 0.4), masks, np.arange(2), 0, 1)
    changed = Preprocessing(**settings).apply(sample)
    return changed.frames, changed.masks


@study(
    Physics,
    **{field.name: 0.0 for field in fields(Physics)},
)
def physics(env, **settings):
    return simulate_sequence("A4C", 3, n_frames=2, size=64, physics=Physics(**settings)).frames


@study(
    simulate_sequence,
    n_frames=3,
    beats=1.5,
    size=48,
    seed=1,
    systole_only=True,
    labels_outside=True,
    physics=Physics(noise=0.0),
    pose={"rotation": 0.3},
    acquisition={"depth": 170.0},
    base={"n_frames": 4, "size": 64},
)
def simulated_sequence(env, **settings):
    found = simulate_sequence("A4C", 3, **settings)
    return found.frames, found.labels


@study(
    simulate_screen,
    n_frames=3,
    panels=2,
    view="PLAX",
    beats=2.0,
    half_angles=(8.0, 9.0),
    untried={"patient": "another patient, as by the seed"},
    base={"n_frames": 4},
)
def screens(env, **settings):
    return simulate_screen(3, **settings).frames


@study(
    simulate_archive,
    layout="echonet",
    n_patients=4,
    views=("A4C",),
    n_frames=3,
    size=48,
    split=(0.34, 0.33, 0.33),
    first_patient=5,
    seed=1,
    same={"workers": 2, "progress": True},
    base={"layout": "camus", "n_patients": 3, "n_frames": 2, "size": 64},
)
def archive(env, **settings):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = simulate_archive(Path(folder) / "archive", **{"progress": False} | settings)
        return [
            (path.relative_to(root).as_posix(), path.read_bytes())
            for path in sorted(root.rglob("*"))
            if path.is_file()
        ]


@pytest.mark.parametrize(("study", "name"), cases(__name__), ids=name_of)
def test_each_setting_changes_the_result(cache_file, study, name):
    study.check(cache_file, name)
