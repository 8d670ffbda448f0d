"""Tiny archives, stores and models, created once per session, and the command line for tests."""

import gc
import itertools
import os
import random
import re
import signal
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import settings
from matplotlib.figure import Figure

from alan.backbone.checkpoint import export_backbone
from alan.backbone.load import load_backbone, random_backbone
from alan.backbone.vit import VitSpec
from alan.cli.main import main
from alan.data.preprocessing import Preprocessing
from alan.data.readers.registry import open_dataset
from alan.data.simulator.archive import simulate_archive
from alan.data.store.reader import FrameStore
from alan.data.store.writer import prepare
from alan.downstream.whitebox.segmenter import ParcelSegmenter
from alan.downstream.whitebox.selection import ParcelSelector
from alan.parcels.heads import RaptorHead
from alan.parcels.model import ParcelModel, load_parcels, save_parcels

from .discs import discs  # noqa: F401 (a fixture)

os.environ["ALAN_PSEUDONYM_SECRET"] = "tests"  # so that no test writes to the home of its user
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets jobs in the background ignore it

#: Frames per clip: RAPTOR's shipped configs ask for runs of 16 of EchoNet-Dynamic.
N_FRAMES = {"camus": 4, "echonet": 16, "tmed": 1}
#: Files that take longest. They begin first, so that no process is left alone with one at the end.
LONG = ("test_docs.py", "test_configs.py", "test_demo.py", "test_end_to_end.py", "test_processes.py")


def pytest_collection_modifyitems(items):
    """Put the longest files first; ``--no-loadscope-reorder`` keeps the order."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_collection_finish():
    """Keep thousands of collected tests out of every garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed the global generators before the fixtures of each test: no result depends on chance or order."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the generator that libraries use)
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    """Seed them again: whether a shared fixture was created for this test must not matter either."""
    pytest_runtest_setup()


def write_slices(root):
    """ACDC as HDF5 slices: eight patients, ED and ES, a ring (2) around a disc (3) beside a smaller one (1)."""
    root.mkdir()
    sizes = [f"patient{patient:03d}_frame01,1.5,1.5" for patient in range(1, 9)]
    (root / "spacing.csv").write_text("\n".join(["volume,spacing_x,spacing_y", *sizes]), encoding="utf-8")
    y, x = np.indices((40, 40))
    for patient, frame in itertools.product(range(1, 9), (1, 2)):
        radius = np.hypot(y - 20, x - 24)
        label = np.select([radius < 6 - frame, radius < 10, np.hypot(y - 20, x - 8) < 6], [3, 2, 1], 0)
        with h5py.File(root / f"patient{patient:03d}_frame{frame:02d}_slice_1.h5", "w") as file:
            file["label"] = label.astype(np.uint8)
            file["image"] = (label / 3 + np.random.default_rng(patient).random(label.shape)) / 2


class Tiny:
    """Simulated archives of eight patients (4 train, 2 val, 2 test), their stores, and untrained models.

    All of it is made on first use and must not be written to.
    """

    spec = VitSpec(image_size=32, patch_size=8, in_chans=1, dim=16, depth=1, heads=2, normalisation="sector")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # a cache for each instance
        self.archive = cache(self._archive)
        self.store = cache(self._store)
        self.backbone = cache(self._backbone)
        self.parcels = cache(self._parcels)
        self.white_box = cache(self._white_box)

    def _archive(self, layout: str, seed: int = 0) -> str:
        root = self.folder / f"{layout}{seed or ''}"
        if layout == "acdc":
            write_slices(root)
            return str(root)
        simulate_archive(
            root,
            layout,
            8,
            n_frames=N_FRAMES[layout],
            size=64,
            split=(0.5, 0.25, 0.25),
            seed=seed,
            progress=False,
        )
        return str(root)

    def _store(self, layout: str, seed: int = 0, size: int = 112) -> str:
        out = self.folder / f"{layout}{seed or ''}{'' if size == 112 else f'-{size}'}.h5"
        split = {"split": {"train": "1-4", "val": "5-6", "test": "7-8"}} if layout == "acdc" else {}
        archive = open_dataset(layout, self.archive(layout, seed), **split)
        prepare(archive, out, Preprocessing(size), workers=0, progress=False)
        return str(out)

    def _backbone(self, seed: int = 0) -> str:
        path = self.folder / f"backbone{seed}.safetensors"
        export_backbone(random_backbone(self.spec, seed).network, self.spec, path)
        return str(path)

    def _parcels(self) -> str:
        path = self.folder / "parcels.safetensors"
        head = RaptorHead(self.spec.dim, 12, generator=torch.Generator().manual_seed(0))
        source = self.backbone()
        save_parcels(ParcelModel(load_backbone(source), head, sector_only=True, source=source), path)
        return str(path)

    def _white_box(self, structure: str) -> str:
        """A white box that contains all tiny parcels."""
        path, model = self.folder / f"{structure}.json", load_parcels(self.parcels())
        frames = FrameStore(self.store("camus")).frames(range(2))
        maps = model.maps(frames)
        segmenter = ParcelSegmenter(ParcelSelector("greedy", provenance=model.fingerprint)).fit(
            maps, maps < model.n_parcels
        )
        segmenter.to_json(path)
        return str(path)


#: Matplotlib's own method, which ``coarse_figures`` replaces.
SAVE_FIGURE = Figure.savefig


@pytest.fixture(scope="session", autouse=True)
def coarse_figures():
    """Figures are drawn once, with few pixels and without a layout; tests/report looks at real ones."""

    def save(figure, file, **options):
        figure.set_layout_engine("none")
        SAVE_FIGURE(figure, file, **{**options, "dpi": 30, "bbox_inches": None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture(scope="session", autouse=True)
def unsynced_files():
    """Files of tests need not outlive the machine: waiting for the disk takes longer than writing them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def one_thread():
    """Networks of tests are so small that several threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Tiny(tmp_path_factory.mktemp("tiny"))
    torch.set_num_threads(threads)


@pytest.fixture
def alan(capsys):
    """``alan(verb, ...)`` runs the command line: ``code``, ``out``, ``err``, and ``lines`` of standard error.

    Progress bars are no lines: they write over themselves, and what follows a bar that vanishes is one.
    """

    def run(*args):
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        lines = [line.rpartition("\r")[2] for line in err.split("\n")]
        lines = [line for line in lines if line.strip() and not re.search(r"\d+%\|", line)]
        return SimpleNamespace(code=code, out=out, err=err, lines=lines)

    return run


@pytest.fixture
def listing():
    """``listing(folder)``: every path below it, relative."""

    def paths(folder):
        return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))

    return paths
